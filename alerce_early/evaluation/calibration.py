"""Probabilities that mean what they say: a temperature fitted on validation rows, and how far to believe them.

A fit is {"temperature", "kept"}: q = softmax(log p / temperature) (Guo et al. 2017, section 4.2; log-probabilities are
the logits up to a constant of each row, which the softmax removes).
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.model_selection import GroupKFold

from alerce_early.evaluation import intervals, metrics, tables

log = logging.getLogger(__name__)

HOTTEST = 5.0  # natural logarithm of the largest temperature; the smallest is its inverse
FOLDS = 5  # over which a temperature must pay before it is used
UNMOVED = 1e-6  # of a probability that is only written in another precision


def fit(table: tables.Table, method: str) -> dict[str, Any] | None:
    """Return the temperature with the lowest log loss on a table of labelled validation rows, as plain values.

    method: "temperature" or "none". Few rows may teach a temperature that makes other rows worse. So it is first fitted
    on all but one of `FOLDS` folds of objects and tried on that one, in turn; where that does not lower the mean log
    loss, the probabilities stay as they are. Returns {"temperature", "kept": why it stays 1, or None}; None where the
    method is "none", or the table has no rows or no probabilities, as one of redshifts.
    """
    classes = tables.classes_of(table)
    if method == "none" or not classes or not len(table["label"]):
        return None
    labels, logits = tables.label_indices(table, classes), _logits(tables.probabilities(table, classes))
    folds, scaled = min(FOLDS, len(np.unique(tables.find_objects(table)))), logits.copy()
    for others, held in GroupKFold(folds).split(logits, groups=tables.find_objects(table)) if folds > 1 else ():
        scaled[held] = logits[held] / _fit_temperature(labels[others], logits[others])
    before, after = _log_loss(labels, logits), _log_loss(labels, scaled)
    if after < before:
        return {"temperature": _fit_temperature(labels, logits), "kept": None}
    kept = (
        f"a temperature, cross-fitted over {len(labels):,} validation rows, would take their log loss from "
        f"{before:.4f} to {after:.4f}"
    )
    log.info("probabilities stay as they are: %s", kept)
    return {"temperature": 1.0, "kept": kept}


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


def find_probabilities(table: tables.Table) -> dict[str, np.ndarray]:
    """Return the columns p_<class> as "p" and, where they are there, q_<class> as "q", each (N, C) float64."""
    classes = tables.classes_of(table)
    there = ["p", *(["q"] if all(f"q_{name}" in table for name in classes) else [])]
    return {prefix: tables.probabilities(table, classes, prefix) for prefix in there}


def judge(table: tables.Table) -> dict[str, Any]:
    """Return how far the probabilities of a table can be believed, uncalibrated, "p", and calibrated, "q".

    Each is {"n", "values": log_loss, brier, and the calibration errors of `metrics.CalibrationErrors`, "intervals":
    {name: [low, high]}, "unmoved": whether the probabilities are those of p_<class>}.
    """
    labels, found = tables.label_indices(table, tables.classes_of(table)), find_probabilities(table)
    return {
        prefix: _summarise(labels, probabilities, tables.find_objects(table))
        | {"unmoved": bool(np.abs(probabilities - found["p"]).max() < UNMOVED)}
        for prefix, probabilities in found.items()
    }


def _summarise(labels: np.ndarray, probabilities: np.ndarray, ids: np.ndarray) -> dict[str, Any]:
    own = probabilities[np.arange(len(labels)), labels]
    log_loss, brier = metrics.log_losses(own), (probabilities**2).sum(1) - 2 * own + 1
    errors = metrics.CalibrationErrors(labels, probabilities)

    def summarise(weights: np.ndarray) -> dict[str, float]:
        means = {"log_loss": weights @ log_loss / weights.sum(), "brier": weights @ brier / weights.sum()}
        return {name: float(value) for name, value in (means | errors(weights)).items()}

    judged = intervals.judge_rows(summarise, ids)
    for name in errors.names:
        judged["intervals"][name] = intervals.reflect_interval(judged["values"][name], judged["intervals"][name])
    return judged


def _log_loss(labels: np.ndarray, logits: np.ndarray) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def _fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the temperature with the lowest log loss of (N, C) logits."""
    found = minimize_scalar(
        lambda x: _log_loss(labels, logits / np.exp(x)), bounds=(-HOTTEST, HOTTEST), options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, tables.SMALLEST))
