"""Temperature scaling, fitted on validation rows, and calibration metrics.

q = softmax(log p / temperature) (Guo et al. 2017, section 4.2). Log probabilities are logits up to a constant per row,
which the softmax removes.
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

LOG_T_MAX = 5.0  # natural logarithm of the largest temperature; the smallest is its inverse
N_FOLDS = 5  # over which a temperature must lower the log loss before it is used
UNCHANGED_TOLERANCE = 1e-6  # largest change of a probability that is due to its precision in the file


def fit(table: tables.Table, method: str) -> dict[str, Any] | None:
    """Fit the temperature with the lowest log loss on labelled validation rows.

    A temperature fitted to few rows may make other rows worse, so it is cross-validated over `N_FOLDS` folds of
    objects first: if that does not lower the mean log loss, the probabilities stay unchanged.

    Parameters
    ----------
    table : mapping of str to ndarray
        Validation rows: ``label`` and ``p_<class>``.
    method : {"temperature", "none"}
        Method of calibration.

    Returns
    -------
    dict or None
        {"temperature": float above 0, "kept": the reason if it is 1, otherwise None}. None for the method "none" and
        for a table without rows or without probabilities.

    References
    ----------
    Guo et al. 2017, arXiv:1706.04599.
    """
    classes = tables.classes_of(table)
    if method == "none" or not classes or not len(table["label"]):
        return None
    labels, logits = tables.label_indices(table, classes), _logits(tables.probabilities(table, classes))
    folds, scaled = min(N_FOLDS, len(np.unique(tables.find_objects(table)))), logits.copy()
    for others, held_out in GroupKFold(folds).split(logits, groups=tables.find_objects(table)) if folds > 1 else ():
        scaled[held_out] = logits[held_out] / _fit_temperature(labels[others], logits[others])
    before, after = _log_loss(labels, logits), _log_loss(labels, scaled)
    if after < before:
        return {"temperature": _fit_temperature(labels, logits), "kept": None}
    kept = (
        f"temperature scaling would change the cross-validated log loss of {len(labels):,} validation rows from "
        f"{before:.4f} to {after:.4f}"
    )
    log.info("probabilities are not calibrated: %s", kept)
    return {"temperature": 1.0, "kept": kept}


def apply(fitted: Mapping[str, Any], probabilities: np.ndarray) -> np.ndarray:
    """Return calibrated probabilities (N, C) float64, given probabilities (N, C) in [0, 1]."""
    return softmax(_logits(probabilities) / fitted["temperature"], axis=1)


def calibrate_columns(fitted: Mapping[str, Any] | None, table: tables.Table) -> dict[str, np.ndarray]:
    """Return the calibrated columns q_<class> (N,) of a table, or none if nothing was fitted."""
    if fitted is None:
        return {}
    classes = tables.classes_of(table)
    calibrated = apply(fitted, tables.probabilities(table, classes))
    return {f"q_{name}": calibrated[:, i] for i, name in enumerate(classes)}


def find_probabilities(table: tables.Table) -> dict[str, np.ndarray]:
    """Return the columns p_<class> as "p" and, if present, q_<class> as "q", each (N, C) float64."""
    classes = tables.classes_of(table)
    prefixes = ["p", *(["q"] if all(f"q_{name}" in table for name in classes) else [])]
    return {prefix: tables.probabilities(table, classes, prefix) for prefix in prefixes}


def judge(table: tables.Table) -> dict[str, Any]:
    """Compute calibration metrics of a table with labels.

    Parameters
    ----------
    table : mapping of str to ndarray
        ``label``, ``p_<class>`` and, if calibrated, ``q_<class>``.

    Returns
    -------
    dict
        For "p" and, if present, "q": {"n", "values": log loss, Brier score and the calibration errors of
        `metrics.CalibrationErrors`, "intervals": {name: [low, high]}, "unmoved": whether they equal "p"}.
    """
    labels, found = tables.label_indices(table, tables.classes_of(table)), find_probabilities(table)
    return {
        prefix: _summarise(labels, probabilities, tables.find_objects(table))
        | {"unmoved": bool(np.abs(probabilities - found["p"]).max() < UNCHANGED_TOLERANCE)}
        for prefix, probabilities in found.items()
    }


def _summarise(labels: np.ndarray, probabilities: np.ndarray, ids: np.ndarray) -> dict[str, Any]:
    """Return the calibration metrics of probabilities (N, C) with intervals over objects (N,)."""
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
    """Return the mean log loss in nats of (N, C) logits."""
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def _fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the temperature with the lowest log loss of (N, C) logits."""
    found = minimize_scalar(
        lambda x: _log_loss(labels, logits / np.exp(x)), bounds=(-LOG_T_MAX, LOG_T_MAX), options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """Return the logarithms of probabilities, clipped to avoid log(0)."""
    return np.log(np.maximum(probabilities, tables.SMALLEST))
