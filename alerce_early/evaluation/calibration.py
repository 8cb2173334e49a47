"""Probabilities that mean what they say: a temperature fitted on the validation rows.

A fit is {"temperature", "kept"}: q = softmax(log p / temperature) (Guo et al. 2017, section 4.2; log-probabilities are
the logits up to a constant of each row, which the softmax removes).
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from alerce_early import tables
from alerce_early.data.splits import fold_of
from alerce_early.errors import InputError

log = logging.getLogger(__name__)

METHODS = ("temperature", "none")
HOTTEST = 5.0  # natural logarithm of the largest temperature; the smallest is its inverse
FOLDS = 5  # over which a temperature must pay before it is used


def check(method: str) -> None:
    """Refuse a method that is none of `METHODS` with an InputError."""
    if method not in METHODS:
        raise InputError(f"calibration={method} is unknown; there are {', '.join(METHODS)}.")


def fit(table: tables.Table, method: str) -> dict[str, Any] | None:
    """Return the temperature with the lowest log loss on a table of labelled validation rows, as plain values.

    method: one of `METHODS`. Few rows may teach a temperature that makes other rows worse. So it is first fitted on
    all but one of `FOLDS` folds of objects and tried on that one, in turn; where that does not lower the mean log
    loss, the probabilities stay as they are. Returns {"temperature", "kept": why it stays 1, or None}; None where the
    method is "none", or the table has no rows or no probabilities, as one of redshifts.
    """
    check(method)
    classes = tables.classes_of(table)
    if method == "none" or not classes or not len(table["label"]):
        return None
    labels, logits = tables.label_indices(table, classes), _logits(tables.probabilities(table, classes))
    fold, scaled = fold_of(labels, table["id"], FOLDS), logits.copy()
    for held in (fold == i for i in range(FOLDS)):
        if held.any() and not held.all():
            scaled[held] = logits[held] / _temperature(labels[~held], logits[~held])
    before, after = _log_loss(labels, logits), _log_loss(labels, scaled)
    if after < before:
        return {"temperature": _temperature(labels, logits), "kept": None}
    kept = (
        f"a temperature, cross-fitted over {len(labels):,} validation rows, would take their log loss from "
        f"{before:.4f} to {after:.4f}"
    )
    log.info("probabilities stay as they are: %s", kept)
    return {"temperature": 1.0, "kept": kept}


def _log_loss(labels: np.ndarray, logits: np.ndarray) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def _temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the temperature with the lowest log loss of (N, C) logits."""
    found = minimize_scalar(
        lambda x: _log_loss(labels, logits / np.exp(x)), bounds=(-HOTTEST, HOTTEST), options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def apply(fitted: Mapping[str, Any], probabilities: np.ndarray) -> np.ndarray:
    """Return the calibrated probabilities, (N, C) float64, of (N, C) in [0, 1]."""
    return softmax(_logits(probabilities) / fitted["temperature"], axis=1)


def calibrate_columns(fitted: Mapping[str, Any] | None, table: tables.Table) -> dict[str, np.ndarray]:
    """Return the columns q_<class> (N,) of a table of any rows; none where nothing was fitted."""
    if fitted is None:
        return {}
    classes = tables.classes_of(table)
    calibrated = apply(fitted, tables.probabilities(table, classes))
    return {f"q_{name}": calibrated[:, i] for i, name in enumerate(classes)}


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, tables.SMALLEST))
