"""Every runtime agrees with the checkpoint in float32, for any number of rows."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

import alerce_early
from alerce_early import machine
from alerce_early.artifacts.run_folder import checkpoint_of
from alerce_early.data.readers.stamps_file import CLASSES
from alerce_early.errors import InputError
from alerce_early.experiments.config import to_plain
from alerce_early.experiments.instantiate import make_task
from alerce_early.serving import export, inputs
from alerce_early.serving.deployed import Deployed
from alerce_early.serving.runtimes import BATCH, MIN_LEAD, RUNTIMES
from alerce_early.training.trainer import choose_precision
from tests.helpers.tiny import spec

NAMES = ("distnr", "ra", "ndethist")
ALLOWED = {"torch": 0.0, "float32": 1e-6}  # all others are in mixed precision


@pytest.fixture(scope="module")
def deployed(composed: Callable[..., DictConfig]) -> Deployed:
    """An untrained network of stamps and metadata whose probabilities differ between rows."""
    config = composed("model=stamp_classifier", "recipe=joint")
    steps, mean, std = tuple(to_plain(config.recipe.steps)), (5.0, 180.0, 4.0), (3.0, 90.0, 3.0)
    shapes = {"shape": (4, 21, 21), "raw_shape": (3, 63, 63)}
    facts = spec(NAMES, feature_mean=mean, feature_std=std, classes=CLASSES, recipe=steps, **shapes)
    torch.manual_seed(0)
    return Deployed(make_task(config, facts), {"temperature": 2.0, "kept": None})


@pytest.mark.parametrize("name", RUNTIMES)
def test_each_runtime_agrees_with_the_checkpoint(name: str, deployed: Deployed) -> None:
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
    assert np.ptp(found["p_SN"]) > 0.05  # otherwise a shuffled batch would pass


def test_mixed_uses_float32_for_rows_whose_class_bfloat16_could_change(deployed: Deployed) -> None:
    rows = export.edge_cases(deployed, 2 * BATCH, seed=1)
    found, quick, exact = (RUNTIMES[name](deployed)(*rows.values()) for name in ("mixed", "bfloat16", "float32"))
    ordered = np.sort([quick[f"p_{name}"] for name in CLASSES], 0)
    close = ordered[-1] - ordered[-2] < MIN_LEAD
    assert 0 < close.sum() < len(close)
    for name in deployed.columns:
        assert np.abs(found[name] - np.where(close, exact[name], quick[name])).max() < 1e-6
        assert np.abs(found[name] - exact[name]).max() > 1e-5  # otherwise all was computed in float32
    predicted, expected = (np.argmax([one[f"p_{name}"] for name in CLASSES], 0) for one in (found, exact))
    assert (predicted == expected).all()


def test_auto_depends_on_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AMX a bundled network is run from its exported file if it has one."""
    monkeypatch.setattr(machine, "CPU_FACTS", facts := tmp_path / "cpuinfo")
    for flags, of_each, precision in (("amx_bf16", "mixed mixed", "bf16-mixed"), ("bf16", "onnx float32", "32-true")):
        facts.write_text(f"flags: avx512_bf16 {flags}")
        assert [alerce_early.load(name).runtime for name in ("ztf_images", "ztf_simulated")] == of_each.split()
        assert choose_precision({"precision": "auto", "accelerator": "cpu"}) == precision
    assert alerce_early.load("ztf_simulated", "ztf_images", runtime="auto").runtime == "float32+onnx"


def test_real_stamps_get_the_classes_of_float32(real_data: Path) -> None:
    net = Deployed.load(checkpoint_of(Path("ztf_simulated")))
    source = inputs.find([real_data / "ztf_first_night.pkl"], net.spec)
    records = next(chunk.records for chunk in source.chunks(256) if chunk.records)
    stamps = np.ascontiguousarray(np.moveaxis(np.asarray(records.images), -1, 1))
    found, exact = (RUNTIMES[name](net)(stamps, None) for name in ("mixed", "torch"))
    predicted, expected = (np.argmax([one[f"p_{name}"] for name in net.classes], 0) for one in (found, exact))
    assert (predicted == expected).all() and len(stamps) > 50
    assert 1e-5 < max(np.abs(found[f"q_{name}"] - exact[f"q_{name}"]).max() for name in net.classes) < 0.01


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


def test_a_network_that_openvino_cannot_convert_is_refused(composed: Callable[..., DictConfig]) -> None:
    pytest.importorskip("openvino")
    net = Deployed(make_task(composed("model=hits_flipout"), spec(shape=(3, 21, 21), raw_shape=(3, 63, 63))))
    with pytest.raises(InputError, match=r"--runtime openvino: .*randn"):
        RUNTIMES["openvino"](net)


@pytest.mark.parametrize(("asked", "count"), (("3", 3), ("4,2", 4), (" 2 ", 2), ("", None), ("0", None), ("x", None)))
def test_omp_num_threads_sets_the_number_of_threads(
    asked: str, count: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert machine.threads() == (count or machine.cores())


def test_an_unknown_runtime_and_a_missing_extra_are_named(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--runtime tensorrt: .*auto, torch, float32, mixed"):
        alerce_early.load("ztf", runtime="tensorrt")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"openvino.*\[fast\]"):
        RUNTIMES["openvino"](deployed)
