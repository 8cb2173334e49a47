"""Where a run starts and which epoch it keeps."""

import logging
from pathlib import Path

import pytest
import torch
from tiny import trained_weights

from alerce_early import checkpoints
from alerce_early.errors import InputError
from alerce_early.runs import Run
from alerce_early.steps import train

STILL = ("optim=sgd", "optim.optimizer.lr=0", "trainer.max_epochs=1", "data.batches_per_epoch=1")


def test_a_run_starts_from_the_weights_of_another(quick, finished_run: Run, tmp_path: Path) -> None:
    given = checkpoints.read(finished_run.best)["state_dict"]
    features = "features.names=[fwhm,ndethist]"
    found = trained_weights(quick(*STILL, features, f"init_from={finished_run.path}"), tmp_path / "run")
    assert found.keys() == given.keys() and all(torch.equal(found[name], given[name]) for name in given)
    fresh = trained_weights(quick(*STILL, features), tmp_path / "fresh")
    assert not all(torch.equal(fresh[name], given[name]) for name in given)


def test_what_does_not_fit_is_named_and_stays_fresh(
    quick, finished_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = checkpoints.read(finished_run.best)["state_dict"]
    groups = "data.groups={SN:[SN],rest:[AGN,VS,asteroid,bogus]}"
    with caplog.at_level(logging.INFO, "alerce_early"):
        found = trained_weights(quick(*STILL, groups, f"init_from={finished_run.best}"), tmp_path / "run")
    other = [name for name in found if found[name].shape != given[name].shape]
    assert other and f"fresh ones: {', '.join(other)}" in caplog.text
    assert all(torch.equal(found[name], given[name]) for name in found if name not in other)


def test_weights_of_another_network_are_refused(quick, finished_run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="init_from"):
        train(quick("model=resnet18", f"init_from={finished_run.path}"), tmp_path / "run")
    with pytest.raises(InputError, match="ztf_simulated"):  # those there are
        train(quick("init_from=nothing"), tmp_path / "run")


def test_without_a_monitor_the_last_epoch_is_kept(quick, tmp_path: Path) -> None:
    run = train(
        quick("monitor=null", "trainer.max_epochs=4", "patience=0", "optim.optimizer.lr=0.03"), tmp_path / "run"
    )
    best, last = (checkpoints.read(path)["state_dict"] for path in (run.best, run.last))
    assert run.metrics["best_epoch"] == run.metrics["epochs"] == 4
    assert all(torch.equal(best[name], last[name]) for name in last)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(quick, tmp_path: Path) -> None:
    options = {"a": (), "b": (), "c": ("seed=1",)}
    first, again, other = (trained_weights(quick(*given), tmp_path / name) for name, given in options.items())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
