"""What a threshold on the probability of one class buys: how pure, how complete, how many are missed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import DetCurveDisplay

from alerce_early import tables
from alerce_early.evaluation import intervals, metrics
from alerce_early.report.page import Section, number

WANTED = (0.9, 0.95)  # completeness or purity for which the page gives the threshold
WORDS = (
    "Rows count as {name} where its probability is at least the threshold. Completeness is the share of true "
    "{name} among which that holds, purity the share of true {name} among those taken for it; purity depends on how "
    "common {name} is in these rows, and a sky has another mix. "
)
CHOSEN = "The thresholds were chosen on the validation rows; brackets are 95 % intervals of what they give on these."
READ_OFF = (
    "There are no other rows here that could have chosen the thresholds: they are read off the very rows they are "
    "told for, so expect a little less elsewhere."
)
MEASURES = ("completeness", "purity")


def looked_for(classes: tuple[str, ...]) -> str | None:
    """Return the class that has a threshold: SN, or the positive one of two; None where no class stands out."""
    return metrics.positive(classes) if "SN" in classes or len(classes) == 2 else None


def purity_completeness(own: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds (K,), falling, with the purity and completeness (K,) of the rows at or above each.

    own: (N,) bool with at least one True; score: (N,).
    """
    ranking = metrics.Ranking(own, score)
    hits, others = ranking.counts(np.ones(len(own)))
    return ranking.thresholds, hits / (hits + others), hits / hits[-1]


def operating_points(own: np.ndarray, score: np.ndarray) -> list[dict[str, Any]]:
    """For each wanted completeness the highest threshold that gives it, for each wanted purity the lowest.

    own, score: see `purity_completeness`. Returns [{"wanted", "level", "threshold", "purity", "completeness"}];
    the last three are None where no threshold is pure enough.
    """
    threshold, purity, completeness = purity_completeness(own, score)
    points = []
    for wanted, values, pick in (("completeness", completeness, 0), ("purity", purity, -1)):
        for level in WANTED:
            enough = np.flatnonzero(values >= level)
            of = {"threshold": threshold, "purity": purity, "completeness": completeness}
            found = {name: float(column[enough[pick]]) if len(enough) else None for name, column in of.items()}
            points.append({"wanted": wanted, "level": level, **found})
    return points


def fit(table: tables.Table) -> dict[str, Any] | None:
    """Return the thresholds of `operating_points` on a table of labelled validation rows, as plain values.

    Returns {"of": class, "thresholds": {"completeness_0.9": number or None, ...}}; None where no class stands out
    or it has no rows.
    """
    name = looked_for(tables.classes_of(table))
    if name is None or not (own := table["label"] == name).any():
        return None
    points = operating_points(own, _score(table, name))
    return {"of": name, "thresholds": {_point(p["wanted"], p["level"]): p["threshold"] for p in points}}


def threshold_columns(fitted: Mapping[str, Any] | None, table: tables.Table) -> dict[str, np.ndarray]:
    """Return the columns threshold_<what is wanted> (N,), NaN where there is none, of a table of any rows."""
    if fitted is None:
        return {}
    n = len(table[f"p_{fitted['of']}"])
    values = {name: np.nan if value is None else value for name, value in fitted["thresholds"].items()}
    return {f"threshold_{name}": np.full(n, value) for name, value in values.items()}


def judge(table: tables.Table) -> dict[str, Any]:
    """Return what the thresholds of a table give on its rows; {} where no class stands out or it has no rows.

    Returns {"of": class, "chosen": whether they are columns of the table and its rows did not choose them,
    "points": `operating_points`, where chosen each with "intervals": {"purity" and "completeness": [low, high]}}.
    Without the columns of `columns` the thresholds are those of the very rows.
    """
    name = looked_for(tables.classes_of(table))
    if name is None or not (own := table["label"] == name).any():
        return {}
    score = _score(table, name)
    points = operating_points(own, score)
    chosen = all(f"threshold_{_point(p['wanted'], p['level'])}" in table for p in points) and not _chose(table)
    if chosen:
        points = [_evaluate(point["wanted"], point["level"], table, own, score) for point in points]
    return {"of": name, "chosen": chosen, "points": points}


