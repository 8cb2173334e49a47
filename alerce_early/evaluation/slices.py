"""How accuracy depends on a metadata column, such as the brightness of the alert."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alerce_early.evaluation import intervals, metrics
from alerce_early.report.page import Section
from alerce_early.tables import METADATA

BINS = 8  # of a column, at most


def by_column(right: np.ndarray, values: np.ndarray) -> list[tuple[float, float, int, int]]:
    """(lowest value, highest value, right rows, rows) in up to `BINS` bins with equally many rows.

    right: (N,) bool; values: (N,), rows where it is not finite are left out. Equal values share a bin.
    """
    known = np.isfinite(values)
    right, values = right[known], values[known]
    if len(values) < metrics.FEWEST:
        return []
    number = metrics.equal_bins(values, BINS)
    rows = [np.flatnonzero(number == i) for i in np.unique(number)]
    return [(float(values[r].min()), float(values[r].max()), int(right[r].sum()), len(r)) for r in rows]


def judge(table: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """{column: `by_column`} for each known column that the table has."""
    known = [name for name in METADATA if name in table]
    binned = {name: by_column(table["label"] == table["predicted"], table[name]) for name in known}
    return {name: bins for name, bins in binned.items() if bins}


def pictures(judged: Mapping[str, Any], table: Mapping[str, np.ndarray]) -> dict[str, Figure]:
    """Return a figure by_<column> for each column of `judge`."""
    return {f"by_{name}": _figure(bins, METADATA[name]) for name, bins in judged.items()}


def section(judged: Mapping[str, Any], drawn: Mapping[str, Figure]) -> Section | None:
    """Return what the page says, None where there is no such column; drawn: holds `pictures`."""
    if not judged:
        return None
    return Section(
        "Where it works",
        words=["Bins of equally many rows with 95 % intervals. The mix of classes changes from bin to bin as well."],
        pictures=[(f"Accuracy against {METADATA[name]}.", drawn[f"by_{name}"]) for name in judged],
    )


def _figure(bins: list[tuple[float, float, int, int]], told: str) -> Figure:
    figure = Figure(figsize=(5.2, 3), layout="constrained")
    axes = figure.add_subplot(xlabel=told, ylabel="accuracy")
    low, high, right, rows = np.array(bins).T
    ends = np.array([intervals.wilson(int(k), int(n)) for k, n in zip(right, rows, strict=True)]).T
    share, middle = right / rows, (low + high) / 2
    axes.errorbar(middle, share, np.abs(ends - share), (high - low) / 2, fmt="o", ms=4, lw=1)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
