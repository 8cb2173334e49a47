"""Metrics of a table of predictions, computed once on the whole table."""

from collections.abc import Sequence

import numpy as np

LIGHT = 299_792.458  # speed of light, km/s
CATASTROPHIC = 6_000.0  # km/s; a larger error means that a line was misidentified
BINS, FEWEST = 15, 20  # bins of the calibration error, at most, and rows per bin, at least
TARGET = "SN"  # the default target class
LOSSES = ("log_loss", "brier", "ece")  # metrics that are not fractions of rows; 0 is best
MISS_RATES = {"fnr_at_fpr_0.01": 0.01, "fnr_at_fpr_0.1": 0.1}  # false positive rate by metric


def classification(
    labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], target: str = TARGET
) -> dict[str, float]:
    """Compute the metrics of a table of classifications; see `Classification` for parameters and names."""
    return Classification(labels, probabilities, classes, target)(np.ones(len(labels)))


class Classification:
    """Metrics of a table of classifications as a function of row weights, such as bootstrap weights.

    Rows are sorted only once, so that a bootstrap over many rows takes seconds. scikit-learn's functions give the
    same numbers.

    Parameters
    ----------
    labels : ndarray
        (N,) int64 indices into `classes`.
    probabilities : ndarray
        (N, C) in [0, 1].
    classes : sequence of str
        The C class names.
    target : str
        Class whose metrics are listed first.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], target: str = TARGET):
        self.classes, self.target, n = classes, target, len(classes)
        self.first = sorted(range(n), key=lambda i: classes[i] != target)
        predicted = probabilities.argmax(1)
        self.cell = labels * n + predicted
        self.rankings = [Ranking(labels == i, probabilities[:, i]) for i in range(n)]
        own = probabilities[np.arange(len(labels)), labels]
        self.log_loss = log_losses(own)
        self.brier = (probabilities**2).sum(1) - 2 * own + 1
        confidence = probabilities.max(1)
        self.bin, self.excess = equal_bins(confidence), confidence - (predicted == labels)

    def __call__(self, weights: np.ndarray) -> dict[str, float]:
        """Compute the weighted metrics.

        Parameters
        ----------
        weights : ndarray
            (N,), at least 0.

        Returns
        -------
        dict of str to float
            The recall of the target class first, then ``accuracy``; ``balanced_accuracy``, the macro recall;
            ``macro_precision`` and ``macro_f1``; ``mcc``, Matthews' correlation coefficient; ``log_loss`` in nats;
            ``brier``, the squared error summed over classes, in [0, 2]; ``ece``, see `CalibrationErrors`; ``roc_auc``
            and ``average_precision``, macro and, as ``<metric>/<class>``, of each class against the rest; ``recall``,
            ``precision`` and ``f1`` of each class. If there are two classes, the `positive` one also has
            ``fnr_at_fpr_<rate>``, the lowest false negative rate at a false positive rate of at most this, and, if it
            is the target, ``f2``, F-beta with beta = 2.

            A class without rows has recall 0 and is left out of macro averages; undefined metrics are left out.

        References
        ----------
        Gorodkin 2004, Comput. Biol. Chem. 28, 367 (``mcc`` of several classes).
        """
        n, total = len(self.classes), weights.sum()
        counts = np.bincount(self.cell, weights, minlength=n * n).reshape(n, n)
        right, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
        recall, precision = _share(right, true), _share(right, predicted)
        f1 = _share(2 * right, true + predicted)
        spread = np.sqrt((total**2 - (predicted**2).sum()) * (total**2 - (true**2).sum()))
        by_class = {"recall": recall, "precision": precision, "f1": f1}
        values = {
            "accuracy": right.sum() / total,
            "balanced_accuracy": recall[true > 0].mean(),
            "macro_precision": precision[true > 0].mean(),
            "macro_f1": f1[true > 0].mean(),
            "mcc": (right.sum() * total - (true * predicted).sum()) / spread if spread else 0.0,
            "log_loss": weights @ self.log_loss / total,
            "brier": weights @ self.brier / total,
            "ece": np.abs(np.bincount(self.bin, weights * self.excess)).sum() / total,
        }
        ranked = {i: self.rankings[i].counts(weights) for i in self.first if 0 < true[i] < total}
        areas = {i: (roc_auc(*hits), _average_precision(*hits)) for i, hits in ranked.items()}
        for name, area in zip(("roc_auc", "average_precision"), zip(*areas.values(), strict=True), strict=False):
            values[name] = np.mean(area)
            values |= {f"{name}/{self.classes[i]}": one for i, one in zip(areas, area, strict=True)}
        chosen = positive(self.classes, self.target)
        if n == 2 and (i := self.classes.index(chosen)) in ranked:
            for name, rate in MISS_RATES.items():
                values[f"{name}/{chosen}"] = _fnr_at_fpr(*ranked[i], rate)
            if chosen == self.target:
                values[f"f2/{chosen}"] = 5 * right[i] / (4 * true[i] + predicted[i])
        values |= {f"{name}/{self.classes[i]}": of[i] for name, of in by_class.items() for i in self.first}
        head = f"recall/{self.classes[self.first[0]]}"
        return {name: float(value) for name, value in ({head: values[head]} | values).items()}


class Ranking:
    """Ranking of rows by the score of one class against the rest.

    Parameters
    ----------
    own : ndarray
        (N,) bool, rows of the class.
    score : ndarray
        (N,), higher is more probable.

    Attributes
    ----------
    thresholds : ndarray
        (K,) distinct scores, in descending order.
    """

    def __init__(self, own: np.ndarray, score: np.ndarray):
        self.order = np.argsort(-score, kind="stable")
        self.own, falling = own[self.order], score[self.order]
        self.last = np.flatnonzero(np.append(np.diff(falling) != 0, True))
        self.thresholds = falling[self.last]

    def counts(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights, (K,) each, of true and of false positives at each threshold, given (N,) row weights."""
        weights = weights[self.order]
        own = np.cumsum(weights * self.own)[self.last]
        return own, np.cumsum(weights)[self.last] - own


