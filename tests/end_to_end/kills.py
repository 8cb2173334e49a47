"""Kill commands with SIGKILL at random moments, repeat them, and compare the results with an undisturbed run.

`python -m tests.end_to_end.kills train 50 prepare 50` kills each command 50 times; the test suite does so a few times.
A command runs in a fork of this process, which has already imported everything, so that repeating it is quick.
"""

import json
import logging
import os
import pickle
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alerce_early.experiments.config import compose_config
from alerce_early.experiments.instantiate import make_data
from alerce_early.experiments.run import train
from alerce_early.simulation.survey import simulate

# keys of metrics.json that vary from run to run
TIMING_KEYS = ("training_seconds", "training_stamps_per_second", "judged_rows_per_second")


@dataclass
class Verb:
    """A command, and how to collect its results.

    Attributes
    ----------
    run : callable
        Runs the command in a folder.
    result : callable
        Returns the results in a folder, which must equal the results of an undisturbed run.
    """

    run: Callable[[Path], None]
    result: Callable[[Path], dict[str, Any]]


def compose(outputs: Path, file: Path) -> Any:
    """Compose the config of a run of four short epochs."""
    options = (
        "trainer.max_epochs=4",
        "data.batches_per_epoch=4",
        "data.batch_size=16",
        "patience=2",
        "augment=rotations",
    )
    where = ("data=alerce", f"data.path={file}", f"outputs={outputs}")
    return compose_config("model=preliminary_cnn", "recipe=minmax", *where, *options)


def make_verbs(file: Path) -> dict[str, Verb]:
    """Return the commands to kill, by name, for a stamps file."""
    return {
        "train": Verb(lambda folder: print(train(compose(folder, file), folder / "run")), run_results),
        "prepare": Verb(lambda folder: print(make_data(compose(folder, file)).store), store_files),
    }


def run_results(folder: Path) -> dict[str, Any]:
    """Return the results of a run, without timings: checkpoints, metrics, history and predictions.

    Parameters
    ----------
    folder : Path
        Folder that contains the run as `run`.

    Returns
    -------
    dict of str to Any
        Content by file name; of checkpoints and metrics, the loaded content.
    """
    run = folder / "run"
    checkpoints = {
        name: torch.load(run / "checkpoints" / name, weights_only=True) for name in ("best.ckpt", "last.ckpt")
    }
    for held in checkpoints.values():
        held["callbacks"] = {
            key: {name: value for name, value in state.items() if name != "seconds"}
            for key, state in held["callbacks"].items()
            if not key.startswith("Kept")  # contains paths of the run folder
        }
    metrics = json.loads((run / "metrics.json").read_text())
    files = {name: (run / name).read_bytes() for name in ("history.jsonl", "predictions.parquet")}
    return {**checkpoints, "metrics": {k: v for k, v in metrics.items() if k not in TIMING_KEYS}, **files}


def store_files(folder: Path) -> dict[str, Any]:
    """Return the content of the files of the only store in a folder."""
    (store,) = [path for path in (folder / "stores").iterdir() if not path.name.startswith(".")]
    return {file.name: file.read_bytes() for file in store.iterdir()}


def start_fork(verb: Verb, folder: Path) -> int:
    """Run a command in a fork and return the process id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with (folder / "log.txt").open("a") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            verb.run(folder)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return pid


def leftovers(folder: Path) -> list[Path]:
    """List the temporary files in a folder."""
    return [path for path in folder.rglob("*") if path.name.endswith(".partial")]


def differences(a: Any, b: Any, key: str = "") -> list[str]:
    """List the keys at which two results differ, bit for bit.

    Parameters
    ----------
    a, b : Any
        Nested dicts, lists and tuples of tensors and plain values; two NaN are equal.
    key : str, optional
        Prefix of the keys.

    Returns
    -------
    list of str
        Keys such as "/best.ckpt/state_dict/bias"; empty if the results are equal.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        names = sorted(a.keys() | b.keys(), key=str)
        return [found for name in names for found in differences(a.get(name), b.get(name), f"{key}/{name}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [found for i, (x, y) in enumerate(zip(a, b, strict=True)) for found in differences(x, y, f"{key}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if torch.equal(a, b) else [key]
    return [] if a == b or (a != a and b != b) else [key]


def kill_at_random(verb: Verb, base: Path, times: int, seed: int = 0) -> dict[str, Any]:
    """Kill a command repeatedly and run it again after each kill.

    Each kill is in a new folder, at a uniformly random time within the duration of an undisturbed run. A kill that
    comes after the end of the command is repeated.

    Parameters
    ----------
    verb : Verb
        The command.
    base : Path
        Folder for the folders of the runs.
    times : int
        Number of kills.
    seed : int, optional
        Seed of the random times.

    Returns
    -------
    dict of str to Any
        `equal`: number of results equal to the undisturbed run; `killed`: number of kills; `wrong`: differences and
        errors of the others.
    """
    clean = base / "clean"
    clean.mkdir(parents=True)
    began = time.perf_counter()
    assert os.waitpid(start_fork(verb, clean), 0)[1] == 0, (clean / "log.txt").read_text()
    duration = time.perf_counter() - began
    expected, rng = verb.result(clean), random.Random(seed)
    equal = number = 0
    wrong = []
    while number < times:
        folder = Path(tempfile.mkdtemp(dir=base))
        pid = start_fork(verb, folder)
        time.sleep(moment := rng.uniform(0, duration))
        os.kill(pid, signal.SIGKILL)
        if not os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
            continue
        number += 1
        if os.waitpid(start_fork(verb, folder), 0)[1]:
            found = [(folder / "log.txt").read_text()]
        else:
            found = differences(expected, verb.result(folder)) + [f"left {path}" for path in leftovers(folder)]
        equal += not found
        wrong += [f"kill {number} after {moment:.2f} of {duration:.2f} s: {one}" for one in found]
        print(f"{number:3} killed after {moment:5.2f} of {duration:.2f} s; {equal} equal", flush=True)
    return {"equal": equal, "killed": number, "wrong": wrong}


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "stamps.pkl"
        raw.write_bytes(pickle.dumps(simulate(n=400, seed=1)))
        for number, (name, times) in enumerate(zip(sys.argv[1::2], sys.argv[2::2], strict=True)):
            print(json.dumps(kill_at_random(make_verbs(raw)[name], Path(scratch) / str(number), int(times))))
