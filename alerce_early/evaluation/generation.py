"""Judging a table of reconstructions: how well does a generator know the stamps it is to imitate?

Columns: reconstruction (root mean square error), nll and kl (nats), see `GenerateTask`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alerce_early.evaluation import intervals
from alerce_early.report import figures, provenance
from alerce_early.report.page import Section, by_part, number

WORDS = {
    "reconstruction": "reconstruction error",
    "kl": "KL (nats a stamp)",
    "nll": "-log likelihood (nats a pixel)",
}
CURVES = ("reconstruction", "nll")  # of the validation split, by epoch
RANKED_BY = "reconstruction"  # one minus the mean of what is `right`
LOWER_IS_BETTER = True
SHOWN = 12  # of the largest errors


def fits(columns: list[str]) -> bool:
    """Whether a table with these columns is one of reconstructions."""
    return set(WORDS) <= set(columns)


def judge(table: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Numbers of a table of reconstructions, as plain values.

    Returns {"n": rows, "values": {name: mean}, "intervals": {name: [low, high]}, "by_class": the same for the
    rows of each class}; the intervals are a bootstrap over objects.
    """
    columns = {name: table[name].astype(np.float64) for name in WORDS}

    def means(weights: np.ndarray) -> dict[str, float]:
        return {name: float(weights @ column / weights.sum()) for name, column in columns.items()}

    return intervals.judged_by_class(means, table["id"], table["label"])


def right(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) float64, one minus the reconstruction error: how much of each stamp is met."""
    return 1 - table["reconstruction"].astype(np.float64)


def strata(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) str, the parts of the rows that weigh alike in the score: there is but one."""
    return np.full(len(table["reconstruction"]), "all")


def headline(judged: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, mean with interval) of the numbers that matter."""
    return [(told, number(judged["values"][name], judged["intervals"][name])) for name, told in WORDS.items()]


def pictures(judged: Mapping[str, Any], table: Mapping[str, np.ndarray]) -> dict[str, Figure]:
    """Figures of the result by file name: none; what the net makes of stamps only the net can draw."""
    return {}


def sections(
    judged: Mapping[str, Any],
    table: Mapping[str, np.ndarray],
    drawn: Mapping[str, Figure],
    images: Callable[[np.ndarray], np.ndarray],
) -> list[Section]:
    """Return what the page says of a judged table; images: row numbers (n,) to (n, C, H, W)."""
    title, standing = provenance.describe_rows(table)
    worst = np.argsort(-table["nll"], kind="stable")[:SHOWN]
    captions = [f"{table['id'][i]}\n{table['label'][i]}, {table['nll'][i]:.2f} nats a pixel" for i in worst]
    return [
        Section(
            title,
            words=[
                f"{standing}; means with 95 % intervals. The "
                "reconstruction error is a root mean square in the units of the recipe and holds the sky's noise, "
                "which no code can tell; KL is how much the code says of a stamp."
            ],
            tables=[by_part({"all": judged, **judged["by_class"]}, WORDS)],
        ),
        Section(
            "Least expected stamps",
            pictures=[("As the net sees them.", figures.gallery(images(table["row"][worst]), captions))],
        ),
    ]
