"""Figures and facts of an evaluated table, for the template of its kind."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alerce_early.evaluation import calibration, comparison, conformal, metrics, tables, thresholds, uncertainty
from alerce_early.evaluation.baselines import TREES
from alerce_early.evaluation.kinds import Classification, Generation, Kind, Regression
from alerce_early.report import figures
from alerce_early.report.page import numbers

Table = Mapping[str, np.ndarray]
Judged = Mapping[str, Any]  # of `Kind.judge`
Images = Callable[[np.ndarray], np.ndarray]  # row numbers (n,) to (n, C, ...)

N_MISTAKES, N_WORST = 16, 12  # rows shown
PREFIXES = {"p": "uncalibrated", "q": "calibrated"}  # of the columns of probabilities


def draw(kind: Kind, judged: Judged, table: Table, images: Images | None = None) -> dict[str, Figure]:
    """Return the figures of an evaluated table by file name; without images no gallery is drawn."""
    return DRAW[kind.name](judged, table, images)


def describe(kind: Kind, judged: Judged, table: Table) -> dict[str, Any]:
    """Return the values that the templates of results show, for the evaluated rows of one split."""
    return {
        "kind": kind,
        "judged": judged,
        "predictions": table,
        "split": str(table["split"][0]),
        "n_objects": len(np.unique(tables.find_objects(table))),
        "headline": headline(kind, judged),
        "own": _own_words(judged),
        "rows_of": (rows_of := _count_rows(judged)),
        "rarest": min((name for name, n in rows_of.items() if n), key=lambda name: rows_of[name], default=None),
        "mistakes": _find_mistakes(table).tolist() if rows_of else [],
        "probabilities": [f"p_{name}" for name in rows_of],
        "columns": tables.METADATA,
        "sets": conformal.KINDS,
        "set_headers": [f"{words} ({name})" for name, words in conformal.KINDS.items()],
        "prefixes": PREFIXES,
        "few": thresholds.FEW,
        "catastrophic": metrics.CATASTROPHIC,
        "n_trees": TREES,
        "verdict": comparison.verdict,
    }


def headline(kind: Kind, judged: Judged) -> list[tuple[str, str]]:
    """Return (name, value with interval) of the main numbers; recall only for classes with rows."""
    absent = {f"recall/{name}" for name, n in _count_rows(judged).items() if not n}
    words = {**kind.words, **_own_words(judged)}
    names = [name for name in words if name in judged["values"] and name not in absent]
    return list(zip((words[name] for name in names), numbers(judged, names, kind.digits), strict=True))


def _own_words(judged: Judged) -> dict[str, str]:
    """Return the names of the user's own metrics, as words for what they are called."""
    return {name: name for name in judged.get("own", ())}


def _count_rows(judged: Judged) -> dict[str, int]:
    """Return the rows of each true class; none of a table without classes."""
    return {name: sum(row) for name, row in zip(judged.get("classes", ()), judged.get("confusion", ()), strict=True)}


def _find_mistakes(table: Table) -> np.ndarray:
    """Return the indices of the misclassified rows with the highest probabilities, highest first."""
    confidence = tables.probabilities(table, tables.classes_of(table)).max(1)
    wrong = np.flatnonzero(table["label"] != table["predicted"])
    return wrong[np.argsort(-confidence[wrong], kind="stable")][:N_MISTAKES]


def _draw_classification(judged: Judged, table: Table, images: Images | None) -> dict[str, Figure]:
    classes = judged["classes"]
    ranked = {
        name: metrics.Ranking(own, table[f"p_{name}"]).counts(np.ones(len(own)))
        for name in classes
        if 0 < (own := table["label"] == name).sum() < len(own)
    }
    drawn = {"confusion": figures.confusion(np.array(judged["confusion"]), classes)}
    drawn |= {"by_class": figures.by_class(ranked)} if ranked else {}
    if points := judged["thresholds"]:
        own, score = table["label"] == points["of"], thresholds.find_score(table, points["of"])
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
    predicted = table["predicted"]
    words = {i: f"classified as {predicted[i]}, p = {table[f'p_{predicted[i]}'][i]:.2f}" for i in _find_mistakes(table)}
    return drawn | _draw_gallery("mistakes", table, words, images)


def _draw_regression(judged: Judged, table: Table, images: Images | None) -> dict[str, Figure]:
    true, predicted = table["true"], table["predicted"]
    velocity, bound = metrics.velocity(true, predicted), metrics.CATASTROPHIC / metrics.LIGHT * (1 + true)
    drawn = {
        "predicted": figures.predicted_against_true(true, predicted, table["label"], bound),
        "residuals": figures.residuals(velocity, metrics.CATASTROPHIC, "km/s"),
    }
    if "confidence" in table:
        drawn["confidence"] = figures.by_confidence(table["confidence"], np.abs(velocity) > metrics.CATASTROPHIC)
    worst = np.argsort(-np.abs(velocity), kind="stable")[:N_WORST]
    words = {i: f"true {true[i]:.3f}, predicted {predicted[i]:.3f}" for i in worst}
    return drawn | _draw_gallery("worst", table, words, images)


def _draw_generation(judged: Judged, table: Table, images: Images | None) -> dict[str, Figure]:
    worst = np.argsort(-table["nll"], kind="stable")[:N_WORST]
    return _draw_gallery("worst", table, {i: f"{table['nll'][i]:.2f} nats per pixel" for i in worst}, images)


def _draw_gallery(name: str, table: Table, words: Mapping[int, str], images: Images | None) -> dict[str, Figure]:
    """Return a figure of the inputs of some rows, given the second line of the caption of each."""
    if images is None or not words:
        return {}
    captions = [f"{table['id'][i]}\n{table['label'][i]}, {text}" for i, text in words.items()]
    return {name: figures.gallery(images(table["row"][list(words)]), captions)}


DRAW = {
    Classification.name: _draw_classification,
    Regression.name: _draw_regression,
    Generation.name: _draw_generation,
}
