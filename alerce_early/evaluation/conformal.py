"""Sets of classes that hold the true one as often as promised: split conformal prediction.

Thresholds come from the validation rows, on the uncalibrated probabilities. The score of a row and class is one minus
its probability (Sadinle et al. 2019), which gives the smallest sets. The promise holds on average over all rows with
one threshold for all classes ("marginal"), and for the rows of every class with one for each ("class-conditional").
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from alerce_early.errors import InputError
from alerce_early.evaluation import intervals, tables
from alerce_early.files import JOINED

COVERAGE = "set_coverage"  # the constant of a table with the coverage that its sets promise
# By column of the predictions table; the first is the one to use: it does not give up rare classes.
KINDS = {"set": "class-conditional", "set_marginal": "marginal"}
# Added to a threshold, which is the score of one of the rows: another runtime gives that row a score that differs by
# rounding, at most by as much as exported files are allowed to, and must not drop its class for that.
SLACK = 1e-5


def check(coverage: float) -> None:
    """Raise InputError for a coverage that none can promise."""
    if not 0 < coverage < 1:
        raise InputError(f"coverage={coverage} cannot be promised; wanted a number between 0 and 1, such as 0.9.")


def fit(table: tables.Table, coverage: float) -> dict[str, Any] | None:
    """Return the thresholds of a table of labelled validation rows, as plain values.

    coverage: in (0, 1). Returns {"coverage", "thresholds": {name of `KINDS`: C floats}}, None where the table
    has no rows or no probabilities. A class with too few rows for the promise has threshold 1: it is in every set.
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
    """Return the ceil((n + 1) coverage)-th smallest of scores (n,) in [0, 1], plus `SLACK`; 1 of too few scores."""
    rank = int(np.ceil((len(scores) + 1) * coverage))
    return min(1.0, float(np.sort(scores)[rank - 1]) + SLACK) if rank <= len(scores) else 1.0


def sets(thresholds: list[float], probabilities: np.ndarray) -> np.ndarray:
    """Return (N, C) bool, the classes in the set of each row, of uncalibrated probabilities (N, C)."""
    return 1 - probabilities <= np.array(thresholds)


def set_columns(fitted: Mapping[str, Any] | None, table: tables.Table) -> dict[str, np.ndarray]:
    """Return the columns of `KINDS` of a table of any rows, classes joined by "|"; none where nothing was fitted."""
    if fitted is None:
        return {}
    classes = tables.classes_of(table)
    probabilities = tables.probabilities(table, classes)
    return {name: _join_names(sets(fitted["thresholds"][name], probabilities), classes) for name in KINDS}


def list_constants(fitted: Mapping[str, Any] | None) -> dict[str, float | None]:
    """Return the promised coverage as a constant of a table; none where nothing was fitted."""
    return {COVERAGE: fitted["coverage"]} if fitted else {}


def _join_names(inside: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """(N,) str of (N, C) bool; few different sets, so each is joined once."""
    different, which = np.unique(inside, axis=0, return_inverse=True)
    names = [JOINED.join(name for name, there in zip(classes, row, strict=True) if there) for row in different]
    return np.array(names)[which.reshape(-1)]


def judge(table: tables.Table, constants: tables.Constants) -> dict[str, Any]:
    """Return how often the sets of a table hold the true class, and how large they are; {} where it has none.

    Returns {"wanted": coverage, "sets": {name of `KINDS`: {"all" or class: {"n", "coverage", "interval": [low, high]
    (Wilson), "size": mean}}}}.
    """
    if constants.get(COVERAGE) is None or not all(name in table for name in KINDS):
        return {}
    classes = tables.classes_of(table)
    labels = tables.label_indices(table, classes)
    rows = {"all": np.full(len(labels), True)} | {name: labels == i for i, name in enumerate(classes)}
    judged: dict[str, Any] = {"wanted": constants[COVERAGE], "sets": {}}
    for name in KINDS:
        inside = _split_names(table[name], classes)
        held = inside[np.arange(len(labels)), labels]
        judged["sets"][name] = {part: _summarise(held[of], inside[of]) for part, of in rows.items() if of.any()}
    return judged


def _summarise(held: np.ndarray, inside: np.ndarray) -> dict[str, Any]:
    return {
        "n": len(held),
        "coverage": float(held.mean()),
        "interval": list(intervals.wilson(int(held.sum()), len(held))),
        "size": float(inside.sum(1).mean()),
    }


def _split_names(joined: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """(N, C) bool of (N,) str."""
    names, which = np.unique(joined.astype(str), return_inverse=True)
    return np.array([[name in text.split(JOINED) for name in classes] for text in names])[which]
