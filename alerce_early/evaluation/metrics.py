"""What a table of predictions is worth, in numbers. Computed once over whole tables."""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

LIGHT = 299_792.458  # km/s
CATASTROPHIC = 6_000.0  # km/s; beyond it a redshift is taken for that of another line


def classification(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Accuracy, balanced accuracy (= macro recall), macro F1, and recall, precision, F1 of each class.

    labels: (N,) int64 indices into classes; probabilities: (N, C). The class named SN comes first, where
    there is one. A class without rows has recall 0 and does not count in the balanced accuracy.
    """
    predicted = probabilities.argmax(1)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=0
    )
    first = sorted(range(len(classes)), key=lambda i: classes[i] != "SN")
    return {
        **{f"recall/{classes[i]}": float(recall[i]) for i in first[:1]},
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "macro_f1": float(f1[support > 0].mean()),
        **{
            f"{name}/{classes[i]}": float(values[i])
            for name, values in (("recall", recall), ("precision", precision), ("f1", f1))
            for i in first
        },
    }


def confusion(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """(C, C) int64 counts; row: true class, column: predicted class."""
    return confusion_matrix(labels, predicted, labels=range(n_classes))


def velocity(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Error of a redshift as a velocity, km/s: c (predicted - true) / (1 + true)."""
    return LIGHT * (predicted - true) / (1 + true)


def redshift(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Catastrophic fraction, NMAD, mean absolute and mean squared error, and bias of redshifts (N,).

    catastrophic: share of rows off by more than `CATASTROPHIC` km/s either way. bias: median of
    (predicted - true) / (1 + true), and nmad: 1.4826 times the median distance from it, both dimensionless.
    """
    error = predicted - true
    scaled = error / (1 + true)
    bias = float(np.median(scaled))
    return {
        "catastrophic": float((np.abs(velocity(true, predicted)) > CATASTROPHIC).mean()),
        "nmad": float(1.4826 * np.median(np.abs(scaled - bias))),
        "mae": float(np.abs(error).mean()),
        "mse": float((error**2).mean()),
        "bias": bias,
    }
