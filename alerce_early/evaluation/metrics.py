"""What a table of predictions is worth, in numbers. Computed once over whole tables."""

from collections.abc import Sequence

import numpy as np

LIGHT = 299_792.458  # km/s
CATASTROPHIC = 6_000.0  # km/s; beyond it a redshift is taken for that of another line
BINS, FEWEST = 15, 20  # of the calibration error, and rows in one
TARGET = "SN"  # the class that is looked for, where the user names no other: a missed one is lost
LOSSES = ("log_loss", "brier", "ece")  # numbers of a table that are no share of rows; 0 is best
MISS_RATES = {"fnr_at_fpr_0.01": 0.01, "fnr_at_fpr_0.1": 0.1}  # name of each, and its false positive rate


def classification(
    labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], target: str = TARGET
) -> dict[str, float]:
    """Numbers of one table of classifications; see `Classification`."""
    return Classification(labels, probabilities, classes, target)(np.ones(len(labels)))


class Classification:
    """Numbers of a table of classifications for any weights of its rows, such as how often each was drawn.

    labels: (N,) int64 indices into classes; probabilities: (N, C) in [0, 1]. All that needs sorting is sorted
    once, so that a bootstrap over many rows takes seconds; scikit-learn's functions give the same numbers.

    Called with weights (N,) >= 0 it returns, the target class first where there is one: accuracy; balanced
    accuracy (= macro recall); macro precision and F1; mcc, Matthews' correlation (Gorodkin 2004); roc_auc and
    average_precision, one class against the rest, macro and of each class; log_loss, nats; brier, the squared
    error summed over classes, in [0, 2]; ece, see `equal_bins`; recall, precision and F1 of each class.
    Of two classes the `positive` one also has fnr_at_fpr_<rate>, the lowest share of it that is missed where at
    most that share of the others is taken for it; and f2, F-beta with recall counting twice, if it is the target.

    A class without rows has recall 0 and counts in no macro average; what is undefined for it is left out.
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
    """One class against the rest: rows by falling score, tied rows together.

    own: (N,) bool; score: (N,). thresholds: (K,) the different scores, falling.
    """

    def __init__(self, own: np.ndarray, score: np.ndarray):
        self.order = np.argsort(-score, kind="stable")
        self.own, falling = own[self.order], score[self.order]
        self.last = np.flatnonzero(np.append(np.diff(falling) != 0, True))
        self.thresholds = falling[self.last]

    def counts(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(K,) weight of the own rows, and (K,) of all others, with at least each of the thresholds."""
        weights = weights[self.order]
        own = np.cumsum(weights * self.own)[self.last]
        return own, np.cumsum(weights)[self.last] - own


class CalibrationErrors:
    """How far predicted probabilities are from observed frequencies, for any weights of the rows.

    labels: (N,) int64; probabilities: (N, C). Rows are binned once, in bins of equal counts (`equal_bins`): by the
    probability of the most probable class, and again by that of each class. Called with weights (N,) >= 0 it returns
    ece, the weighted mean gap of the first binning (top-label, Guo et al. 2017, section 2), and classwise_ece, the same
    averaged over the binnings by class (Nixon et al. 2019, section 3; Kull et al. 2019, section 2).
    """

    names = ("ece", "classwise_ece")

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray):
        scores = np.column_stack([probabilities.max(1), probabilities])
        own = labels[:, None] == np.arange(probabilities.shape[1])
        hits = np.column_stack([labels == probabilities.argmax(1), own])
        bins = np.apply_along_axis(equal_bins, 0, scores)
        self.cell, self.excess = (bins + BINS * np.arange(scores.shape[1])).ravel(), scores - hits

    def __call__(self, weights: np.ndarray) -> dict[str, float]:
        excess = (weights[:, None] * self.excess).ravel()
        by_bin = np.bincount(self.cell, excess, minlength=BINS * self.excess.shape[1]).reshape(-1, BINS)
        top, *each = np.abs(by_bin).sum(1) / weights.sum()
        return {"ece": float(top), "classwise_ece": float(np.mean(each))}


def log_losses(own: np.ndarray) -> np.ndarray:
    """(N,) nats of the probabilities (N,) of the true class."""
    return -np.log(np.maximum(own, np.finfo(np.float64).eps))


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy (N,), nats, of probabilities (N, C), each row scaled to add up to 1."""
    p = probabilities / probabilities.sum(1, keepdims=True)
    return -(p * np.log(np.maximum(p, np.finfo(np.float64).tiny))).sum(1) + 0.0  # + 0: no -0 where one class has all


def positive(classes: Sequence[str], target: str = TARGET) -> str:
    """Return the class that is looked for: the target where it is one, or else the last, as in (bogus, real)."""
    return target if target in classes else classes[-1]


def equal_bins(values: np.ndarray, most: int = BINS) -> np.ndarray:
    """Return the number, (N,) int64, of the bin of each of (N,) values: up to `most` bins with equally many rows.

    Bins have at least `FEWEST` rows, or there is only one; equal values share a bin. The expected calibration
    error over such bins is less biased than over bins of equal width (Nixon et al. 2019, section 3).
    """
    n = len(values)
    bins = min(most, max(1, n // FEWEST))
    edges = np.sort(values)[np.arange(1, bins) * n // bins]
    return np.searchsorted(edges, values, side="right")


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def roc_auc(own: np.ndarray, other: np.ndarray) -> float:
    """Return the area under the ROC curve of what `Ranking.counts` returns."""
    return np.trapezoid(np.append(0, own), np.append(0, other)) / (own[-1] * other[-1])


def _average_precision(own: np.ndarray, other: np.ndarray) -> float:
    return np.diff(own, prepend=0) @ _share(own, own + other) / own[-1]


def _fnr_at_fpr(own: np.ndarray, other: np.ndarray, rate: float) -> float:
    allowed = np.searchsorted(other / other[-1], rate, side="right")
    return 1 - np.append(0, own)[allowed] / own[-1]


def confusion(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """(C, C) int64 counts; row: true class, column: predicted class."""
    return np.bincount(labels * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


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
