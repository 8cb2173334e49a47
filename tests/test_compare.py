"""The table over runs: seeds are joined, choices are told apart, unfinished runs are named."""

import shutil
from pathlib import Path

import pytest

from alerce_early import compare
from alerce_early.errors import InputError
from alerce_early.runs import Run
from alerce_early.train import train


@pytest.fixture(scope="module")
def sweep(composed, stamps_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    for seed in (0, 1):
        for recipe in ("course", "joint"):
            config = composed(
                *("data=alerce", f"data.path={stamps_file}", f"outputs={outputs}", "model=course_cnn"),
                *(f"seed={seed}", f"recipe={recipe}", "trainer.max_epochs=1", "batches_per_epoch=2"),
            )
            train(config, outputs / "runs" / f"{recipe}{seed}")
    return outputs / "runs"


def test_seeds_of_one_config_are_one_row(sweep: Path) -> None:
    finished, unfinished = compare.find([str(sweep)])
    assert len(finished) == 4 and not unfinished
    header, *rows = compare.leaderboard(finished)
    assert len(rows) == 2
    for row, name in zip(rows, ("course", "joint"), strict=True):
        told = dict(zip(header, row, strict=True))
        runs = [Run(sweep / f"{name}{seed}").read_json("metrics.json") for seed in (0, 1)]
        a, b = (run["test"]["values"]["balanced_accuracy"] for run in runs)
        spread = abs(a - b) / 2**0.5  # the sample standard deviation of two numbers
        assert f"balanced accuracy {(a + b) / 2:.3f} +- {spread:.3f}" in told["result here"]
        assert told["n"] == "2" and told["system"] == "course_cnn" and "steps=" in told["apart by"]


def test_a_single_run_has_no_spread(sweep: Path) -> None:
    finished, _ = compare.find([str(sweep / "course0")])
    assert "+-" not in compare.text(compare.leaderboard(finished))


def test_a_run_that_has_not_finished_is_named(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep / "course0", tmp_path / "cut")
    (tmp_path / "cut" / "metrics.json").unlink()
    assert compare.find([str(tmp_path)]) == ([], [tmp_path / "cut"])


def test_a_folder_without_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        compare.find([str(tmp_path)])
