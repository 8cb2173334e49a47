"""Where a classifier is unsure, whether to believe it, and how its accuracy depends on a column of the alert."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from alerce_early import tables
from alerce_early.evaluation import metrics

KEPT = (1.0, 0.95, 0.9, 0.8, 0.5)  # shares of the rows for which the accuracy is given
BINS = 8  # of a column, at most

Table = Mapping[str, np.ndarray]


def find_entropy(table: Table) -> np.ndarray:
    """Return the predictive entropy (N,) in nats: the column entropy, or else that of the probabilities."""
    if "entropy" in table:
        return table["entropy"]
    return metrics.entropy(tables.probabilities(table, tables.classes_of(table)))


def risk_coverage(right: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """Return the accuracy of the k most confident rows, for k = 1..N: (N,) float64.

    right: (N,) bool; entropy: (N,), higher is less confident; ties stay in the order of the rows. The k-th value is
    one minus the selective risk at coverage k / N (Geifman and El-Yaniv 2017, section 2).
    """
    kept = right[np.argsort(entropy, kind="stable")]
    return np.cumsum(kept) / np.arange(1, len(kept) + 1)


def find_accuracies(table: Table) -> np.ndarray:
    """Return `risk_coverage` of a table, (N,)."""
    classes = tables.classes_of(table)
    predicted = tables.probabilities(table, classes).argmax(1)
    return risk_coverage(predicted == tables.label_indices(table, classes), find_entropy(table))


def judge(table: Table) -> dict[str, Any]:
    """Return {"kept": [[share of rows, accuracy of the most confident]], "draws": [[class, rows, mean p, std]]}.

    draws: of the probability of the true class the mean over the rows of its mean and of its standard deviation
    over draws of the weights; empty where there were none.
    """
    accuracies = find_accuracies(table)
    kept = [[share, float(accuracies[max(1, round(share * len(accuracies))) - 1])] for share in KEPT]
    draws: list[list[Any]] = []
    for name in tables.classes_of(table) if any(name.startswith("std_") for name in table) else ():
        if (own := table["label"] == name).any():
            draws.append([name, int(own.sum()), *(float(table[f"{of}_{name}"][own].mean()) for of in ("p", "std"))])
    return {"kept": kept, "draws": draws}


def bin_by_column(right: np.ndarray, values: np.ndarray) -> list[tuple[float, float, int, int]]:
    """Return (lowest value, highest value, right rows, rows) of up to `BINS` bins with equally many rows.

    right: (N,) bool; values: (N,), rows where it is not finite are left out. Equal values share a bin.
    """
    known = np.isfinite(values)
    right, values = right[known], values[known]
    if len(values) < metrics.FEWEST:
        return []
    number = metrics.equal_bins(values, BINS)
    rows = [np.flatnonzero(number == i) for i in np.unique(number)]
    return [(float(values[r].min()), float(values[r].max()), int(right[r].sum()), len(r)) for r in rows]


def judge_by_column(table: Table) -> dict[str, Any]:
    """Return {column: `bin_by_column`} of each column of `tables.METADATA` that the table has."""
    known = [name for name in tables.METADATA if name in table]
    binned = {name: bin_by_column(table["label"] == table["predicted"], table[name]) for name in known}
    return {name: bins for name, bins in binned.items() if bins}
