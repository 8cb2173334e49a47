"""What a stream keeps of its alerts to speak of them."""

import tracemalloc

import numpy as np
import pyarrow

from alerce_early.serving.monitor import COLUMNS, MOST, REFERENCE, Monitor

ROWS = 1000


def part(shift: float, rejected: int = 0) -> pyarrow.Table:
    """A part of the stream with every column it may look at, moved by so much."""
    values = np.random.default_rng(0).normal(shift, 1, (len(COLUMNS), ROWS))
    reasons = pyarrow.array(["cut short"] * rejected + [None] * (ROWS - rejected), pyarrow.string())
    return pyarrow.table({**dict(zip(COLUMNS, values, strict=True)), "rejected": reasons})


def test_what_it_keeps_does_not_grow_with_the_stream() -> None:
    monitor = Monitor()
    tracemalloc.start()
    try:
        for _ in range(300):
            monitor.add(part(0.0))
        monitor.describe()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < 3 * (REFERENCE + MOST) * len(COLUMNS) * 8  # bytes; the stream has fourteen times as many rows
    assert monitor.classified == 300 * ROWS


def test_it_counts_and_tells_of_drift() -> None:
    monitor = Monitor()
    for _ in range(3):
        monitor.add(part(0.0, rejected=10))
    assert (monitor.classified, monitor.rejected) == (2970, 30)
    assert "30 of 3,000 rejected" in (calm := monitor.describe()) and "drift: none" in calm
    monitor.add(part(2.0))
    assert COLUMNS[0] in monitor.describe().partition("drift: ")[2]
