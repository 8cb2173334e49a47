"""Where a classifier is unsure, whether to believe it, and how its accuracy depends on a column of the alert."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alerce_early.evaluation import intervals, metrics, tables

KEPT = (1.0, 0.95, 0.9, 0.8, 0.5)  # shares of the rows for which the accuracy is given
BINS = 8  # of a column, at most
MEASURES = ("entropy_of_means", "mutual_information")  # of uncertainty, beside the entropy, where there are draws

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


def find_right(table: Table) -> np.ndarray:
    """Return whether the most probable class is the true one, (N,) bool."""
    classes = tables.classes_of(table)
    return tables.probabilities(table, classes).argmax(1) == tables.label_indices(table, classes)


def find_accuracies(table: Table) -> np.ndarray:
    """Return `risk_coverage` of a table, (N,)."""
    return risk_coverage(find_right(table), find_entropy(table))


def judge(table: Table) -> dict[str, Any]:
    """Return {"kept": [[share of rows, accuracy of the most confident]], "separation", "draws"}.

    separation: of `judge_separation`. draws: [[class, rows, mean p, std, votes, accuracy]], of the probability of the
    true class the mean over the rows of its mean and of its standard deviation over draws of the weights, the share of
    all draws that are right, and of the rows whose mean prediction is; of all rows last; [] where nothing was drawn.
    """
    right, accuracies = find_right(table), find_accuracies(table)
    kept = [[share, float(accuracies[max(1, round(share * len(accuracies))) - 1])] for share in KEPT]
    classes, draws = tables.classes_of(table), list[list[Any]]()
    if f"vote_{classes[0]}" in table:
        labels = tables.label_indices(table, classes)
        own = [tables.probabilities(table, classes, of)[np.arange(len(labels)), labels] for of in ("p", "std", "vote")]
        parts = {name: labels == i for i, name in enumerate(classes)} | {"all": np.full(len(labels), True)}
        draws = [
            [name, int(rows.sum()), *(float(column[rows].mean()) for column in (*own, right))]
            for name, rows in parts.items()
            if rows.any()
        ]
    return {"kept": kept, "separation": judge_separation(table), "draws": draws}


def judge_separation(table: Table) -> dict[str, Any]:
    """Return the ROC AUC of the entropy, and of `MEASURES` in the table, for a row being wrong: see `judge_rows`.

    gain: that of the entropy less that of entropy_of_means, both on the same rows: what drawing weights is worth.
    """
    scores = {"entropy": find_entropy(table)} | {name: table[name] for name in MEASURES if name in table}
    rankings = {name: metrics.Ranking(~find_right(table), score) for name, score in scores.items()}

    def find_areas(weights: np.ndarray) -> dict[str, float]:
        counts = {name: ranking.counts(weights) for name, ranking in rankings.items()}
        areas = {name: metrics.roc_auc(*of) for name, of in counts.items() if of[0][-1] and of[1][-1]}
        gain = {"gain": areas["entropy"] - areas[MEASURES[0]]} if MEASURES[0] in areas else {}
        return {name: float(area) for name, area in (areas | gain).items()}

    judged, objects = intervals.judge_rows(find_areas, tables.find_objects(table)), tables.find_objects(table)
    right = find_right(table)
    rarer = min(objects[right], objects[~right], key=len)  # an area is known as well as these rows allow
    widened = {
        name: intervals.widen(judged["values"][name], bound, [rarer]) if name in scores else bound
        for name, bound in judged["intervals"].items()
    }
    return judged | {"intervals": widened}


def find_bins(values: np.ndarray, lowest: Sequence[float] = ()) -> list[np.ndarray]:
    """Return the rows (n,) int64 of each bin of a column, low values first.

    values: (N,), rows where it is not finite are left out. lowest: the lowest value of each bin, rising; without it
    there are up to `BINS` bins with equally many rows, or none if the rows are too few. Equal values share a bin.
    """
    known = np.flatnonzero(np.isfinite(values))
    if lowest:
        number = np.digitize(values[known], lowest) - 1
        return [known[number == i] for i in range(len(lowest))]
    number = metrics.equal_bins(values[known], BINS) if len(known) >= metrics.FEWEST else known[:0]
    return [known[number == i] for i in np.unique(number)]


def bin_by_column(right: np.ndarray, values: np.ndarray) -> list[tuple[float, float, int, int]]:
    """Return (lowest value, highest value, right rows, rows) of each of `find_bins`; right: (N,) bool."""
    rows = find_bins(values)
    return [(float(values[r].min()), float(values[r].max()), int(right[r].sum()), len(r)) for r in rows]


def judge_by_column(table: Table) -> dict[str, Any]:
    """Return {column: `bin_by_column`} of each column of `tables.METADATA` but `tables.DETECTIONS` in the table."""
    known = [name for name in tables.METADATA if name in table and name != tables.DETECTIONS]
    binned = {name: bin_by_column(table["label"] == table["predicted"], table[name]) for name in known}
    return {name: bins for name, bins in binned.items() if bins}
