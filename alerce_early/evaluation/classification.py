"""Judging a table of classifications: numbers with intervals, and what the page says of them."""

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alerce_early import tables
from alerce_early.evaluation import (
    coverage,
    intervals,
    metrics,
    reliability,
    slices,
    thresholds,
    uncertainty,
)
from alerce_early.report import figures, provenance
from alerce_early.report.page import Section, number

WORDS = {
    "recall/SN": "SN recall",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
}
MORE = {
    "mcc": "Matthews' correlation",
    "roc_auc": "ROC AUC, macro",
    "average_precision": "average precision, macro",
    "log_loss": "log loss (nats)",
    "brier": "Brier score, summed over classes",
    "ece": "expected calibration error",
    "f2/SN": "F-beta of SN, recall counts twice",
}
BY_CLASS = {
    "recall": "recall",
    "precision": "precision",
    "f1": "F1",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
}
CAPTIONS = {
    "confusion": "Confusion matrix: share of the true class, and counts.",
    "by_class": "Each class against the rest, over the thresholds on its probability.",
}
CURVES = ("balanced_accuracy", "accuracy", "recall/")  # of the validation split, by epoch
RANKED_BY = "balanced_accuracy"  # the mean over `strata` of the share that is `right`
LOWER_IS_BETTER = False

# What else is judged, by its name in the result, in the order of the page. Each has judge(table), plain values;
# pictures(judged, table), by file name; and section(judged, drawn). {} and None: it has nothing to say of a table.
PARTS: dict[str, ModuleType] = {
    "thresholds": thresholds,
    "by_column": slices,
    "calibration": reliability,
    "conformal": coverage,
    "doubt": uncertainty,
}


def fits(columns: list[str]) -> bool:
    """Whether a table with these columns is one of classifications."""
    return any(name.startswith("p_") for name in columns)


