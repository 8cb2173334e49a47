"""Judging a table of redshifts: numbers with intervals, and what the page says of them.

Columns: true, predicted, and optionally confidence, of which only the order counts.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alerce_early.evaluation import intervals, metrics
from alerce_early.report import figures, provenance
from alerce_early.report.page import Section, by_part, number

WORDS = {
    "catastrophic": "catastrophic",
    "nmad": "NMAD",
    "mae": "mean absolute error",
    "mse": "mean squared error",
}
CURVES = ("catastrophic", "nmad", "mae")  # of the validation split, by epoch
RANKED_BY = "catastrophic"  # one minus the share that is `right`
LOWER_IS_BETTER = True
DIGITS = 4
SHOWN = 12  # of the largest errors
KEPT = (0.5, 0.8)  # shares of the most confident rows that are judged by themselves


def fits(columns: list[str]) -> bool:
    """Whether a table with these columns is one of redshifts."""
    return {"true", "predicted"} <= set(columns)


def judge(table: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Numbers of a table of redshifts, as plain values.

    Returns {"n": rows, "values": {name: number}, "intervals": {name: [low, high]}, "by_class": the same for
    the rows of each class, "most_confident": the same for shares of the rows}; the names are those of
    `metrics.redshift`, the intervals a bootstrap over objects.
    """
    true, predicted = (table[name].astype(np.float64) for name in ("true", "predicted"))

    def numbers(times: np.ndarray) -> dict[str, float]:
        rows = np.repeat(np.arange(len(true)), times.astype(int))  # medians know no weights
        return metrics.redshift(true[rows], predicted[rows])

    most_confident = {}
    if "confidence" in table:
        order = np.argsort(-table["confidence"], kind="stable")
        for share in KEPT:
            kept = order[: max(1, round(share * len(order)))]
            most_confident[str(share)] = intervals.judge_rows(numbers, table["id"], kept)
    return {**intervals.judged_by_class(numbers, table["id"], table["label"]), "most_confident": most_confident}


def right(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) bool: whether the redshift is no catastrophic failure."""
    true, predicted = (table[name].astype(np.float64) for name in ("true", "predicted"))
    return np.abs(metrics.velocity(true, predicted)) <= metrics.CATASTROPHIC


def strata(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) str, the parts of the rows that weigh alike in the score: there is but one."""
    return np.full(len(table["true"]), "all")


def headline(judged: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value with interval) of the numbers that matter, failures first."""
    return [(told, number(judged["values"][name], judged["intervals"][name], DIGITS)) for name, told in WORDS.items()]


def pictures(judged: Mapping[str, Any], table: Mapping[str, np.ndarray]) -> dict[str, Figure]:
    """Figures of the result by file name."""
    true, velocity = table["true"], metrics.velocity(table["true"], table["predicted"])
    bound = metrics.CATASTROPHIC / metrics.LIGHT * (1 + true)
    drawn = {
        "predicted": figures.predicted_against_true(true, table["predicted"], table["label"], bound),
        "residuals": figures.residuals(velocity, metrics.CATASTROPHIC, "km/s"),
    }
    if "confidence" in table:
        failed = np.abs(velocity) > metrics.CATASTROPHIC
        drawn["confidence"] = figures.by_confidence(table["confidence"], failed)
    return drawn


def sections(
    judged: Mapping[str, Any],
    table: Mapping[str, np.ndarray],
    drawn: Mapping[str, Figure],
    images: Callable[[np.ndarray], np.ndarray],
) -> list[Section]:
    """Return what the page says of a judged table; drawn: `pictures`; images: row numbers (n,) to (n, C, ...)."""
    rows = {"all": judged, **judged["by_class"]}
    rows |= {f"most confident {float(share):.0%}": part for share, part in judged["most_confident"].items()}
    captions = {
        "predicted": "Predicted against true redshift; the band is what is not yet catastrophic.",
        "residuals": "Errors as velocities; the dotted lines are the catastrophic limit.",
        "confidence": "What is left of the failures when only the most confident are kept.",
    }
    title, standing = provenance.describe_rows(table)
    return [
        Section(
            title,
            words=[
                f"{standing}. Brackets are 95 % intervals. "
                f"A redshift is catastrophic when it is off by more than {metrics.CATASTROPHIC:,.0f} km/s; bias and "
                "NMAD are the median and the scaled median deviation of (predicted - true) / (1 + true)."
            ],
            tables=[by_part(rows, WORDS | {"bias": "bias"}, DIGITS)],
            pictures=[(captions[name], figure) for name, figure in drawn.items()],
        ),
        Section("Largest errors", pictures=[("As the net sees them.", _worst(table, images))]),
    ]


def _worst(table: Mapping[str, np.ndarray], images: Callable[[np.ndarray], np.ndarray]) -> Figure:
    velocity = np.abs(metrics.velocity(table["true"], table["predicted"]))
    shown = np.argsort(-velocity, kind="stable")[:SHOWN]
    captions = [
        f"{table['id'][i]}\n{table['label'][i]}, true {table['true'][i]:.3f}, predicted {table['predicted'][i]:.3f}"
        for i in shown
    ]
    return figures.gallery(images(table["row"][shown]), captions)
