"""What a table of classifications says of its own doubt, and whether to believe it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alerce_early import tables
from alerce_early.evaluation import metrics
from alerce_early.report.page import Section, number

KEPT = (1.0, 0.95, 0.9, 0.8, 0.5)  # shares of the rows for which the page gives the accuracy


def doubt(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) predictive entropy in nats: the column of that name, or else of the probabilities."""
    if "entropy" in table:
        return table["entropy"]
    return metrics.entropy(tables.probabilities(table, tables.classes_of(table)))


def risk_coverage(right: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    """Accuracy of the k surest rows, for k = 1..N: (N,) float64.

    right: (N,) bool; doubt: (N,), higher is less sure; ties stay in the order of the rows. The k-th value is
    one minus the selective risk at coverage k / N (Geifman and El-Yaniv 2017, section 2).
    """
    kept = right[np.argsort(doubt, kind="stable")]
    return np.cumsum(kept) / np.arange(1, len(kept) + 1)


def judge(table: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """{"kept": [[share of the rows, accuracy of the surest so many]], "draws": [[class, rows, mean p, std]]}.

    draws: of the probability of the true class the mean over the rows of its mean and of its standard deviation
    over draws of the weights; empty where there were none.
    """
    accuracies = _accuracies(table)
    kept = [[share, float(accuracies[_last(share, len(accuracies))])] for share in KEPT]
    return {"kept": kept, "draws": _by_class(table) if _has_draws(table) else []}


def pictures(judged: Mapping[str, Any], table: Mapping[str, np.ndarray]) -> dict[str, Figure]:
    """Figures by file name: the risk-coverage curve, and what the draws of the weights said, where there were any."""
    figures = {"risk_coverage": _curve(_accuracies(table))}
    return figures | ({"draws": _histograms(table, tables.classes_of(table))} if _has_draws(table) else {})


def section(judged: Mapping[str, Any], drawn: Mapping[str, Figure]) -> Section | None:
    """Return what the page says; judged: of `judge`; drawn: holds `pictures`."""
    if not judged:
        return None
    kept = [[f"{share:.0%}", number(accuracy)] for share, accuracy in judged["kept"]]
    page = Section(
        "Doubt",
        words=["Rows sorted by the entropy of their prediction: leaving out the most doubtful should pay in accuracy."],
        tables=[(("rows kept", "accuracy"), kept)],
        pictures=[("Accuracy of the surest rows against the share kept.", drawn["risk_coverage"])],
    )
    if judged["draws"]:
        rows = [[name, str(n), *map(number, numbers)] for name, n, *numbers in judged["draws"]]
        page.tables.append((("true class", "rows", "mean p", "standard deviation of the draws"), rows))
        page.pictures.append(
            (
                "Probability given to each class, by true class: mean over the draws of the weights, and their "
                "standard deviation.",
                drawn["draws"],
            )
        )
    return page


def _accuracies(table: Mapping[str, np.ndarray]) -> np.ndarray:
    classes = tables.classes_of(table)
    predicted = tables.probabilities(table, classes).argmax(1)
    return risk_coverage(predicted == tables.label_indices(table, classes), doubt(table))


def _last(share: float, n: int) -> int:
    return max(1, round(share * n)) - 1


def _has_draws(table: Mapping[str, np.ndarray]) -> bool:
    return any(name.startswith("std_") for name in table)


def _by_class(table: Mapping[str, np.ndarray]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for name in tables.classes_of(table):
        own = table["label"] == name
        if own.any():
            rows.append([name, int(own.sum()), *(float(table[f"{of}_{name}"][own].mean()) for of in ("p", "std"))])
    return rows


def _curve(accuracies: np.ndarray) -> Figure:
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.add_subplot(xlabel="share of the rows kept, the surest first", ylabel="accuracy", xlim=(0, 1))
    n = len(accuracies)
    axes.plot(np.arange(1, n + 1) / n, accuracies)
    axes.axhline(accuracies[-1], color="grey", lw=0.8, ls=":")
    # the first few rows are noise: one mistake among ten
    axes.set_ylim(max(0.0, accuracies[n // 20 :].min() - 0.02), 1.005)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _histograms(table: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """One column a class: the mean probability of it above, its standard deviation below, split by true class."""
    figure = Figure(figsize=(max(2.6 * len(classes), 6), 4.4), layout="constrained")
    axes = figure.subplots(2, len(classes), squeeze=False, sharey="row")
    for column, name in enumerate(classes):
        own = table["label"] == name
        for row, (prefix, words) in enumerate((("p", "probability"), ("std", "standard deviation"))):
            values = table[f"{prefix}_{name}"]
            bins = np.linspace(0, 1 if prefix == "p" else 0.5, 26)
            parts, labels = [values[own], values[~own]], [name, "other"]
            axes[row, column].hist(parts, bins, stacked=True, label=labels, color=["tab:blue", "lightgrey"])
            axes[row, column].set_xlabel(f"{words} of {name}", fontsize=9)
            axes[row, column].spines[["top", "right"]].set_visible(False)
        axes[0, column].legend(fontsize=8, frameon=False, title="true class", title_fontsize=8)
    for row in axes[:, 0]:
        row.set_ylabel("rows")
    return figure
