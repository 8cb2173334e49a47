"""How far the probabilities of a table can be believed, as they are and, where there are any, calibrated."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alerce_early import tables
from alerce_early.evaluation import intervals, metrics
from alerce_early.report.page import Section, number

NUMBERS = {
    "log_loss": "log loss (nats)",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "classwise_ece": "calibration error by class, mean",
    "debiased_rmsce": "root mean square calibration error, debiased",
}
NAMES = {"p": "uncalibrated", "q": "calibrated"}  # prefix of the columns, and what they are
DRAWS = 200  # of labels from the probabilities
UNMOVED = 1e-6  # of a probability that is only written in another precision
WORDS = (
    "Rows in bins of equal counts by the probability of their most probable class: of those sure by 80 %, 80 % should "
    "be right. The expected calibration error (Guo et al. 2017) is the mean distance; by class, that of the "
    "probability of each class from its share. Neither is ever 0, also for perfect probabilities: below each stands "
    "what these very probabilities would show on these rows if the labels were drawn from them. The debiased error "
    "takes that part off and may be 0 (Kumar et al. 2019)."
)


def judge(table: tables.Table) -> dict[str, Any]:
    """Numbers of the columns p_<class>, "p", and, where they are there, of q_<class>, "q".

    Each is {"n", "values": `NUMBERS`, "intervals": {name: [low, high]}, "perfect": {name: [mean, 95th percentile]},
    "unmoved": whether the probabilities are those of p_<class>}. "perfect" is what the calibration errors would be
    if every label were drawn from the probabilities of its row (consistency resampling, Broecker and Smith 2007).
    """
    labels = tables.label_indices(table, tables.classes_of(table))
    columns = {prefix: _columns(table, prefix) for prefix in _prefixes(table)}
    return {
        prefix: _summarise(labels, probabilities, table["id"])
        | {"unmoved": bool(np.abs(probabilities - columns["p"]).max() < UNMOVED)}
        for prefix, probabilities in columns.items()
    }


def pictures(judged: Mapping[str, Any], table: tables.Table) -> dict[str, Figure]:
    """Return the reliability diagram, of the probabilities as they are and, where there are any, calibrated."""
    labels = tables.label_indices(table, tables.classes_of(table))
    shown = {NAMES[prefix]: _columns(table, prefix) for prefix in _prefixes(table)}
    return {"reliability": _diagram(labels, shown)}


def section(judged: Mapping[str, Any], drawn: Mapping[str, Figure]) -> Section | None:
    """Return what the page says; judged: of `judge`; drawn: holds `pictures`."""
    if not judged:
        return None
    page = Section(
        "Calibration",
        words=[WORDS],
        tables=[(("", *(NAMES[prefix] for prefix in judged)), _rows(judged))],
        pictures=[("Share of right rows against mean probability, with 95 % intervals.", drawn["reliability"])],
    )
    if "q" in judged:
        page.words.append(
            "The calibrated probabilities, columns q_*, are the uncalibrated ones: no temperature lowered the log loss "
            "of validation rows that were left out of its fit."
            if judged["q"]["unmoved"]
            else "The calibrated probabilities, columns q_*, have the temperature of the lowest log loss on the "
            "validation rows alone; the class predicted is still that of the columns p_*."
        )
    return page


def _prefixes(table: tables.Table) -> list[str]:
    return ["p", *(["q"] if all(f"q_{name}" in table for name in tables.classes_of(table)) else [])]


def _columns(table: tables.Table, prefix: str) -> np.ndarray:
    return np.stack([table[f"{prefix}_{name}"] for name in tables.classes_of(table)], 1).astype(np.float64)


def _summarise(labels: np.ndarray, probabilities: np.ndarray, ids: np.ndarray) -> dict[str, Any]:
    own = probabilities[np.arange(len(labels)), labels]
    log_loss, brier = metrics.log_losses(own), (probabilities**2).sum(1) - 2 * own + 1
    errors = metrics.CalibrationErrors(probabilities)
    hits = errors.hits(labels)

    def numbers(weights: np.ndarray) -> dict[str, float]:
        means = {"log_loss": weights @ log_loss / weights.sum(), "brier": weights @ brier / weights.sum()}
        return {name: float(value) for name, value in (means | errors(hits, weights)).items()}

    judged = intervals.judge_rows(numbers, ids)
    for name in errors.names:
        judged["intervals"][name] = intervals.reflect_interval(judged["values"][name], judged["intervals"][name])
    judged["values"]["debiased_rmsce"] = errors.debiased(hits)
    return judged | {"perfect": _perfect(errors, probabilities)}


def _perfect(errors: metrics.CalibrationErrors, probabilities: np.ndarray) -> dict[str, list[float]]:
    """[mean, 95th percentile] of each calibration error over `DRAWS` draws of the labels from the probabilities."""
    rng = np.random.default_rng(0)
    below = np.cumsum(probabilities, axis=1)[:, :-1]
    alike = np.ones(len(probabilities))
    drawn = [
        errors(errors.hits((rng.random((len(below), 1)) * probabilities.sum(1, keepdims=True) > below).sum(1)), alike)
        for _ in range(DRAWS)
    ]
    return {
        name: [float(np.mean(found)), float(np.percentile(found, 95))]
        for name in errors.names
        for found in [[one[name] for one in drawn]]
    }


def _rows(judged: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name, told in NUMBERS.items():
        rows.append([told, *(number(of["values"][name], of["intervals"].get(name)) for of in judged.values())])
        if name in judged["p"]["perfect"]:
            perfect = [of["perfect"][name] for of in judged.values()]
            rows.append(["  if perfect", *(f"{mean:.3f} (95 %: < {high:.3f})" for mean, high in perfect)])
    return rows


def _diagram(labels: np.ndarray, shown: Mapping[str, np.ndarray]) -> Figure:
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.add_subplot(xlabel="mean probability of the class predicted", ylabel="share that is right")
    axes.plot((0, 1), (0, 1), color="grey", lw=0.8, ls=":")
    for name, probabilities in shown.items():
        confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
        bins = metrics.equal_bins(confidence)
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
