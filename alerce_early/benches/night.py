"""A night from packets to a table: alerts/s of `predict` against the route of tutorials, and where the time goes."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alerce_early.benches import GIGABYTE, Row, taking_turns
from alerce_early.benches.inference import without_recipe
from alerce_early.benches.packets import by_libraries, members
from alerce_early.data import alerts
from alerce_early.data.simulation import packets
from alerce_early.evaluation import table as tables
from alerce_early.machine import cores
from alerce_early.predict import CHUNK, predict
from alerce_early.serving import inputs
from alerce_early.serving.classifier import BATCH, load
from alerce_early.serving.deployed import Deployed
from alerce_early.serving.parts import Parts
from alerce_early.serving.runtimes import PART, Runtime, start

BY_RIVAL = 512  # packets; it takes them one by one
STAMPS = 2048  # from which a step is timed alone; a whole night of them is not held


def classifying(checkpoint: Path, n: int, folder: Path) -> Iterator[Row]:
    """Packets to a table with the quickest runtime there is; then the processor time of each step by itself."""
    archive, _ = packets.write(folder / "night.tar.gz", n)
    runtime = "openvino" if find_spec("openvino") else "bfloat16"
    classifier, whole = load(checkpoint, runtime=runtime), Deployed.load(checkpoint)
    source = inputs.find([archive], classifier.spec)

    def everything() -> None:
        predict(classifier, source, folder / "night.parquet", overwrite=True)

    def by_tutorial() -> None:
        exact = start("torch", whole)
        read = [by_libraries(file) for file in islice(members(archive), BY_RIVAL)]
        _in_batches(exact, np.stack([stamp for stamp in read if stamp.shape == whole.spec.raw_shape]))

    size = f"{n:,} packets, {archive.stat().st_size / GIGABYTE:.2f} GiB"
    mine, theirs = taking_turns(everything, by_tutorial)
    rates = n / mine, BY_RIVAL / theirs
    yield Row(f"classify {size}", f"{rates[0]:,.0f}/s", f"{rates[1]:,.0f}/s astropy, torch", rates[0] / rates[1], "")

    chunks = [chunk.records for chunk in islice(source.chunks(CHUNK), STAMPS // CHUNK) if chunk.records is not None]
    stamps = np.ascontiguousarray(np.moveaxis(np.concatenate([records.images for records in chunks]), 3, 1))
    cleaned = np.concatenate([whole.task.recipe(some).numpy() for some in torch.from_numpy(stamps).split(PART)])
    network = start(runtime, without_recipe(whole))
    reading = _cost(lambda: deque(source.chunks(CHUNK), maxlen=0))
    classifying = _cost(lambda: _in_batches(network, cleaned))
    speeds = n / reading[0], len(cleaned) / classifying[0]
    aim = f"{speeds[1]:,.0f}/s network"
    yield Row(f"  read by {cores()} processes", f"{speeds[0]:,.0f}/s", aim, speeds[0] / speeds[1], ">= 1.5")

    table = tables.read(folder / "night.parquet")

    def write() -> None:
        with Parts(folder / "again.parquet", {}, overwrite=True) as parts:
            for first in range(0, len(table["candid"]), CHUNK):
                some = {name: column[first : first + CHUNK] for name, column in table.items()}
                parts.add(some, [], len(some["candid"]))
            parts.finish()

    in_all = _cost(everything)[1] / n
    steps = {
        "read": _cost(lambda: deque(alerts.stream([archive], size=CHUNK, workers=0), maxlen=0))[1] / n,
        "recipe": _cost(lambda: [whole.task.recipe(some) for some in torch.from_numpy(stamps).split(PART)])[1]
        / len(stamps),
        f"network, {runtime}": classifying[1] / len(cleaned),
        "write": _cost(write)[1] / n,
    }
    for name, seconds in {**steps, "between these": in_all - sum(steps.values())}.items():
        told = f"{1000 * in_all:.2f} ms processor time"
        yield Row(f"  of it: {name}", f"{1000 * seconds:.2f} ms", told, seconds / in_all, "")


def _cost(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and seconds of processor time of this process and of those it ended meanwhile."""
    began, before = time.perf_counter(), sum(os.times()[:4])
    work()
    return time.perf_counter() - began, sum(os.times()[:4]) - before


def _in_batches(run: Runtime, stamps: np.ndarray) -> None:
    at_once = BATCH * torch.get_num_threads()
    for first in range(0, len(stamps), at_once):
        run(stamps[first : first + at_once], None)