class CalibrationErrors:
    """Expected calibration errors as a function of row weights.

    Rows are binned once, in bins of equal counts (`equal_bins`): by the probability of the most probable class for
    ``ece``, and by the probability of each class for ``classwise_ece``.

    Parameters
    ----------
    labels : ndarray
        (N,) int64 class indices.
    probabilities : ndarray
        (N, C) in [0, 1].

    References
    ----------
    Guo et al. 2017, arXiv:1706.04599, section 2 (``ece``); Nixon et al. 2019, arXiv:1904.01685, section 3, and Kull et
    al. 2019, arXiv:1910.12656, section 2 (``classwise_ece``).
    """

    names = ("ece", "classwise_ece")

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray):
        scores = np.column_stack([probabilities.max(1), probabilities])
        own = labels[:, None] == np.arange(probabilities.shape[1])
        hits = np.column_stack([labels == probabilities.argmax(1), own])
        bins = np.apply_along_axis(equal_bins, 0, scores)
        self.cell, self.excess = (bins + BINS * np.arange(scores.shape[1])).ravel(), scores - hits

    def __call__(self, weights: np.ndarray) -> dict[str, float]:
        """Return ``ece`` and ``classwise_ece``, its mean over classes, in [0, 1], given (N,) row weights."""
        excess = (weights[:, None] * self.excess).ravel()
        by_bin = np.bincount(self.cell, excess, minlength=BINS * self.excess.shape[1]).reshape(-1, BINS)
        top, *each = np.abs(by_bin).sum(1) / weights.sum()
        return {"ece": float(top), "classwise_ece": float(np.mean(each))}


def log_losses(own: np.ndarray) -> np.ndarray:
    """Return the log loss (N,) in nats, given the probability (N,) of the true class."""
    return -np.log(np.maximum(own, np.finfo(np.float64).eps))


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy (N,) in nats of probabilities (N, C), each row normalised to sum to 1."""
    p = probabilities / probabilities.sum(1, keepdims=True)
    return -(p * np.log(np.maximum(p, np.finfo(np.float64).tiny))).sum(1) + 0.0  # + 0.0 turns -0.0 into 0.0


def positive(classes: Sequence[str], target: str = TARGET) -> str:
    """Return the positive class: the target if it is one of the classes, otherwise the last, as in (bogus, real)."""
    return target if target in classes else classes[-1]


def equal_bins(values: np.ndarray, most: int = BINS) -> np.ndarray:
    """Assign values to bins with equally many rows.

    The expected calibration error over such bins is less biased than over bins of equal width.

    Parameters
    ----------
    values : ndarray
        (N,) finite.
    most : int
        Maximum number of bins. There are fewer if a bin would have fewer than `FEWEST` rows.

    Returns
    -------
    ndarray
        (N,) int64 index of the bin of each value. Equal values share a bin.

    References
    ----------
    Nixon et al. 2019, arXiv:1904.01685, section 3.
    """
    n = len(values)
    bins = min(most, max(1, n // FEWEST))
    edges = np.sort(values)[np.arange(1, bins) * n // bins]
    return np.searchsorted(edges, values, side="right")


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def roc_auc(own: np.ndarray, other: np.ndarray) -> float:
    """Return the area under the ROC curve, given the true and false positives (K,) of `Ranking.counts`."""
    return np.trapezoid(np.append(0, own), np.append(0, other)) / (own[-1] * other[-1])


def _average_precision(own: np.ndarray, other: np.ndarray) -> float:
    return np.diff(own, prepend=0) @ _share(own, own + other) / own[-1]


def _fnr_at_fpr(own: np.ndarray, other: np.ndarray, rate: float) -> float:
    allowed = np.searchsorted(other / other[-1], rate, side="right")
    return 1 - np.append(0, own)[allowed] / own[-1]


def confusion(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the confusion matrix, (C, C) int64: rows are true classes, columns predicted classes."""
    return np.bincount(labels * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def velocity(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the velocity error (N,) in km/s of redshifts (N,): c (predicted - true) / (1 + true)."""
    return LIGHT * (predicted - true) / (1 + true)


def redshift(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Compute the metrics of predicted redshifts (N,).

    Returns
    -------
    dict of str to float
        ``catastrophic``, the fraction of rows off by more than `CATASTROPHIC` km/s; ``bias``, the median of
        (predicted - true) / (1 + true); ``nmad``, 1.4826 times the median absolute deviation from the bias; ``mae`` and
        ``mse``, the mean absolute and squared error.
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
