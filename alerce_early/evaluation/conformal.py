"""Sets of classes that hold the true one as often as promised: split conformal prediction.

Thresholds come from the validation rows, on the probabilities as put out. Two scores, one row and class each: LAC, one
minus the probability (Sadinle et al. 2019), which gives the smallest sets; and APS, the sum of the probabilities
of all classes at least as probable (Romano et al. 2020, without their randomisation), which adapts to the row. Each
with one threshold for all rows, which holds the promise on average, or one for each class, which holds it for
the rows of every class.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from alerce_early.data.names import JOINED
from alerce_early.errors import InputError
from alerce_early.evaluation import table as tables

WANTED = "set_coverage"  # the column with the coverage that was promised


def lac(probabilities: np.ndarray) -> np.ndarray:
    """Scores (N, C) in [0, 1] of probabilities (N, C)."""
    return 1 - probabilities


def aps(probabilities: np.ndarray) -> np.ndarray:
    """Scores (N, C) in [0, 1] of probabilities (N, C)."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    summed = np.cumsum(np.take_along_axis(probabilities, order, 1), axis=1)
    scores = np.empty_like(summed)
    np.put_along_axis(scores, order, summed, 1)
    return np.minimum(scores, 1)


class Kind(NamedTuple):
    """words: for people. score: (N, C) of probabilities (N, C). by_class: whether each class has its own threshold."""

    words: str
    score: Callable[[np.ndarray], np.ndarray]
    by_class: bool


# By column of the predictions table; the first is the one to use: it does not give up rare classes.
KINDS = {
    "set": Kind("LAC by class", lac, by_class=True),
    "set_lac": Kind("LAC", lac, by_class=False),
    "set_aps_by_class": Kind("APS by class", aps, by_class=True),
    "set_aps": Kind("APS", aps, by_class=False),
}


def check(coverage: float) -> None:
    """Raises InputError for a coverage that none can promise."""
    if not 0 < coverage < 1:
        raise InputError(f"coverage={coverage} cannot be promised; wanted a number between 0 and 1, such as 0.9.")


def fit(table: tables.Table, coverage: float) -> dict[str, Any] | None:
    """Thresholds of a table of labelled validation rows, as plain values.

    coverage: in (0, 1). Returns {"coverage", "thresholds": {name of `KINDS`: C floats}}, None where the table
    has no rows or no probabilities. A class with too few rows for the promise has threshold 1: it is in every set.
    """
    check(coverage)
    classes = tables.classes_of(table)
    if not classes or not len(table["label"]):
        return None
    labels, probabilities = tables.label_indices(table, classes), tables.probabilities(table, classes)
    thresholds = {}
    for name, kind in KINDS.items():
        own = np.take_along_axis(kind.score(probabilities), labels[:, None], 1)[:, 0]
        parts = [own[labels == i] if kind.by_class else own for i in range(len(classes))]
        thresholds[name] = [threshold(part, coverage) for part in parts]
    return {"coverage": coverage, "thresholds": thresholds}


def threshold(scores: np.ndarray, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest of scores (n,) in [0, 1], or 1 where there are too few."""
    rank = int(np.ceil((len(scores) + 1) * coverage))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else 1.0


def sets(fitted: Mapping[str, Any], name: str, probabilities: np.ndarray) -> np.ndarray:
    """(N, C) bool, the classes in the set of each row, of probabilities (N, C) as put out; name: of `KINDS`.

    APS always has the most probable one.
    """
    score = KINDS[name].score
    inside = score(probabilities) <= np.array(fitted["thresholds"][name])
    if score is aps:
        inside[np.arange(len(inside)), probabilities.argmax(1)] = True
    return inside


def columns(fitted: Mapping[str, Any] | None, table: tables.Table) -> dict[str, np.ndarray]:
    """The columns of `KINDS` for a table of any rows: class names joined by "|"; none where nothing was fitted."""
    if fitted is None:
        return {}
    classes = tables.classes_of(table)
    probabilities = tables.probabilities(table, classes)
    told = {name: _joined(sets(fitted, name, probabilities), classes) for name in KINDS}
    return {**told, WANTED: np.full(len(probabilities), fitted["coverage"])}


def _joined(inside: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """(N,) str of (N, C) bool; few different sets, so each is joined once."""
    different, which = np.unique(inside, axis=0, return_inverse=True)
    names = [JOINED.join(name for name, there in zip(classes, row, strict=True) if there) for row in different]
    return np.array(names)[which.reshape(-1)]
