"""Resuming: an interrupted run gives the same result as an uninterrupted one."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alerce_early import files
from alerce_early.artifacts import checkpoints, predictions
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError
from alerce_early.experiments.run import train
from alerce_early.tasks.classify import ClassifyTask
from tests.end_to_end.kills import differences, run_results
from tests.helpers.command import Command, run
from tests.helpers.tiny import TWO_COLUMNS, trained_weights

HARD = (  # everything with a state: dropout, augmentation, momentum, a schedule by steps, early stopping
    *("augment=rotations", "optim=sgd_halving", "optim.schedule.step_size=4"),
    *("trainer.max_epochs=4", "data.batches_per_epoch=2", "optim.optimizer.momentum=0.9"),
)


class FailingTask(ClassifyTask):
    """A task that fails in the middle of the third epoch if a file exists."""

    trap = Path("nowhere")

    def losses(self, z: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.training and self.global_step == 5 and self.trap.exists():  # two steps per epoch
            raise KeyError("fallen")
        return super().losses(z, batch)


@pytest.fixture
def hard(quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    config = quick(*HARD)
    config.model.task._target_ = f"{__name__}.FailingTask"
    monkeypatch.setattr(FailingTask, "trap", tmp_path / "trap")
    return config


AVERAGE = {"ema": {"_target_": "lightning.pytorch.callbacks.EMAWeightAveraging", "update_starting_at_epoch": 1}}


@pytest.mark.parametrize("callbacks", (None, AVERAGE))
def test_an_interrupted_run_ends_bit_identical(
    hard: DictConfig, tmp_path: Path, callbacks: dict[str, Any] | None
) -> None:
    hard.callbacks = callbacks
    train(hard, tmp_path / "clean" / "run")
    FailingTask.trap.touch()
    cut = Run(tmp_path / "cut" / "run")
    with pytest.raises(KeyError, match="fallen"):
        train(hard, cut.path)
    assert cut.cut and not cut.finished and [row["epoch"] for row in cut.history()] == [1, 2]
    FailingTask.trap.unlink()
    moved = Run(tmp_path / "moved" / "run")  # the folder may be moved in between
    shutil.move(cut.path.parent, moved.path.parent)
    train(hard, moved.path)
    assert moved.finished and not moved.cut
    assert differences(run_results(tmp_path / "clean"), run_results(moved.path.parent)) == []
    events = EventAccumulator(str(moved.path)).Reload()
    assert [event.step for event in events.Scalars("val/loss")] == [1, 3, 5, 7]  # no step twice


def test_a_run_that_stopped_early_does_not_train_again(quick, tmp_path: Path) -> None:
    config = quick("trainer.max_epochs=9", "patience=1", "optim.optimizer.lr=1e-9")
    run = train(config, tmp_path / "a" / "run")
    wanted = run_results(run.path.parent)
    assert len(run.history()) < 9
    seconds = run.read_json("metrics.json")["training_seconds"]
    (run.path / "metrics.json").unlink()  # as if killed just before it was written
    run.predictions.unlink()
    assert run.cut
    train(config, run.path)
    assert differences(wanted, run_results(run.path.parent)) == []
    assert run.read_json("metrics.json")["training_seconds"] == seconds


def test_a_different_config_is_refused_with_its_keys(quick, finished_run: Run) -> None:
    run = finished_run
    with pytest.raises(InputError, match=r"another config: data.batch_size 16 there, 8 here; seed 0 there, 3 here\."):
        train(quick(*TWO_COLUMNS, "seed=3", "data.batch_size=8"), run.path)
    before = run.predictions.stat().st_mtime_ns
    train(quick(*TWO_COLUMNS, "name=other", "resume=other"), run.path)  # these cannot change the result
    assert run.predictions.stat().st_mtime_ns == before  # already finished


def test_more_epochs_than_the_schedule_has_are_refused(quick, tmp_path: Path) -> None:
    run = train(quick("optim=one_cycle", "trainer.max_epochs=2"), tmp_path / "run")
    (run.path / "metrics.json").unlink()
    run.config_file.write_text(run.config_file.read_text().replace("max_epochs: 2", "max_epochs: 4"))
    with pytest.raises(InputError, match=r"trainer\.max_epochs=4"):
        train(quick("optim=one_cycle", "trainer.max_epochs=4"), run.path)


def test_a_folder_without_a_checkpoint_starts_again(quick, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.begin(quick("seed=8"))
    (run.path / "checkpoints").mkdir()
    left = run.path / "checkpoints" / ".last.ckpt.partial"
    left.write_bytes(b"half")
    train(quick(), run.path)
    assert run.finished and run.config().seed == 0 and not left.exists()


def test_only_one_process_can_use_a_run_folder(quick, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.alone(), pytest.raises(files.BusyError, match="another process"):
        train(quick(), run.path)
    assert trained_weights(quick(), run.path)


def test_two_runs_started_at_once_get_two_folders(tmp_path: Path) -> None:
    folders = [Run.new(tmp_path / "runs" / "2026-01-01_00-00-00-000000").path for _ in range(3)]
    assert len(set(folders)) == 3 and all(folder.is_dir() for folder in folders)


SMALL = ("model=preliminary_cnn", "data=alerce", "data.batches_per_epoch=2", "data.batch_size=16")
LONG = (*SMALL, "trainer.max_epochs=500", "patience=500")


def test_sigterm_ends_with_one_line_and_the_run_can_be_resumed(stamps_file: Path, tmp_path: Path) -> None:
    process = Command("alerce_early.train", *LONG, f"data.path={stamps_file}", cwd=tmp_path)
    assert any("epoch   2" in line for line in process.lines()), process.stderr
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    (line,) = err.splitlines()
    message = "stopped by SIGTERM; continue with: python -m alerce_early.train resume="
    assert line.startswith(message)
    folder = Path(line.removeprefix(message))
    assert Run(folder).cut

    wrong = Command("alerce_early.train", f"resume={folder}", "data.batch_size=24", cwd=tmp_path)
    _, err = wrong.communicate(timeout=300)
    assert wrong.returncode == 2 and "data.batch_size 16 there, 24 here" in err and f"init_from={folder}" in err

    again = Command("alerce_early.train", f"resume={folder}", "data.batch_size=16", cwd=tmp_path)
    epochs = (line.split()[1] for line in again.lines() if line.startswith("epoch"))
    assert int(next(epochs).split("/")[0]) == len(Run(folder).history())  # the first line is of the next epoch
    again.send_signal(signal.SIGINT)
    _, err = again.communicate(timeout=300)
    assert again.returncode == 128 + signal.SIGINT and err.startswith("stopped by SIGINT") and err.count("\n") == 1
    assert list((tmp_path / "outputs" / "runs").glob("*/*")) == [folder]  # resuming creates no other folder


@pytest.mark.parametrize("name", ("a b", 'it\'s, a="1" \\'))
def test_the_printed_resume_command_works_in_a_shell(name: str, stamps_file: Path, tmp_path: Path) -> None:
    (where := tmp_path / name).mkdir()
    process = Command("alerce_early.train", *LONG, f"data.path={stamps_file}", cwd=where)
    assert any("epoch   2" in line for line in process.lines()), process.stderr
    process.send_signal(signal.SIGTERM)
    line = process.communicate(timeout=300)[1].partition("continue with: ")[2].strip()
    (folder,) = (where / "outputs" / "runs").glob("*/*")
    typed = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], check=True, capture_output=True, text=True)
    python, option, *words = typed.stdout.rstrip("\0").split("\0")
    # an option that contradicts the run is refused at once, and the message names the run
    done = run(*words, "data.batch_size=8", cwd=tmp_path)
    assert (python, option) == ("python", "-m")
    assert done.returncode == 2 and done.stderr.startswith(f"error: {folder}: "), done.stderr


@pytest.mark.slow
def test_randomly_killed_runs_end_identical(tmp_path: Path) -> None:
    forget = "import tempfile; tempfile.tempdir = None"  # so that it follows TMPDIR
    env = os.environ | {"TMPDIR": str(tmp_path)}
    with Command("tests.end_to_end.kills", "train", 1, "prepare", 2, env=env, before=forget) as process:
        assert process.wait() == 0, process.stderr
    results = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    assert [result["equal"] for result in results] == [1, 2], results


def test_the_moving_average_of_the_weights_is_saved_and_evaluated(quick, tmp_path: Path) -> None:
    """It starts from the weights after the first step and, with a decay of 1, does not change."""
    options = ("monitor=null", "optim=adam", "trainer.max_epochs=1")
    mean = train(quick(*options, "ema=1"), tmp_path / "mean")
    one = train(quick(*options, "+trainer.limit_train_batches=1"), tmp_path / "one")
    weights = [checkpoints.read(run.last)["state_dict"] for run in (mean, one)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    assert np.array_equal(*[predictions.read(run.predictions)["p_SN"] for run in (mean, one)])
    free = trained_weights(quick(*options), tmp_path / "free")
    assert any(not torch.equal(weight, free[name]) for name, weight in weights[0].items())
