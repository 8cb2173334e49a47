"""Split conformal prediction: sets of classes that include the true one with a nominal coverage.

Thresholds are fitted to the uncalibrated probabilities of the validation rows. The nonconformity score of a class is
one minus its probability, which gives the smallest sets (Sadinle et al. 2019, JASA 114, 223). With one threshold for
all classes coverage holds on average over all rows ("marginal"), with one per class for the rows of every class
("class-conditional").
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from alerce_early.errors import InputError
from alerce_early.evaluation import intervals, tables
from alerce_early.files import JOINED

COVERAGE = "set_coverage"  # name of the nominal coverage among the constants of a table
# By column of the predictions table. The first is the recommended one: it does not sacrifice rare classes.
KINDS = {"set": "class-conditional", "set_marginal": "marginal"}
# Added to a threshold, which equals the score of one validation row: in another runtime that score may differ by
# rounding, at most by the tolerance of exported files, and must not drop the row's class.
ROUNDING_MARGIN = 1e-5


def check(coverage: float) -> None:
    """Raise InputError for a coverage outside (0, 1)."""
    if not 0 < coverage < 1:
        raise InputError(f"coverage={coverage}: expected a number between 0 and 1, such as 0.9.")


def fit(table: tables.Table, coverage: float) -> dict[str, Any] | None:
    """Fit the thresholds of both kinds of sets on labelled validation rows.

    Parameters
    ----------
    table : mapping of str to ndarray
        Validation rows: ``label`` and ``p_<class>``.
    coverage : float
        Nominal coverage, in (0, 1).

    Returns
    -------
    dict or None
        {"coverage", "thresholds": {column of `KINDS`: C floats}}. A class with too few rows for the coverage has
        threshold 1 and is in every set. None for a table without rows or without probabilities.

    Raises
    ------
    InputError
        If `coverage` is outside (0, 1).
    """
    check(coverage)
    classes = tables.classes_of(table)
    if not classes or not len(table["label"]):
        return None
    labels, probabilities = tables.label_indices(table, classes), tables.probabilities(table, classes)
    scores = 1 - probabilities[np.arange(len(labels)), labels]
    by_class = [threshold(scores[labels == i], coverage) for i in range(len(classes))]
    marginal = [threshold(scores, coverage)] * len(classes)
    return {"coverage": coverage, "thresholds": dict(zip(KINDS, (by_class, marginal), strict=True))}


def threshold(scores: np.ndarray, coverage: float) -> float:
    """Return the ceil((n + 1) coverage)-th smallest of n scores plus `ROUNDING_MARGIN`, or 1 if n is too small."""
    rank = int(np.ceil((len(scores) + 1) * coverage))
    return min(1.0, float(np.sort(scores)[rank - 1]) + ROUNDING_MARGIN) if rank <= len(scores) else 1.0


def sets(thresholds: list[float], probabilities: np.ndarray) -> np.ndarray:
    """Return the classes in the set of each row as a mask (N, C), given uncalibrated probabilities (N, C)."""
    return 1 - probabilities <= np.array(thresholds)


def set_columns(fitted: Mapping[str, Any] | None, table: tables.Table) -> dict[str, np.ndarray]:
    """Return the columns of `KINDS`, class names joined by "|", or none if nothing was fitted."""
    if fitted is None:
        return {}
    classes = tables.classes_of(table)
    probabilities = tables.probabilities(table, classes)
    return {name: _join_names(sets(fitted["thresholds"][name], probabilities), classes) for name in KINDS}


def list_constants(fitted: Mapping[str, Any] | None) -> dict[str, float | None]:
    """Return the nominal coverage as a constant of a table, or none if nothing was fitted."""
    return {COVERAGE: fitted["coverage"]} if fitted else {}


def _join_names(inside: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Join the class names of sets (N, C) bool to strings (N,), each distinct set once."""
    distinct, which = np.unique(inside, axis=0, return_inverse=True)
    names = [JOINED.join(name for name, is_in in zip(classes, row, strict=True) if is_in) for row in distinct]
    return np.array(names)[which.reshape(-1)]


def judge(table: tables.Table, constants: tables.Constants) -> dict[str, Any]:
    """Compute the empirical coverage and the mean size of the sets of a table.

    Parameters
    ----------
    table : mapping of str to ndarray
        ``label`` and the columns of `KINDS`.
    constants : mapping
        Constants of the table, with its nominal coverage.

    Returns
    -------
    dict
        Nominal coverage as ``wanted``, and ``sets``, {column of `KINDS`: {"all" or class: {"n", "coverage", "interval":
        Wilson [low, high], "size": mean}}}; empty for a table without sets.
    """
    if constants.get(COVERAGE) is None or not all(name in table for name in KINDS):
        return {}
    classes = tables.classes_of(table)
    labels = tables.label_indices(table, classes)
    rows = {"all": np.full(len(labels), True)} | {name: labels == i for i, name in enumerate(classes)}
    judged: dict[str, Any] = {"wanted": constants[COVERAGE], "sets": {}}
    for name in KINDS:
        inside = _split_names(table[name], classes)
        covered = inside[np.arange(len(labels)), labels]
        judged["sets"][name] = {part: _summarise(covered[at], inside[at]) for part, at in rows.items() if at.any()}
    return judged


def _summarise(covered: np.ndarray, inside: np.ndarray) -> dict[str, Any]:
    """Return number of rows, coverage with its interval and mean size of sets (N, C) bool."""
    return {
        "n": len(covered),
        "coverage": float(covered.mean()),
        "interval": list(intervals.wilson(int(covered.sum()), len(covered))),
        "size": float(inside.sum(1).mean()),
    }


def _split_names(joined: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Invert `_join_names`: strings (N,) to sets (N, C) bool."""
    names, which = np.unique(joined.astype(str), return_inverse=True)
    return np.array([[name in text.split(JOINED) for name in classes] for text in names])[which]
