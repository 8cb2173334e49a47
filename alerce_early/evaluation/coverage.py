"""How often conformal sets hold the true class, and how large they are: numbers, and what the page says of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alerce_early import tables
from alerce_early.data.names import JOINED
from alerce_early.evaluation import conformal, intervals
from alerce_early.report.page import Section, number

WORDS = (
    "A set holds the true class with a probability of {coverage:.0%}, if these rows are like the validation rows that "
    "set its thresholds: over all rows (marginal), or over the rows of each class (class-conditional). The promise "
    "is kept on average over validation sets; with few validation rows of a class a single one may be off by a few per "
    "cent. The same rows chose the epoch, which flatters them a little. Brackets are 95 % binomial intervals, for rows "
    "of different objects. An empty set says that no class is typical of the row; a class with too few validation rows "
    "for the promise is in every set."
)


def judge(table: tables.Table) -> dict[str, Any]:
    """How often the sets of a table hold the true class, and how large they are; {} where it has none.

    Returns {"wanted": coverage, "sets": {name of `conformal.KINDS`: {"all" or class: {"n", "coverage", "interval":
    [low, high] (Wilson), "size": mean}}}}.
    """
    if not all(name in table for name in (*conformal.KINDS, conformal.WANTED)):
        return {}
    classes = tables.classes_of(table)
    labels = tables.label_indices(table, classes)
    rows = {"all": np.full(len(labels), True)} | {name: labels == i for i, name in enumerate(classes)}
    judged: dict[str, Any] = {"wanted": float(table[conformal.WANTED][0]), "sets": {}}
    for name in conformal.KINDS:
        inside = _split_names(table[name], classes)
        held = inside[np.arange(len(labels)), labels]
        judged["sets"][name] = {part: _part(held[of], inside[of]) for part, of in rows.items() if of.any()}
    return judged


def pictures(judged: Mapping[str, Any], table: tables.Table) -> dict[str, Figure]:
    """None: two tables say it."""
    return {}


def section(judged: Mapping[str, Any], drawn: Mapping[str, Figure]) -> Section | None:
    """Return what the page says; judged: of `judge`."""
    if not judged:
        return None
    page = Section("Conformal sets", words=[WORDS.format(coverage=judged["wanted"])])
    parts = list(judged["sets"]["set"])
    for what, told in (
        ("coverage", lambda part: number(part["coverage"], part["interval"])),
        ("mean size", lambda part: f"{part['size']:.2f}"),
    ):
        rows = [[part, *(told(judged["sets"][name][part]) for name in conformal.KINDS)] for part in parts]
        page.tables.append(((what, *(f"{words} ({name})" for name, words in conformal.KINDS.items())), rows))
    return page


def _part(held: np.ndarray, inside: np.ndarray) -> dict[str, Any]:
    return {
        "n": len(held),
        "coverage": float(held.mean()),
        "interval": list(intervals.wilson(int(held.sum()), len(held))),
        "size": float(inside.sum(1).mean()),
    }


def _split_names(joined: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """(N, C) bool of (N,) str."""
    names, which = np.unique(joined.astype(str), return_inverse=True)
    return np.array([[name in text.split(JOINED) for name in classes] for text in names])[which]
