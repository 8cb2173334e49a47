"""Every runtime against the checkpoint in float32, on any number of rows, in their order."""

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

import alerce_early
from alerce_early import machine
from alerce_early.data.readers.stamps_file import CLASSES
from alerce_early.errors import InputError
from alerce_early.experiments.config import to_plain
from alerce_early.experiments.instantiate import make_task
from alerce_early.serving import export
from alerce_early.serving.deployed import Deployed
from alerce_early.serving.runtimes import BATCH, RUNTIMES
from tests.helpers.tiny import spec

NAMES = ("distnr", "ra", "ndethist")
ALLOWED = {"torch": 0.0}  # the others: mixed precision


@pytest.fixture(scope="module")
def deployed(composed: Callable[..., DictConfig]) -> Deployed:
    """A network of stamps and metadata that nobody trained, sharp enough to tell rows apart."""
    config = composed("model=stamp_classifier", "recipe=joint")
    steps, mean, std = tuple(to_plain(config.recipe.steps)), (5.0, 180.0, 4.0), (3.0, 90.0, 3.0)
    shapes = {"shape": (4, 21, 21), "raw_shape": (3, 63, 63)}
    facts = spec(NAMES, feature_mean=mean, feature_std=std, classes=CLASSES, recipe=steps, **shapes)
    torch.manual_seed(0)
    return Deployed(make_task(config, facts), {"temperature": 2.0, "kept": None})


@pytest.mark.parametrize("name", RUNTIMES)
def test_gives_what_the_checkpoint_gives(name: str, deployed: Deployed) -> None:
    if name == "openvino":
        pytest.importorskip("openvino")
    run = RUNTIMES[name](deployed)
    for n in (1, 2 * BATCH + 3):
        rows = export.edge_cases(deployed, n, seed=1)
        stamps, metadata = rows["stamps"][:n], rows["metadata"][:n]
        with torch.no_grad():
            wanted = deployed.table(torch.from_numpy(stamps), torch.from_numpy(metadata))
        found = run(stamps, metadata)
        assert tuple(found) == deployed.columns
        largest = max(float(np.abs(found[column] - wanted[column].numpy()).max()) for column in deployed.columns)
        assert largest <= ALLOWED.get(name, 0.01)
    assert np.ptp(found["p_SN"]) > 0.05  # else a shuffled batch would pass


@pytest.mark.parametrize("model", ["rotinv", "resnet18", "hits_two_conv"])
def test_mixed_precision_rounds_the_inner_convolutions_alone(model: str, composed: Callable[..., DictConfig]) -> None:
    pytest.importorskip("openvino")
    config = composed(f"model={model}", "recipe=minmax")
    facts = spec(shape=(3, 21, 21), raw_shape=(3, 63, 63), classes=CLASSES, recipe=tuple(to_plain(config.recipe.steps)))
    torch.manual_seed(0)
    net = Deployed(make_task(config, facts))
    inner = [layer.weight for layer in net.to_mixed().task.net.modules() if getattr(layer, "in_channels", 3) != 3]
    others = {weight.dtype for weight in net.to_mixed().task.net.parameters()} - {torch.bfloat16}
    assert {weight.dtype for weight in inner} == {torch.bfloat16} and others == {torch.float32}
    assert all(weight.dtype == torch.float32 for weight in net.task.net.parameters())
    rows = export.edge_cases(net, 2 * BATCH)["stamps"]
    wanted = RUNTIMES["torch"](net)(rows, None)
    for name in ("bfloat16", "openvino"):
        found = RUNTIMES[name](net)(rows, None)
        assert 0 < max(float(np.abs(found[column] - wanted[column]).max()) for column in net.columns) <= 0.01


def test_a_network_that_openvino_cannot_run(composed: Callable[..., DictConfig]) -> None:
    pytest.importorskip("openvino")
    net = Deployed(make_task(composed("model=hits_flipout"), spec(shape=(3, 21, 21), raw_shape=(3, 63, 63))))
    with pytest.raises(InputError, match=r"--runtime openvino cannot run this network .*randn.*; torch can"):
        RUNTIMES["openvino"](net)


@pytest.mark.parametrize(("asked", "count"), (("3", 3), ("4,2", 4), (" 2 ", 2), ("", None), ("0", None), ("x", None)))
def test_threads_are_as_many_as_asked_for(asked: str, count: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert machine.threads() == (count or machine.cores())


def test_mistakes_are_told(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--runtime tensorrt is unknown; there are torch, bfloat16, openvino"):
        alerce_early.load("ztf", runtime="tensorrt")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"openvino.*\[fast\]"):
        RUNTIMES["openvino"](deployed)