def pictures(judged: Mapping[str, Any], table: tables.Table) -> dict[str, Figure]:
    """Figures by file name: purity and completeness, and for two classes the errors; judged: of `judge`."""
    if not judged:
        return {}
    name = judged["of"]
    own, score = table["label"] == name, _score(table, name)
    drawn = {"purity_completeness": _purity_completeness(own, score, name)}
    return drawn | ({"det": _det(own, score, name)} if len(tables.classes_of(table)) == 2 and not own.all() else {})


def section(judged: Mapping[str, Any], drawn: Mapping[str, Figure]) -> Section | None:
    """Return what the page says; judged: of `judge`; drawn: holds `pictures`."""
    if not judged:
        return None
    name = judged["of"]
    captions = {
        "purity_completeness": f"Purity and completeness of {name} against the threshold, and against each other.",
        "det": f"Detection error tradeoff: missed {name} against others taken for it, on normal-deviate axes.",
    }
    return Section(
        f"Thresholds for {name}",
        words=[WORDS.format(name=name) + (CHOSEN if judged["chosen"] else READ_OFF)],
        tables=[(("wanted", "threshold", *MEASURES), [_row(point) for point in judged["points"]])],
        pictures=[(caption, drawn[file]) for file, caption in captions.items() if file in drawn],
    )


def _row(point: Mapping[str, Any]) -> list[str]:
    wanted = f"{point['wanted']} of at least {point['level']:.0%}"
    if point["threshold"] is None:
        return [wanted, "none is", "", ""]
    bounds = point.get("intervals", {})
    told = ["none taken" if point[name] is None else number(point[name], bounds.get(name)) for name in MEASURES]
    return [wanted, number(point["threshold"]), *told]


def _point(wanted: str, level: float) -> str:
    return f"{wanted}_{level:g}"


def _score(table: tables.Table, name: str) -> np.ndarray:
    return table[f"p_{name}"].astype(np.float64)


def _chose(table: tables.Table) -> bool:
    """Whether these are the validation rows."""
    return "split" in table and bool((table["split"] == "validation").all())


def _evaluate(wanted: str, level: float, table: tables.Table, own: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    """Return what the threshold of each row, which may differ from fold to fold, gives on the rows."""
    thresholds = table[f"threshold_{_point(wanted, level)}"].astype(np.float64)
    point: dict[str, Any] = {"wanted": wanted, "level": level, "threshold": None, "completeness": None, "purity": None}
    if not np.isnan(thresholds).any():
        taken = score >= thresholds
        point |= {"threshold": float(np.median(thresholds)), "intervals": {}}
        for name, hits, of in (("completeness", taken, own), ("purity", own, taken)):
            if of.any():
                point[name] = float(hits[of].mean())
                point["intervals"][name] = list(intervals.share(hits[of], table["id"][of]))
    return point


def _purity_completeness(own: np.ndarray, score: np.ndarray, name: str) -> Figure:
    threshold, purity, completeness = purity_completeness(own, score)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    by_threshold, against = figure.subplots(1, 2)
    by_threshold.plot(threshold, completeness, label="completeness")
    by_threshold.plot(threshold, purity, label="purity")
    by_threshold.set(xlabel=f"threshold on the probability of {name}", xlim=(0, 1), ylim=(0, 1.02))
    by_threshold.legend(fontsize=8, frameon=False)
    against.plot(completeness, purity, color="tab:green")
    against.axhline(own.mean(), color="grey", lw=0.8, ls=":")  # of a coin
    against.set(xlabel="completeness", ylabel="purity", xlim=(0, 1), ylim=(0, 1.02))
    for axes in (by_threshold, against):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _det(own: np.ndarray, score: np.ndarray, name: str) -> Figure:
    """Axes as Martin et al. 1997: a straight line where the scores of both classes are normal."""
    hits, others = metrics.Ranking(own, score).counts(np.ones(len(own)))
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    DetCurveDisplay(fpr=others / others[-1], fnr=1 - hits / hits[-1]).plot(axes)
    axes.set(xlabel="false positive rate", ylabel=f"false negative rate ({name} missed)")
    axes.grid(lw=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
