"""What a threshold on the probability of one class buys: how pure, how complete, how many are missed."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from alerce_early.evaluation import intervals, metrics, tables

FEW = 30  # rows of the class, below which a threshold promises nothing
CHOSEN_BY = "threshold_rows"  # the column that tells how many of them chose the thresholds of a row
WANTED = (0.9, 0.95)  # completeness or purity for which the page gives the threshold


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

    Returns {"of": class, "rows": how many of them are of it, "thresholds": {"completeness_0.9": number or None, ...}};
    None where no class stands out or it has no rows.
    """
    name = looked_for(tables.classes_of(table))
    if name is None or not (own := table["label"] == name).any():
        return None
    points = operating_points(own, find_score(table, name))
    return {
        "of": name,
        "rows": int(own.sum()),
        "thresholds": {_point(p["wanted"], p["level"]): p["threshold"] for p in points},
    }


def threshold_columns(fitted: Mapping[str, Any] | None, table: tables.Table) -> dict[str, np.ndarray]:
    """Return the columns threshold_<what is wanted> (N,), NaN where there is none, and `CHOSEN_BY` of any rows."""
    if fitted is None:
        return {}
    n = len(table[f"p_{fitted['of']}"])
    values = {name: np.nan if value is None else value for name, value in fitted["thresholds"].items()}
    columns = {f"threshold_{name}": np.full(n, value) for name, value in values.items()}
    return columns | ({CHOSEN_BY: np.full(n, fitted["rows"])} if "rows" in fitted else {})


def judge(table: tables.Table) -> dict[str, Any]:
    """Return what the thresholds of a table give on its rows; {} where no class stands out or it has no rows.

    Returns {"of": class, "chosen": whether they are columns of the table and its rows did not choose them,
    "rows": how many rows of the class chose them, None where nobody knows, "points": `operating_points`, where chosen
    each with "intervals": {"purity" and "completeness": [low, high]}}.
    Without the columns of `threshold_columns` the thresholds are those of the very rows.
    """
    name = looked_for(tables.classes_of(table))
    if name is None or not (own := table["label"] == name).any():
        return {}
    score = find_score(table, name)
    points = operating_points(own, score)
    chosen = all(f"threshold_{_point(p['wanted'], p['level'])}" in table for p in points) and not _chose(table)
    rows: int | None = int(own.sum())
    if chosen:
        points = [_evaluate(point["wanted"], point["level"], table, own, score) for point in points]
        rows = int(table[CHOSEN_BY].min()) if CHOSEN_BY in table else None
    return {"of": name, "chosen": chosen, "rows": rows, "points": points}


def _point(wanted: str, level: float) -> str:
    return f"{wanted}_{level:g}"


def find_score(table: tables.Table, name: str) -> np.ndarray:
    """Return the probability of one class, (N,) float64."""
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
                point["intervals"][name] = list(intervals.share(hits[of], tables.find_objects(table)[of]))
    return point
