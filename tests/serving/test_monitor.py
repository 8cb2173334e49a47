"""The log line of a stream: rate, rejected alerts and drift, with bounded memory."""

import tracemalloc

import numpy as np
import pyarrow

from alerce_early.evaluation.drift import find_drift
from alerce_early.serving.kafka.monitor import COLUMNS, MAX_RECENT, REFERENCE, Monitor

ROWS = 1000


def part(shift: float, rejected: int = 0) -> pyarrow.Table:
    """Make a part with every monitored column, drawn around a mean."""
    values = np.random.default_rng(0).normal(shift, 1, (len(COLUMNS), ROWS))
    reasons = pyarrow.array(["cut short"] * rejected + [None] * (ROWS - rejected), pyarrow.string())
    return pyarrow.table({**dict(zip(COLUMNS, values, strict=True)), "rejected": reasons})


def test_memory_does_not_grow_with_the_stream() -> None:
    monitor = Monitor()
    tracemalloc.start()
    try:
        for _ in range(300):
            monitor.add(part(0.0))
        monitor.describe()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < 3 * (REFERENCE + MAX_RECENT) * len(COLUMNS) * 8  # bytes; the stream has fourteen times as many rows
    assert monitor.classified == 300 * ROWS


def test_it_counts_alerts_and_names_columns_that_drift() -> None:
    monitor = Monitor()
    for _ in range(3):
        monitor.add(part(0.0, rejected=10))
    assert (monitor.classified, monitor.rejected) == (2970, 30)
    assert "30 of 3,000 rejected" in (calm := monitor.describe()) and "drift: none" in calm
    monitor.add(part(2.0))
    assert COLUMNS[0] in monitor.describe().partition("drift: ")[2]


def test_the_rate_counts_from_the_last_line() -> None:
    now = 100.0
    monitor = Monitor(lambda: now)
    for passed, parts, rate in ((10, 1, 100), (5, 2, 400), (4, 0, 0)):
        for _ in range(parts):
            monitor.add(part(0.0))
        now += passed
        assert monitor.describe().startswith(f"{rate} alerts/s, ")


def test_the_reference_is_not_compared_with_itself() -> None:
    """Alerts count as recent only after the reference, also within the part where it ends."""
    calm, moved = part(0.0), part(2.0)
    values = [np.stack([one[name].to_numpy() for name in COLUMNS], 1) for one in (calm, calm, moved)]
    drift = find_drift(np.concatenate(values[:2]), values[2], COLUMNS)
    wanted = ", ".join(f"{one['column']} {one['psi']:.2f}" for one in drift)
    for parts in ([calm, calm, moved], [calm, pyarrow.concat_tables([calm, moved])]):
        monitor = Monitor()
        for one in parts:
            monitor.add(one)
        assert REFERENCE == 2 * ROWS and monitor.describe().endswith(f"drift: {wanted}") and wanted
