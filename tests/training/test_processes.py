"""Runs with several processes: same result as with one, a single folder, and any supported launcher."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from alerce_early.artifacts import predictions
from alerce_early.experiments.run import train
from alerce_early.tasks.classify import ClassifyTask
from alerce_early.training import processes
from tests.helpers.command import Command, running

pytestmark = pytest.mark.slow
SHORT = (
    "model=preliminary_cnn",
    "data=alerce",
    "trainer.max_epochs=1",
    "data.batches_per_epoch=3",
    "data.batch_size=17",
)
# no random numbers that differ between processes, and enough digits to compare two runs
EXACT = ("augment=none", "model.net.dropout=0", "trainer.precision=32-true")
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=1")


def nobodys_child() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != processes.PARENT_VARIABLE}


def command(*options: str, before: str = "", second: bool = True, **env: str) -> Command:
    return Command("alerce_early.train", *options, env=nobodys_child() | env, before=before, second=second)


def finished(outputs: Path) -> list[Path]:
    return sorted(file.parent for file in outputs.rglob("metrics.json"))


def assert_every_row_once(folder: Path) -> None:
    rows = predictions.read(folder / "predictions.parquet")["row"]
    result = json.loads((folder / "metrics.json").read_text())
    assert len(set(rows)) == len(rows) == result["test"]["n"] + result["validation"]["n"]


@pytest.fixture(scope="module")
def together(stamps_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a sweep of two jobs run by two processes of torchrun."""
    outputs = tmp_path_factory.mktemp("torchrun")
    run = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "alerce_early.train")
    done = subprocess.run(
        [
            *(sys.executable, "-m", *run, "-m", "seed=0,1", *SHORT, *EXACT, *TWO, "name=both"),
            *(f"data.path={stamps_file}", f"outputs={outputs}"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 jobs, 2 finished") == 1 and done.stdout.count("epoch   1/1") == 2
    return outputs


def test_torchrun_shares_each_job_of_a_sweep(together: Path) -> None:
    folders = finished(together)
    assert len(folders) == 2 == len({folder.name.partition("seed=")[2] for folder in folders})
    for folder in folders:
        assert_every_row_once(folder)


def test_two_processes_train_like_one(together: Path, composed, stamps_file: Path, tmp_path: Path) -> None:
    """The gradient is the mean over the global batch, so neither batch size nor learning rate change with n."""
    both = next(folder for folder in finished(together) if "seed=0" in folder.name)
    one = train(composed(*SHORT, *EXACT, f"data.path={stamps_file}", f"outputs={tmp_path}"), tmp_path / "run").path

    def weights(folder: Path) -> dict[str, torch.Tensor]:
        return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]

    for name, value in weights(one).items():
        assert torch.allclose(value, weights(both)[name], atol=1e-5), name
    first, second = (predictions.read(folder / "predictions.parquet") for folder in (one, both))
    assert (first["id"] == second["id"]).all() and (first["predicted"] == second["predicted"]).all()
    assert np.abs(first["p_SN"] - second["p_SN"]).max() < 1e-5
    results = [json.loads((folder / "metrics.json").read_text())["test"]["values"] for folder in (one, both)]
    assert results[0] == pytest.approx(results[1], abs=1e-4)


def test_a_second_process_started_as_a_program_shares_the_run(stamps_file: Path, tmp_path: Path) -> None:
    """In the other tests the second process is forked, which is faster because it imports nothing."""
    process = command(*SHORT, *TWO, f"data.path={stamps_file}", f"outputs={tmp_path}", second=False)
    assert process.wait(timeout=500) == 0, process.stderr
    assert process.stdout.count("epoch   1/1") == 1
    (folder,) = finished(tmp_path)
    assert_every_row_once(folder)


@pytest.mark.parametrize("to", ("the first process", "both"))
def test_sigterm_ends_all_processes_and_the_run_can_be_resumed(to: str, stamps_file: Path, tmp_path: Path) -> None:
    long = ("trainer.max_epochs=500", "patience=500", "data.batches_per_epoch=2", f"data.path={stamps_file}")
    process = command(*SHORT, *TWO, *long, f"outputs={tmp_path}")
    assert any("epoch   2" in line for line in process.lines()), process.stderr
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) == 1
    for pid in [process.pid, *children * (to == "both")]:
        os.kill(pid, signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    until = time.monotonic() + 300
    while any(map(running, children)):
        assert time.monotonic() < until, "a process outlives the one that started it"
        time.sleep(0.05)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.startswith("stopped by SIGTERM; continue with: ") and err.count("\n") == 1
    (folder,) = (tmp_path / "runs").glob("*/*")
    epochs = len((folder / "history.jsonl").read_text().splitlines())

    again = command(f"resume={folder}")
    line = next(line for line in again.lines() if line.startswith("epoch"))
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=300)
    assert int(line.split()[1].split("/")[0]) in (epochs, epochs + 1)  # the line may precede its checkpoint


class OneSided(ClassifyTask):
    """A task whose loss becomes infinite in the second epoch, in only the second of two processes."""

    def losses(self, z: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        bad = self.training and self.global_step >= 4 and dist.get_rank() == 1  # three steps per epoch
        return {"loss": super().losses(z, batch)["loss"] / (0.0 if bad else 1.0)}


def test_an_infinite_loss_in_one_process_stops_all(stamps_file: Path, tmp_path: Path) -> None:
    options = (f"model.task._target_={__name__}.OneSided", f"data.path={stamps_file}", f"outputs={tmp_path}")
    process = command(*SHORT, *TWO, *options, "trainer.max_epochs=3", before=f"import {__name__}")
    assert process.wait(timeout=500) == 0, process.stderr
    result = json.loads((finished(tmp_path)[0] / "metrics.json").read_text())
    assert "epoch 2, batch 2" in result["stopped"] and result["best_epoch"] == 1


def test_an_infinite_loss_in_the_first_epoch_ends_all_processes(stamps_file: Path, tmp_path: Path) -> None:
    options = ("optim.optimizer.lr=1e25", f"data.path={stamps_file}", f"outputs={tmp_path}")
    process = command(*SHORT, *TWO, *options)
    _, err = process.communicate(timeout=500)
    assert process.returncode == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert "epoch 1" in err and "optim.optimizer.lr" in err


ALLOCATION = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "jupyter", "SLURM_NTASKS": "4", "SLURM_NNODES": "1"}


def tasks(*arguments: str) -> list[tuple[int, list[str], list[str]]]:
    """Start this command twice, as srun does; return status, output and errors of both."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NAME": "early", "SLURM_NODELIST": "127.0.0.1"}
    nodes = {"SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    nodes["SLURM_STEP_NUM_TASKS"] = "2"
    started = [
        Command(*arguments, env={**os.environ, **job, **nodes, "SLURM_PROCID": rank, "SLURM_LOCALID": rank})
        for rank in "01"
    ]
    said = [task.communicate(timeout=500) for task in started]
    return [(task.wait(), *map(str.splitlines, lines)) for task, lines in zip(started, said, strict=True)]


def test_tasks_of_slurm_receive_the_decision_of_the_first() -> None:
    code = (
        "import os; from alerce_early.training.processes import broadcast_from_first; "
        "print(os.environ['SLURM_PROCID'], "
        "*[broadcast_from_first(lambda: os.environ['SLURM_PROCID'] + name) for name in 'ab'])"
    )
    found = tasks("-c", code)
    assert [out for _, out, _ in found] == [["0 0a 0b"], ["1 0a 0b"]]


def test_an_error_in_the_first_process_ends_all(tmp_path: Path) -> None:
    (first, _, message), (second, _, also) = tasks("alerce_early.train", f"resume={tmp_path / 'nowhere'}")
    assert first == second == 2 and message == also and len(message) == 1 and "nowhere" in message[0]


def test_a_process_not_started_by_srun_runs_alone(stamps_file: Path, tmp_path: Path) -> None:
    """As in an sbatch script; it can still start other processes itself."""
    mine = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    process = command(*SHORT, *TWO, f"data.path={stamps_file}", f"outputs={tmp_path}", **ALLOCATION, **mine)
    assert process.wait(timeout=500) == 0, process.stderr
    (folder,) = finished(tmp_path)
    assert_every_row_once(folder)


def test_the_interactive_step_of_an_allocation_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (ALLOCATION | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(processes.PARENT_VARIABLE, "")  # set by environment() for this process
    assert processes.environment() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    assert processes.environment() is not None  # a step of all tasks


def test_threads_of_the_process_group_end_with_it() -> None:
    """A thread that frees a tensor while the interpreter ends would sometimes abort the process."""
    code = (
        "import atexit, os, pathlib, torch.distributed as dist\n"
        "def show(): print(*{file.read_text().strip() for file in pathlib.Path('/proc/self/task').glob('*/comm')})\n"
        "atexit.register(show)\n"  # runs after functions registered later
        "import alerce_early.training.processes\n"
        "dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)\n"
        "dist.barrier()\n"  # starts the threads
        "show()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = done.stdout.splitlines()
    assert "gloo" in before and "gloo" not in after and not done.stderr


def test_an_unknown_launcher_is_refused(tmp_path: Path) -> None:
    process = command(f"outputs={tmp_path}", second=False, WORLD_SIZE="2", RANK="1")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and err.startswith("error: WORLD_SIZE=2") and err.count("\n") == 1
