"""What a stream says of itself now and then: how fast it goes, what it set aside, whether its alerts have changed."""

import time
from collections.abc import Callable

import numpy as np
import pyarrow
from pyarrow import compute

from alerce_early.evaluation import tables
from alerce_early.evaluation.drift import find_drift

REFERENCE = 2_000  # alerts that later ones are held against
MOST = 20_000  # alerts since the last line that are looked at
# Of the inputs, as far as a table has them; not the number of detections, which not every alert of Rubin has.
COLUMNS = (*(name for name in tables.METADATA if name != tables.DETECTIONS), "imputed")


class Monitor:
    """classified, rejected: since the start. clock: seconds since any moment."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.classified = self.rejected = 0
        self._clock = clock
        self._told, self._since = 0, clock()
        self._names: tuple[str, ...] = ()
        self._reference: list[np.ndarray] = []
        self._recent: list[np.ndarray] = []

    def add(self, rows: pyarrow.Table) -> None:
        """Count the rows of one more part, which have `arrow.REJECTED`."""
        classified = rows.filter(compute.is_null(rows["rejected"]))
        self.classified += len(classified)
        self.rejected += len(rows) - len(classified)
        self._names = tuple(name for name in COLUMNS if name in rows.column_names)
        values = np.stack([classified[name].to_numpy().astype(float) for name in self._names], 1)
        values = values[np.isfinite(values).all(1)]
        missing = max(REFERENCE - sum(map(len, self._reference)), 0)
        if missing:  # not even an empty part, which would keep all of its array
            self._reference.append(values[:missing])
        if sum(map(len, self._recent)) < MOST:
            self._recent.append(values[missing:])

    def describe(self) -> str:
        """Return rate, rejected and drift since the last such line, in words.

        Drift is named by column with its population stability index against the first `REFERENCE` alerts, where
        `evaluation.drift` finds one.
        """
        now, total = self._clock(), self.classified + self.rejected
        rate = (total - self._told) / max(now - self._since, 1e-9)
        found = []
        if recent := self._recent:
            found = find_drift(np.concatenate(self._reference), np.concatenate(recent), self._names)
        self._told, self._since, self._recent = total, now, []
        drift = ", ".join(f"{one['column']} {one['psi']:.2f}" for one in found)
        return f"{rate:,.0f} alerts/s, {self.rejected:,} of {total:,} rejected, drift: {drift or 'none'}"
