"""Real commands killed with SIGKILL at random moments, each run again until it ends.

`python -m tests.end_to_end.kills train 50 prepare 50` by hand; the suite takes a few. A command runs in a fork of this
process, which has imported everything: the same code and a real kill, without the seconds of an import.
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

# numbers of metrics.json that measure the machine
UNEQUAL = ("training_seconds", "training_stamps_per_second", "judged_rows_per_second")


@dataclass
class Verb:
    """A command as a function of the folder it works in, and what must be equal afterwards."""

    run: Callable[[Path], None]
    result: Callable[[Path], dict[str, Any]]


def config(outputs: Path, file: Path) -> Any:
    options = (
        "trainer.max_epochs=4",
        "data.batches_per_epoch=4",
        "data.batch_size=16",
        "patience=2",
        "augment=rotations",
    )
    where = ("data=alerce", f"data.path={file}", f"outputs={outputs}")
    return compose_config("model=preliminary_cnn", "recipe=minmax", *where, *options)


def verbs(file: Path) -> dict[str, Verb]:
    return {
        "train": Verb(lambda folder: print(train(config(folder, file), folder / "run")), trained),
        "prepare": Verb(lambda folder: print(make_data(config(folder, file)).store), prepared),
    }


def trained(folder: Path) -> dict[str, Any]:
    """All that a run leaves and that does not tell the time: weights, states, metrics, tables, history."""
    run = folder / "run"
    checkpoints = {
        name: torch.load(run / "checkpoints" / name, weights_only=True) for name in ("best.ckpt", "last.ckpt")
    }
    for held in checkpoints.values():
        held["callbacks"] = {
            key: {name: value for name, value in state.items() if name != "seconds"}
            for key, state in held["callbacks"].items()
            if not key.startswith("Kept")  # holds the paths of its folder
        }
    metrics = json.loads((run / "metrics.json").read_text())
    files = {name: (run / name).read_bytes() for name in ("history.jsonl", "predictions.parquet")}
    return {**checkpoints, "metrics": {k: v for k, v in metrics.items() if k not in UNEQUAL}, **files}


def prepared(folder: Path) -> dict[str, Any]:
    (store,) = [path for path in (folder / "stores").iterdir() if not path.name.startswith(".")]
    return {file.name: file.read_bytes() for file in store.iterdir()}


def started(verb: Verb, folder: Path) -> int:
    """The process id of a fork that runs the command."""
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
    return [path for path in folder.rglob("*") if path.name.endswith(".partial")]


def differences(a: Any, b: Any, key: str = "") -> list[str]:
    """Where two results are not equal to the last bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        names = sorted(a.keys() | b.keys(), key=str)
        return [found for name in names for found in differences(a.get(name), b.get(name), f"{key}/{name}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [found for i, (x, y) in enumerate(zip(a, b, strict=True)) for found in differences(x, y, f"{key}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if torch.equal(a, b) else [key]
    return [] if a == b or (a != a and b != b) else [key]


def kill_at_random(verb: Verb, base: Path, times: int, seed: int = 0) -> dict[str, Any]:
    """Kill the command `times` times, each in a new folder, at a moment of a clean run drawn uniformly.

    A kill that comes after the command has ended does not count and is drawn again. Returns how many ended equal
    to the clean run after the same command again, and what was wrong with the others.
    """
    clean = base / "clean"
    clean.mkdir(parents=True)
    began = time.perf_counter()
    assert os.waitpid(started(verb, clean), 0)[1] == 0, (clean / "log.txt").read_text()
    duration = time.perf_counter() - began
    wanted, rng = verb.result(clean), random.Random(seed)
    equal = number = 0
    wrong = []
    while number < times:
        folder = Path(tempfile.mkdtemp(dir=base))
        pid = started(verb, folder)
        time.sleep(moment := rng.uniform(0, duration))
        os.kill(pid, signal.SIGKILL)
        if not os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
            continue
        number += 1
        if os.waitpid(started(verb, folder), 0)[1]:
            found = [(folder / "log.txt").read_text()]
        else:
            found = differences(wanted, verb.result(folder)) + [f"left {path}" for path in leftovers(folder)]
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
            print(json.dumps(kill_at_random(verbs(raw)[name], Path(scratch) / str(number), int(times))))
