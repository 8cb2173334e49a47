"""Probabilities that mean what they say: scaling fitted on the validation rows.

A fit is {"method", "scale": C floats, "bias": C floats, "kept"}: q = softmax(scale * log p + bias). One scale for
all and no bias is temperature scaling, free scales and biases are vector scaling (Guo et al. 2017, sections 4.2 and
4.3; log-probabilities are the logits up to a constant of each row, which the softmax removes).
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from alerce_early.data.splits import fold_of
from alerce_early.errors import InputError
from alerce_early.evaluation import table as tables

log = logging.getLogger(__name__)

METHODS = ("temperature", "vector", "none")
PENALTY = 1e-3  # on the distance of vector scaling from none, so that a class without mistakes stays finite
FOLDS = 5  # over which a scaling must pay before it is used


def check(method: str) -> None:
    """Raises InputError for a method that is none."""
    if method not in METHODS:
        raise InputError(f"calibration={method} is unknown; there are {', '.join(METHODS)}.")


def fit(table: tables.Table, method: str) -> dict[str, Any] | None:
    """The scaling with the lowest log loss on a table of labelled validation rows, as plain values.

    method: one of `METHODS`. Few rows may teach a scaling that makes other rows worse. So it is first fitted on
    all but one of `FOLDS` folds of objects and tried on that one, in turn; where that does not lower the mean log
    loss, the probabilities stay as they are. Returns {"method", "scale", "bias", "kept": why nothing was scaled,
    or None}; None where the method is "none", or the table has no rows or no probabilities, as one of redshifts.
    """
    check(method)
    classes = tables.classes_of(table)
    if method == "none" or not classes or not len(table["label"]):
        return None
    labels, logits = tables.label_indices(table, classes), _logits(tables.probabilities(table, classes))
    before, after = _log_loss(labels, logits), _cross_fitted(labels, logits, table["id"], method)
    kept = None
    if not after < before:
        kept = (
            f"{method} scaling, cross-fitted over {len(labels):,} validation rows, would take their log loss from "
            f"{before:.4f} to {after:.4f}"
        )
        log.info("probabilities stay as they are: %s", kept)
    scale, bias = (np.ones(len(classes)), np.zeros(len(classes))) if kept else _scaling(labels, logits, method)
    return {"method": method, "scale": scale.tolist(), "bias": bias.tolist(), "kept": kept}


def _cross_fitted(labels: np.ndarray, logits: np.ndarray, ids: np.ndarray, method: str) -> float:
    """Mean log loss of rows under a scaling that was fitted without them and the other rows of their object."""
    fold, scaled = fold_of(labels, ids, FOLDS), logits.copy()
    for held in (fold == i for i in range(FOLDS)):
        if held.any() and not held.all():
            scale, bias = _scaling(labels[~held], logits[~held], method)
            scaled[held] = logits[held] * scale + bias
    return _log_loss(labels, scaled)


def _log_loss(labels: np.ndarray, logits: np.ndarray) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def _scaling(labels: np.ndarray, logits: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Scales and biases (C,) with the lowest log loss of (N, C) logits."""
    n, c = np.arange(len(labels)), logits.shape[1]

    def unpacked(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (np.full(c, np.exp(x[0])), np.zeros(c)) if method == "temperature" else (np.exp(x[:c]), x[c:])

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean log loss and its gradient; scales are exponentials, so that they stay positive."""
        scale, bias = unpacked(x)
        log_q = log_softmax(logits * scale + bias, axis=1)
        excess = np.exp(log_q)
        excess[n, labels] -= 1
        by_scale = (excess * logits).mean(0) * scale
        gradient = by_scale.sum(keepdims=True) if method == "temperature" else np.append(by_scale, excess.mean(0))
        penalty = PENALTY * (method == "vector")
        return -log_q[n, labels].mean() + penalty * (x @ x), gradient + 2 * penalty * x

    start = np.zeros(1 if method == "temperature" else 2 * c)
    return unpacked(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-5, 5)] * len(start)).x)


def apply(fitted: Mapping[str, Any], probabilities: np.ndarray) -> np.ndarray:
    """(N, C) float64 calibrated probabilities of (N, C) in [0, 1]."""
    return softmax(_logits(probabilities) * np.array(fitted["scale"]) + np.array(fitted["bias"]), axis=1)


def columns(fitted: Mapping[str, Any] | None, table: tables.Table) -> dict[str, np.ndarray]:
    """The columns q_<class> (N,) of a table of any rows; none where nothing was fitted."""
    if fitted is None:
        return {}
    classes = tables.classes_of(table)
    calibrated = apply(fitted, tables.probabilities(table, classes))
    return {f"q_{name}": calibrated[:, i] for i, name in enumerate(classes)}


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, tables.SMALLEST))
