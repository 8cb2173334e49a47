"""Figures and template variables of an evaluated table, by kind of task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alerce_early.evaluation import calibration, comparison, conformal, metrics, tables, thresholds, uncertainty
from alerce_early.evaluation.baselines import N_TREES
from alerce_early.evaluation.kinds import Classification, Generation, Kind, Regression
from alerce_early.report import figures, pictures
from alerce_early.report.page import numbers
from alerce_early.report.palette import looks

Table = Mapping[str, np.ndarray]
Judged = Mapping[str, Any]  # result of `Kind.judge`

N_MISTAKES, N_WORST = 16, 12  # most confident mistakes, largest errors: rows shown
MOST_CLASSES = 12  # with more, the confusion matrix has no examples
AREAS = ("average_precision", "roc_auc")  # of the two curves of each class
PREFIXES = {"p": "uncalibrated", "q": "calibrated"}  # of the columns of probabilities


@dataclass(frozen=True)
class Images:
    """Preprocessed images of rows, as the network receives them.

    Parameters
    ----------
    find : callable
        Maps row numbers (n,) int64 to images (n, C, ...) float32.
    channels : sequence of str
        Names of the channels; ``science, whole`` is the channel science at the scale whole.
    """

    find: Callable[[np.ndarray], np.ndarray]
    channels: Sequence[str]

    def encode(self, rows: np.ndarray) -> list[list[tuple[str, list[str], str]]]:
        """Encode the images of some rows for a page.

        Parameters
        ----------
        rows : ndarray of int64, shape (n,)
            Row numbers.

        Returns
        -------
        list of list of (str, list of str, str)
            Per row and scale: name of the scale, names of the channels, and data URI.
        """
        images = self.find(rows)
        if images.ndim != 4:
            return [[("", [], pictures.encode_figure(figures.spectrum(image[0])))] for image in images]
        names = [*self.channels, *(f"channel {i + 1}" for i in range(len(self.channels), images.shape[1]))]
        scales: dict[str, list[int]] = {}
        for i in range(images.shape[1]):
            if np.ptp(np.nan_to_num(images[:, i])):  # omit constant channels, such as an empty mask
                scales.setdefault(names[i].partition(", ")[2], []).append(i)
        heads = {scale: [names[i].partition(", ")[0] for i in which] for scale, which in scales.items()}
        centre = "centre" if len(scales) > 1 else ""
        return [
            [(one or centre, heads[one], pictures.encode(image[scales[one]])) for one in scales] for image in images
        ]


def draw(kind: Kind, judged: Judged, table: Table) -> dict[str, Figure]:
    """Draw the figures of an evaluated table and return them by file name."""
    return DRAW[kind.name](judged, table)


def describe(kind: Kind, judged: Judged, table: Table, images: Images | None = None) -> dict[str, Any]:
    """Collect the template variables of an evaluated table.

    Parameters
    ----------
    kind : Kind
        Kind of task.
    judged : mapping
        Result of `Kind.judge`.
    table : mapping of str to ndarray
        The evaluated rows (N,) of one split.
    images : Images, optional
        Images of the rows, for examples with pictures.
    """
    rows_of = _count_rows(judged)
    shown = (_find_mistakes(table) if rows_of else _find_worst(kind, table)).tolist()
    cells = _find_cells(table, list(rows_of)) if images and 0 < len(rows_of) <= MOST_CLASSES else {}
    rows = list(dict.fromkeys([*shown, *cells.values()])) if images else []
    return {
        "kind": kind,
        "judged": judged,
        "predictions": table,
        "split": str(table["split"][0]),
        "n_objects": len(np.unique(tables.find_objects(table))),
        "headline": headline(kind, judged),
        "own": _own_words(judged),
        "rows_of": rows_of,
        "looks": looks(list(rows_of)),
        "rarest": min((name for name, n in rows_of.items() if n), key=lambda name: rows_of[name], default=None),
        "shown": shown,
        "cells": cells,
        "tiles": dict(zip(rows, images.encode(table["row"][rows]), strict=True)) if images and rows else {},
        "probabilities": [f"p_{name}" for name in rows_of],
        "columns": tables.METADATA,
        "sets": conformal.KINDS,
        "prefixes": PREFIXES,
        "few": thresholds.FEW,
        "catastrophic": metrics.CATASTROPHIC,
        "n_trees": N_TREES,
        "verdict": comparison.verdict,
    }


def headline(kind: Kind, judged: Judged) -> list[tuple[str, str]]:
    """List names and values, with intervals, of the main metrics; classes without rows have no recall."""
    absent = {f"recall/{name}" for name, n in _count_rows(judged).items() if not n}
    words = {**kind.words, **_own_words(judged)}
    names = [name for name in words if name in judged["values"] and name not in absent]
    return list(zip((words[name] for name in names), numbers(judged, names, kind.digits), strict=True))


def _own_words(judged: Judged) -> dict[str, str]:
    """Map the names of the user's own metrics to themselves, as their labels."""
    return {name: name for name in judged.get("own", ())}


