"""Monitor a stream: throughput, rejected alerts and drift of the inputs, for a periodic log line."""

import time
from collections.abc import Callable

import numpy as np
import pyarrow
from pyarrow import compute

from alerce_early.evaluation import tables
from alerce_early.evaluation.drift import find_drift

REFERENCE = 2_000  # first alerts, with which later ones are compared
MAX_RECENT = 20_000  # alerts since the last line that are compared
# Inputs to compare, if the table has them; the number of detections is missing in some alerts of Rubin.
COLUMNS = (*(name for name in tables.METADATA if name != tables.DETECTIONS), "imputed")


class Monitor:
    """Counts of a stream since its start, and samples of its alerts.

    Parameters
    ----------
    clock : callable, default time.monotonic
        Function that returns the time in seconds.

    Attributes
    ----------
    classified, rejected : int
        Number of alerts since the start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.classified = self.rejected = 0
        self._clock = clock
        self._last_total, self._last_time = 0, clock()
        self._names: tuple[str, ...] = ()
        self._reference: list[np.ndarray] = []
        self._recent: list[np.ndarray] = []

    def add(self, rows: pyarrow.Table) -> None:
        """Count the rows of a part and sample their inputs.

        Parameters
        ----------
        rows : pyarrow.Table
            The part, with the column `arrow.REJECTED`.
        """
        classified = rows.filter(compute.is_null(rows["rejected"]))
        self.classified += len(classified)
        self.rejected += len(rows) - len(classified)
        self._names = tuple(name for name in COLUMNS if name in rows.column_names)
        values = np.stack([classified[name].to_numpy().astype(float) for name in self._names], 1)
        values = values[np.isfinite(values).all(1)]
        missing = max(REFERENCE - sum(map(len, self._reference)), 0)
        if missing:  # otherwise an empty slice would keep the whole array in memory
            self._reference.append(values[:missing])
        if sum(map(len, self._recent)) < MAX_RECENT:
            self._recent.append(values[missing:])

    def describe(self) -> str:
        """Describe rate and drift since the last call, and the rejected alerts since the start, in one line.

        Drift lists the columns whose distribution differs from the first `REFERENCE` alerts, with their population
        stability index, see `evaluation.drift`.
        """
        now, total = self._clock(), self.classified + self.rejected
        rate = (total - self._last_total) / max(now - self._last_time, 1e-9)
        found = []
        if recent := self._recent:
            found = find_drift(np.concatenate(self._reference), np.concatenate(recent), self._names)
        self._last_total, self._last_time, self._recent = total, now, []
        drift = ", ".join(f"{one['column']} {one['psi']:.2f}" for one in found)
        return f"{rate:,.0f} alerts/s, {self.rejected:,} of {total:,} rejected, drift: {drift or 'none'}"
