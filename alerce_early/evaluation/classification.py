"""Judging a table of classifications: numbers with intervals, and what the page says of them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alerce_early.evaluation import figures, intervals, metrics, uncertainty
from alerce_early.evaluation import table as tables
from alerce_early.evaluation.page import Section, number

WORDS = {
    "recall/SN": "SN recall",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
}
WHAT_THEY_DID = {
    "test": "neither trained nor chose the network",
    "validation": "chose the network, which flatters it; the test rows have no labels",
}

CURVES = ("balanced_accuracy", "accuracy", "recall/")  # of the validation split, by epoch
RANKED_BY = "balanced_accuracy"  # the mean over `strata` of the share that is `right`
LOWER_IS_BETTER = False


def fits(columns: list[str]) -> bool:
    """Whether a table with these columns is one of classifications."""
    return any(name.startswith("p_") for name in columns)


def judge(table: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Numbers of a table of classifications, as plain values.

    Returns {"n": rows, "classes": names, "values": {name: number}, "intervals": {name: [low, high]},
    "confusion": counts by true and predicted class}. Recall, precision and accuracy have Wilson intervals
    where every row is another object; all else, and everything where rows share an object, has a bootstrap
    over objects.
    """
    classes = tables.classes_of(table)
    labels, probabilities = tables.label_indices(table, classes), tables.probabilities(table, classes)
    values = metrics.classification(labels, probabilities, classes)
    counts = metrics.confusion(labels, probabilities.argmax(1), len(classes))

    def resampled(rows: np.ndarray) -> dict[str, float]:
        return metrics.classification(labels[rows], probabilities[rows], classes)

    bounds = intervals.bootstrap(resampled, table["id"])
    if len(np.unique(table["id"])) == len(table["id"]):
        bounds |= _wilson(counts, classes)
    return {
        "n": len(labels),
        "classes": list(classes),
        "values": values,
        "intervals": {name: list(bounds[name]) for name in values},
        "confusion": counts.tolist(),
    }


def right(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) bool: whether the most probable class is the true one."""
    classes = tables.classes_of(table)
    return tables.probabilities(table, classes).argmax(1) == tables.label_indices(table, classes)


def strata(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) str, the parts of the rows that weigh alike in the score: the classes."""
    return table["label"].astype(str)


def _wilson(counts: np.ndarray, classes: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    right, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    bounds = {"accuracy": intervals.wilson(int(right.sum()), int(counts.sum()))}
    for i, name in enumerate(classes):
        bounds[f"recall/{name}"] = intervals.wilson(int(right[i]), int(true[i]))
        bounds[f"precision/{name}"] = intervals.wilson(int(right[i]), int(predicted[i]))
    return bounds


def headline(judged: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value with interval) of the few numbers that matter most, supernovae first."""
    return [
        (told, number(judged["values"][name], judged["intervals"][name]))
        for name, told in WORDS.items()
        if name in judged["values"]
    ]


def pictures(judged: Mapping[str, Any], table: Mapping[str, np.ndarray]) -> dict[str, Figure]:
    """Figures of the result by file name."""
    confusion = figures.confusion(np.array(judged["confusion"]), judged["classes"])
    return {"confusion": confusion, **uncertainty.pictures(table)}


def sections(
    judged: Mapping[str, Any],
    table: Mapping[str, np.ndarray],
    drawn: Mapping[str, Figure],
    images: Callable[[np.ndarray], np.ndarray],
) -> list[Section]:
    """What the page says of a judged table; drawn: `pictures`; images: row numbers (n,) to (n, C, ...)."""
    gallery = figures.mistakes(table, judged["classes"], images)
    split = str(table["split"][0])
    return [
        Section(
            f"Result on the {split} split",
            words=[
                f"{judged['n']} {split} rows that {WHAT_THEY_DID[split]}. Brackets are 95 % "
                "intervals; where two overlap widely, this split cannot tell the classes or the runs apart."
            ],
            tables=[(("class", "rows", "recall", "precision", "F1"), _by_class(judged))],
            pictures=[("Confusion matrix: share of the true class, and counts.", drawn["confusion"])],
        ),
        uncertainty.section(table, drawn),
        Section(
            "Most confident mistakes",
            words=[] if gallery else ["There is none."],
            pictures=[("As the net sees them.", gallery)] if gallery else [],
        ),
    ]


def _by_class(judged: Mapping[str, Any]) -> list[list[str]]:
    rows_of = dict(zip(judged["classes"], np.array(judged["confusion"]).sum(1).tolist(), strict=True))
    rows = []
    for name in sorted(judged["classes"], key=lambda name: name != "SN"):  # stable: SN first, then as they come
        keys = [f"{metric}/{name}" for metric in ("recall", "precision", "f1")]
        numbers = [number(judged["values"][key], judged["intervals"][key]) for key in keys]
        rows.append([name, str(rows_of[name]), *numbers])
    return rows