def _count_rows(judged: Judged) -> dict[str, int]:
    """Count the rows of each true class; empty for a table without classes."""
    return {name: sum(row) for name, row in zip(judged.get("classes", ()), judged.get("confusion", ()), strict=True)}


def _find_mistakes(table: Table) -> np.ndarray:
    """Find the misclassified rows with the highest probabilities, highest first."""
    confidence = tables.probabilities(table, tables.classes_of(table)).max(1)
    wrong = np.flatnonzero(table["label"] != table["predicted"])
    return wrong[np.argsort(-confidence[wrong], kind="stable")][:N_MISTAKES]


def _find_worst(kind: Kind, table: Table) -> np.ndarray:
    """Find the rows with the largest errors or the lowest likelihood, worst first."""
    bad = table["nll"] if kind.name == Generation.name else np.abs(metrics.velocity(table["true"], table["predicted"]))
    return np.argsort(-bad, kind="stable")[:N_WORST]


def _find_cells(table: Table, classes: Sequence[str]) -> dict[tuple[str, str], int]:
    """Find the most confident row of each non-empty cell of the confusion matrix."""
    order = np.argsort(tables.probabilities(table, classes).max(1), kind="stable")
    pairs = zip(table["label"][order].tolist(), table["predicted"][order].tolist(), strict=True)
    return dict(zip(pairs, order.tolist(), strict=True))  # the last, most confident row of a pair wins


def _draw_classification(judged: Judged, table: Table) -> dict[str, Figure]:
    """Draw the figures of a table of classifications."""
    classes = judged["classes"]
    ranked = {
        name: metrics.Ranking(own, table[f"p_{name}"]).counts(np.ones(len(own)))
        for name in classes
        if 0 < (own := table["label"] == name).sum() < len(own)
    }
    drawn = {"confusion": figures.confusion(np.array(judged["confusion"]), classes)}
    if ranked:
        areas = [{name: judged["values"].get(f"{of}/{name}", np.nan) for name in ranked} for of in AREAS]
        drawn["precision_recall"] = figures.precision_recall(ranked, areas[0], classes)
        drawn["roc"] = figures.roc(ranked, areas[1], classes)
    if points := judged["thresholds"]:
        own, score = table["label"] == points["of"], thresholds.find_score(table, points["of"])
        drawn["purity_by_threshold"] = figures.purity_by_threshold(own, score, points["of"])
        drawn["purity_completeness"] = figures.purity_completeness(own, score, points["of"])
        if len(classes) == 2 and not own.all():
            drawn["det"] = figures.error_tradeoff(own, score, points["of"])
    for name, bins in judged["by_column"].items():
        drawn[f"by_{name}"] = figures.accuracy_by_column(bins, tables.METADATA[name])
    probabilities = calibration.find_probabilities(table)
    shown = {PREFIXES[prefix]: of for prefix, of in probabilities.items()}
    drawn["reliability"] = figures.reliability(tables.label_indices(table, classes), shown)
    drawn["risk_coverage"] = figures.risk_coverage(uncertainty.find_accuracies(table))
    if judged["uncertainty"]["draws"]:
        drawn["draws"] = figures.weight_draws(table, classes)
    return drawn


def _draw_regression(judged: Judged, table: Table) -> dict[str, Figure]:
    """Draw the figures of a table of redshifts."""
    true, predicted = table["true"], table["predicted"]
    velocity, bound = metrics.velocity(true, predicted), metrics.CATASTROPHIC / metrics.LIGHT * (1 + true)
    drawn = {
        "predicted": figures.predicted_against_true(true, predicted, table["label"], bound),
        "residuals": figures.residuals(velocity, metrics.CATASTROPHIC, "km/s"),
    }
    if "confidence" in table:
        drawn["confidence"] = figures.by_confidence(table["confidence"], np.abs(velocity) > metrics.CATASTROPHIC)
    return drawn


def _draw_generation(judged: Judged, table: Table) -> dict[str, Figure]:
    """Return no figures: pages of generative models show examples only."""
    return {}


DRAW = {
    Classification.name: _draw_classification,
    Regression.name: _draw_regression,
    Generation.name: _draw_generation,
}
