"""Predictive uncertainty: accuracy by confidence, detection of errors, and accuracy by column of the alert."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alerce_early.evaluation import intervals, metrics, tables

KEPT = (1.0, 0.95, 0.9, 0.8, 0.5)  # fractions of the most confident rows whose accuracy is reported
BINS = 8  # bins per column, at most
MEASURES = ("entropy_of_means", "mutual_information")  # columns of a Bayesian network, in nats

Table = Mapping[str, np.ndarray]


def find_entropy(table: Table) -> np.ndarray:
    """Return the predictive entropy (N,) in nats, from the column entropy or, without it, the probabilities."""
    if "entropy" in table:
        return table["entropy"]
    return metrics.entropy(tables.probabilities(table, tables.classes_of(table)))


def risk_coverage(right: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """Compute the accuracy of the k most confident rows for k = 1..N.

    Parameters
    ----------
    right : ndarray
        (N,) bool, whether each row is classified correctly.
    entropy : ndarray
        (N,), higher is less confident. Ties keep the order of the rows.

    Returns
    -------
    ndarray
        (N,) float64 in [0, 1]. The k-th value is one minus the selective risk at coverage k / N.

    References
    ----------
    Geifman & El-Yaniv 2017, arXiv:1705.08500, section 2.
    """
    kept = right[np.argsort(entropy, kind="stable")]
    return np.cumsum(kept) / np.arange(1, len(kept) + 1)


def correct(table: Table) -> np.ndarray:
    """Compare the most probable class with the true one, (N,) bool."""
    classes = tables.classes_of(table)
    return tables.probabilities(table, classes).argmax(1) == tables.label_indices(table, classes)


def find_accuracies(table: Table) -> np.ndarray:
    """Return the accuracy of the k most confident rows of a table, (N,) float64; see `risk_coverage`."""
    return risk_coverage(correct(table), find_entropy(table))


def judge(table: Table) -> dict[str, Any]:
    """Evaluate the uncertainties of a labelled table.

    Parameters
    ----------
    table : mapping of str to ndarray
        ``label`` and ``p_<class>``; of a Bayesian network also ``std_<class>``, ``vote_<class>`` and `MEASURES`.

    Returns
    -------
    dict
        ``kept``, [fraction of the most confident rows, their accuracy] for each of `KEPT`; ``separation``, see
        `judge_separation`; and ``draws``, one [class, rows, mean, std, votes, accuracy] per class and one of all rows.
        Mean and std describe the probability of the true class over samples of the weights, averaged over rows; votes
        is the fraction of samples that are correct, accuracy the fraction of rows whose mean prediction is. Empty for
        a table without samples.
    """
    right, accuracies = correct(table), find_accuracies(table)
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
    """Compute how well each uncertainty separates wrong rows from correct ones, as an area under the ROC curve.

    Parameters
    ----------
    table : mapping of str to ndarray
        ``label`` and ``p_<class>``, optionally ``entropy`` and `MEASURES`.

    Returns
    -------
    dict
        {"n", "values", "intervals"} as of `intervals.judge_rows`, by column of the uncertainty. ``gain`` is the area of
        entropy minus the area of entropy_of_means: the benefit of sampling the weights.
    """
    scores = {"entropy": find_entropy(table)} | {name: table[name] for name in MEASURES if name in table}
    rankings = {name: metrics.Ranking(~correct(table), score) for name, score in scores.items()}

    def find_areas(weights: np.ndarray) -> dict[str, float]:
        counts = {name: ranking.counts(weights) for name, ranking in rankings.items()}
        areas = {name: metrics.roc_auc(*of) for name, of in counts.items() if of[0][-1] and of[1][-1]}
        gain = {"gain": areas["entropy"] - areas[MEASURES[0]]} if MEASURES[0] in areas else {}
        return {name: float(area) for name, area in (areas | gain).items()}

    judged, objects = intervals.judge_rows(find_areas, tables.find_objects(table)), tables.find_objects(table)
    right = correct(table)
    rarer = min(objects[right], objects[~right], key=len)  # the rarer outcome limits the precision of the area
    widened = {
        name: intervals.widen(judged["values"][name], bound, [rarer]) if name in scores else bound
        for name, bound in judged["intervals"].items()
    }
    return judged | {"intervals": widened}


def find_bins(values: np.ndarray, lowest: Sequence[float] = ()) -> list[np.ndarray]:
    """Bin rows by the values of a column.

    Parameters
    ----------
    values : ndarray
        (N,). Rows with non-finite values are left out.
    lowest : sequence of float
        Lower edge of each bin, in ascending order. Without it there are up to `BINS` bins with equally many rows, or
        none if there are too few rows.

    Returns
    -------
    list of ndarray
        Row indices (n,) int64 of each bin, by ascending value. Equal values share a bin.
    """
    known = np.flatnonzero(np.isfinite(values))
    if lowest:
        number = np.digitize(values[known], lowest) - 1
        return [known[number == i] for i in range(len(lowest))]
    number = metrics.equal_bins(values[known], BINS) if len(known) >= metrics.FEWEST else known[:0]
    return [known[number == i] for i in np.unique(number)]


def bin_by_column(right: np.ndarray, values: np.ndarray) -> list[tuple[float, float, int, int]]:
    """Count correct rows in bins of a column.

    Parameters
    ----------
    right : ndarray
        (N,) bool, whether each row is classified correctly.
    values : ndarray
        (N,) values of the column.

    Returns
    -------
    list of tuple
        Lowest value, highest value, number of correct rows and number of rows of each bin of `find_bins`.
    """
    rows = find_bins(values)
    return [(float(values[r].min()), float(values[r].max()), int(right[r].sum()), len(r)) for r in rows]


def judge_by_column(table: Table) -> dict[str, Any]:
    """Return `bin_by_column` for each column of `tables.METADATA` in the table except `tables.DETECTIONS`."""
    known = [name for name in tables.METADATA if name in table and name != tables.DETECTIONS]
    binned = {name: bin_by_column(table["label"] == table["predicted"], table[name]) for name in known}
    return {name: bins for name, bins in binned.items() if bins}
