"""Probabilities that mean what they say: scaling fitted on the validation rows, and how well it works.

A fit is {"method", "scale": C floats, "bias": C floats}: q = softmax(scale * log p + bias). One scale for all and
no bias is temperature scaling, free scales and biases are vector scaling (Guo et al. 2017, sections 4.2 and 4.3;
log-probabilities are the logits up to a constant of each row, which the softmax removes).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from alerce_early.errors import InputError
from alerce_early.evaluation import intervals, metrics
from alerce_early.evaluation import table as tables
from alerce_early.evaluation.page import Section, number

METHODS = ("temperature", "vector", "none")
SMALLEST = 1e-12  # probability; a network's zero is a rounded one
PENALTY = 1e-3  # on the distance of vector scaling from none, so that a class without mistakes stays finite
NUMBERS = {"log_loss": "log loss (nats)", "ece": "expected calibration error", "brier": "Brier score"}


def check(method: str) -> None:
    """Raises InputError for a method that is none."""
    if method not in METHODS:
        raise InputError(f"calibration={method} is unknown; there are {', '.join(METHODS)}.")


def fit(table: tables.Table, method: str) -> dict[str, Any] | None:
    """The scaling with the lowest log loss on a table of labelled validation rows, as plain values.

    method: one of `METHODS`. None where it is "none", or the table has no rows or no probabilities, as one of
    redshifts.
    """
    check(method)
    classes = tables.classes_of(table)
    if method == "none" or not classes or not len(table["label"]):
        return None
    labels, logits = tables.label_indices(table, classes), _logits(tables.probabilities(table, classes))
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
    scale, bias = unpacked(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-5, 5)] * len(start)).x)
    return {"method": method, "scale": scale.tolist(), "bias": bias.tolist()}


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


def judge(table: tables.Table) -> dict[str, Any]:
    """{"values", "intervals"}: `NUMBERS` of the columns q_<class>; {} where there are none."""
    classes = tables.classes_of(table)
    if not all(f"q_{name}" in table for name in classes):
        return {}
    judged = metrics.Classification(tables.label_indices(table, classes), _calibrated(table), classes)

    def numbers(weights: np.ndarray) -> dict[str, float]:
        values = judged(weights)
        return {name: values[name] for name in NUMBERS}

    values = numbers(np.ones(len(table["label"])))
    bounds = intervals.bootstrap(numbers, table["id"], weights=True)
    bounds["ece"] = intervals.reflected(values["ece"], bounds["ece"])
    return {
        "values": values,
        "intervals": {name: list(bound) for name, bound in bounds.items()},
    }


def pictures(table: tables.Table) -> dict[str, Figure]:
    """The reliability diagram, of the probabilities as they are and, where there are any, calibrated."""
    classes = tables.classes_of(table)
    shown = {"as put out": tables.probabilities(table, classes)}
    if f"q_{classes[0]}" in table:
        shown["calibrated"] = _calibrated(table)
    return {"reliability": _reliability(tables.label_indices(table, classes), shown)}


def section(judged: Mapping[str, Any], drawn: Mapping[str, Figure]) -> Section:
    """What the page says; judged: of the whole table, with "calibrated" from `judge`; drawn: holds `pictures`."""
    before, after = judged, judged["calibrated"]
    page = Section(
        "Calibration",
        words=[
            "Rows in bins of equal counts by the probability of their most probable class: of those sure by 80 %, "
            "80 % should be right. The calibration error is never quite 0, also for perfect probabilities."
        ],
        pictures=[("Share of right rows against mean probability, with 95 % intervals.", drawn["reliability"])],
    )
    if after:
        page.words.append(
            "The calibrated probabilities, columns q_*, were scaled to the lowest log loss on the validation rows "
            "alone; the class predicted is still that of the columns p_*."
        )
        rows = [
            [told, *(number(part["values"][name], part["intervals"][name]) for part in (before, after))]
            for name, told in NUMBERS.items()
        ]
        page.tables.append((("", "as put out", "calibrated"), rows))
    return page


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, SMALLEST))


def _calibrated(table: tables.Table) -> np.ndarray:
    return np.stack([table[f"q_{name}"] for name in tables.classes_of(table)], 1).astype(np.float64)


def _reliability(labels: np.ndarray, shown: Mapping[str, np.ndarray]) -> Figure:
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.add_subplot(xlabel="mean probability of the class predicted", ylabel="share that is right")
    axes.plot((0, 1), (0, 1), color="grey", lw=0.8, ls=":")
    for name, probabilities in shown.items():
        confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
        bins = metrics.calibration_bins(confidence)
        rows = np.bincount(bins)
        counts, sums = np.bincount(bins, right), np.bincount(bins, confidence)
        used = rows > 0
        share, mean = counts[used] / rows[used], sums[used] / rows[used]
        ends = np.array([intervals.wilson(int(k), int(n)) for k, n in zip(counts[used], rows[used], strict=True)]).T
        axes.errorbar(mean, share, np.abs(ends - share), fmt="o-", ms=4, lw=1, label=name)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