def judge(table: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """All that is said of a table of classifications, as plain values: `numbers`, and of each of `PARTS`."""
    return numbers(table) | {name: part.judge(table) for name, part in PARTS.items()}


def numbers(table: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Numbers of the classes predicted, as plain values.

    Returns {"n": rows, "classes": names, "values": {name: number}, "intervals": {name: [low, high]},
    "confusion": counts by true and predicted class}.
    Recall, precision and accuracy have the intervals of `intervals.share`; all else has a bootstrap over objects.
    """
    classes = tables.classes_of(table)
    labels, probabilities = tables.label_indices(table, classes), tables.probabilities(table, classes)
    judged = intervals.judge_rows(metrics.Classification(labels, probabilities, classes), table["id"])
    bounds = judged["intervals"]
    bounds["ece"] = intervals.reflect_interval(judged["values"]["ece"], bounds["ece"])
    counts = metrics.confusion(labels, probabilities.argmax(1), len(classes))
    bounds |= _of_shares(labels, probabilities.argmax(1), table["id"], classes)
    return {**judged, "classes": list(classes), "confusion": counts.tolist()}


def right(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) bool: whether the most probable class is the true one."""
    classes = tables.classes_of(table)
    return tables.probabilities(table, classes).argmax(1) == tables.label_indices(table, classes)


def strata(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) str, the parts of the rows that weigh alike in the score: the classes."""
    return table["label"].astype(str)


def _of_shares(
    labels: np.ndarray, predicted: np.ndarray, ids: np.ndarray, classes: tuple[str, ...]
) -> dict[str, list[float]]:
    parts = {"accuracy": np.full(len(labels), True)}
    for i, name in enumerate(classes):
        parts |= {f"recall/{name}": labels == i, f"precision/{name}": predicted == i}
    return {name: list(intervals.share((labels == predicted)[part], ids[part])) for name, part in parts.items()}


def headline(judged: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value with interval) of the few numbers that matter most, supernovae first."""
    return [
        (told, number(judged["values"][name], judged["intervals"][name]))
        for name, told in WORDS.items()
        if name in judged["values"]
    ]


def pictures(judged: Mapping[str, Any], table: Mapping[str, np.ndarray]) -> dict[str, Figure]:
    """Figures of the result by file name."""
    ranked = {
        name: metrics.Ranking(own, table[f"p_{name}"]).counts(np.ones(len(own)))
        for name in judged["classes"]
        if 0 < (own := table["label"] == name).sum() < len(own)
    }
    drawn = {"confusion": figures.confusion(np.array(judged["confusion"]), judged["classes"])}
    drawn |= {"by_class": figures.by_class(ranked)} if ranked else {}
    for name, part in PARTS.items():
        drawn |= part.pictures(judged[name], table)
    return drawn


def sections(
    judged: Mapping[str, Any],
    table: Mapping[str, np.ndarray],
    drawn: Mapping[str, Figure],
    images: Callable[[np.ndarray], np.ndarray] | None,
) -> list[Section]:
    """Return what the page says of a judged table; drawn: `pictures`.

    images: row numbers (n,) to (n, C, ...); None where there are none, as for a foreign table.
    """
    title, standing = provenance.describe_rows(table)
    return [
        Section(
            title,
            words=[
                f"{standing}. Brackets are 95 % "
                "intervals; where two overlap widely, this split cannot tell the classes or the runs apart."
            ],
            tables=[((), _overall(judged)), (("class", "rows", *BY_CLASS.values()), _by_class(judged))],
            pictures=[(told, drawn[name]) for name, told in CAPTIONS.items() if name in drawn],
        ),
        *(said for name, part in PARTS.items() if (said := part.section(judged[name], drawn))),
        _mistakes(table, judged["classes"], images),
        _limits(judged, table),
    ]


def _mistakes(
    table: Mapping[str, np.ndarray], classes: Sequence[str], images: Callable[[np.ndarray], np.ndarray] | None
) -> Section:
    page = Section("Most confident mistakes")
    shown = figures.most_confident_mistakes(table, classes)
    if not len(shown):
        page.words.append("There is none.")
    elif images:
        page.pictures.append(("As the net sees them.", figures.mistakes(table, shown, images)))
    else:
        columns = ("id", "label", "predicted", *(f"p_{name}" for name in classes))
        rows = [
            [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row]
            for row in zip(*(table[name][shown].tolist() for name in columns), strict=True)
        ]
        page.tables.append((columns, rows))
    return page


def _limits(judged: Mapping[str, Any], table: Mapping[str, np.ndarray]) -> Section:
    rows_of = {name: sum(row) for name, row in zip(judged["classes"], judged["confusion"], strict=True) if sum(row)}
    rarest = min(rows_of, key=lambda name: rows_of[name])
    low, high = judged["intervals"][f"recall/{rarest}"]
    objects = len(np.unique(table["id"]))
    shared = [f"The {judged['n']:,} rows are of {objects:,} objects; whole objects were drawn for the intervals."]
    return Section(
        "What this evaluation cannot say",
        words=[
            f"{rarest} has the fewest rows, {rows_of[rarest]}: its recall may be anything from {low:.2f} to {high:.2f}."
            " Two systems that differ by less than such an interval cannot be ranked by these rows.",
            *(shared if objects < judged["n"] else []),
            "The intervals tell how numbers vary with the rows that happened to be judged. They do not hold what "
            "another seed of the training would change, nor another season, telescope or mix of classes. About one "
            "95 % interval in twenty misses its truth.",
            "Labels are taken as true: a wrong label counts as a mistake of the classifier, and rows that nobody could "
            "label, often the faint ones, are not judged at all.",
        ],
    )


def _overall(judged: Mapping[str, Any]) -> list[list[str]]:
    values, bounds = judged["values"], judged["intervals"]
    told = WORDS | MORE | {name: _at_rate(name) for name in values if name.startswith("fnr_at_fpr_")}
    return [[words, number(values[name], bounds[name])] for name, words in told.items() if name in values]


def _at_rate(name: str) -> str:
    rate, _, missed = name.removeprefix("fnr_at_fpr_").partition("/")
    return f"share of {missed} missed at {float(rate):.0%} false positives"


def _by_class(judged: Mapping[str, Any]) -> list[list[str]]:
    rows_of = dict(zip(judged["classes"], np.array(judged["confusion"]).sum(1).tolist(), strict=True))
    values, bounds = judged["values"], judged["intervals"]
    rows = []
    for name in sorted(judged["classes"], key=lambda name: name != "SN"):  # stable: SN first, then as they come
        keys = [f"{metric}/{name}" for metric in BY_CLASS]
        rows.append([name, str(rows_of[name]), *[number(values[k], bounds[k]) if k in values else "" for k in keys]])
    return rows
