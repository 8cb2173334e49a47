"""What a threshold on the probability of one class buys: how pure, how complete, how many are missed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import norm

from alerce_early.evaluation import metrics
from alerce_early.evaluation import table as tables
from alerce_early.evaluation.page import Section, number

WANTED = (0.9, 0.95)  # completeness or purity for which the page gives the threshold
TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8)  # of the axes of error rates
WORDS = (
    "Rows count as {name} where its probability is at least the threshold. Completeness is the share of true "
    "{name} among which that holds, purity the share of true {name} among those taken for it; purity depends on how "
    "common {name} is in these rows, and a sky has another mix. The thresholds are read off the very rows they are "
    "told for, so expect a little less elsewhere."
)


def looked_for(classes: tuple[str, ...]) -> str | None:
    """The class that has a threshold: SN, or the positive one of two; None where no class stands out."""
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


def judge(table: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """{"of": class, "points": `operating_points`}, or {} where no class stands out or it has no rows."""
    name = looked_for(tables.classes_of(table))
    if name is None or not (own := table["label"] == name).any():
        return {}
    return {"of": name, "points": operating_points(own, table[f"p_{name}"].astype(np.float64))}


def pictures(judged: Mapping[str, Any], table: Mapping[str, np.ndarray]) -> dict[str, Figure]:
    """Figures by file name: purity and completeness, and for two classes the errors; judged: of `judge`."""
    if not judged:
        return {}
    name = judged["of"]
    own, score = table["label"] == name, table[f"p_{name}"].astype(np.float64)
    drawn = {"purity_completeness": _purity_completeness(own, score, name)}
    return drawn | ({"det": _det(own, score, name)} if len(tables.classes_of(table)) == 2 and not own.all() else {})


def section(judged: Mapping[str, Any], drawn: Mapping[str, Figure]) -> Section:
    """What the page says; judged: of `judge`, not empty; drawn: holds `pictures`."""
    name = judged["of"]
    rows = [
        [
            f"{point['wanted']} of at least {point['level']:.0%}",
            *(
                [number(point[key]) for key in ("threshold", "completeness", "purity")]
                if point["threshold"] is not None
                else ["none is", "", ""]
            ),
        ]
        for point in judged["points"]
    ]
    captions = {
        "purity_completeness": f"Purity and completeness of {name} against the threshold, and against each other.",
        "det": f"Detection error tradeoff: missed {name} against others taken for it, on normal-deviate axes.",
    }
    return Section(
        f"Thresholds for {name}",
        words=[WORDS.format(name=name)],
        tables=[(("wanted", "threshold", "completeness", "purity"), rows)],
        pictures=[(caption, drawn[file]) for file, caption in captions.items() if file in drawn],
    )


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
    missed, false = 1 - hits / hits[-1], others / others[-1]
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel="false positive rate", ylabel=f"false negative rate ({name} missed)")
    ends = TICKS[0] / 2, 0.9
    axes.plot(*(norm.ppf(np.clip(rate, *ends)) for rate in (false, missed)))
    axes.set_xticks(norm.ppf(TICKS), [f"{tick:g}" for tick in TICKS])
    axes.set_yticks(norm.ppf(TICKS), [f"{tick:g}" for tick in TICKS])
    axes.set(xlim=norm.ppf(ends), ylim=norm.ppf(ends))
    axes.grid(lw=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
