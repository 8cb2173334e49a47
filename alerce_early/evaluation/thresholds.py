"""What a threshold on the probability of one class buys: how pure, how complete, how many are missed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alerce_early.evaluation import intervals, metrics, tables

FEW = 30  # rows of the class, below which a threshold promises nothing
PREFIX = "threshold_"  # of the constants of a table that `list_constants` returns
CHOSEN_BY = f"{PREFIX}rows"  # the constant that tells how many of them chose the thresholds
WANTED = (0.9, 0.95)  # completeness or purity for which the page gives the threshold
PERCENTS = tuple(percent / 100 for percent in range(1, 101))  # for which a checkpoint has it


def looked_for(classes: tuple[str, ...], target: str = metrics.TARGET) -> str | None:
    """Return the class that has a threshold: the target, or the positive one of two; None where no class stands out."""
    return metrics.positive(classes, target) if target in classes or len(classes) == 2 else None


def purity_completeness(own: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds (K,), falling, with the purity and completeness (K,) of the rows at or above each.

    own: (N,) bool with at least one True; score: (N,).
    """
    ranking = metrics.Ranking(own, score)
    hits, others = ranking.counts(np.ones(len(own)))
    return ranking.thresholds, hits / (hits + others), hits / hits[-1]


def operating_points(own: np.ndarray, score: np.ndarray, levels: Sequence[float] = WANTED) -> list[dict[str, Any]]:
    """For each wanted completeness the highest threshold that gives it, for each wanted purity the lowest.

    own, score: see `purity_completeness`. Returns [{"wanted", "level", "threshold", "purity", "completeness"}];
    the last three are None where no threshold is pure enough.
    """
    threshold, purity, completeness = purity_completeness(own, score)
    points = []
    for wanted, values, pick in (("completeness", completeness, 0), ("purity", purity, -1)):
        for level in levels:
            enough = np.flatnonzero(values >= level)
            of = {"threshold": threshold, "purity": purity, "completeness": completeness}
            found = {name: float(column[enough[pick]]) if len(enough) else None for name, column in of.items()}
            points.append({"wanted": wanted, "level": level, **found})
    return points


def fit(table: tables.Table, target: str = metrics.TARGET) -> dict[str, Any] | None:
    """Return the thresholds of `operating_points` on a table of labelled validation rows, as plain values.

    Returns {"of": class, "rows": how many of them are of it, "thresholds": {"completeness_0.9": number or None, ...}};
    None where no class stands out or it has no rows.
    """
    name = looked_for(tables.classes_of(table), target)
    if name is None or not (own := table["label"] == name).any():
        return None
    points = operating_points(own, find_score(table, name))
    return {
        "of": name,
        "rows": int(own.sum()),
        "thresholds": {_point(p["wanted"], p["level"]): p["threshold"] for p in points},
    }


def fit_percents(table: tables.Table) -> dict[str, dict[str, Any]]:
    """Find the threshold for each whole percent of completeness and of purity, for every class.

    Parameters
    ----------
    table : mapping of str to ndarray
        Labelled validation rows with ``p_<class>``.

    Returns
    -------
    dict
        Of each class that has rows: ``rows``, how many, and ``completeness`` and ``purity``, each 100 thresholds on
        ``p_<class>`` for 0.01 to 1, None where none gives it; see `operating_points`.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in tables.classes_of(table):
        if (own := table["label"] == name).any():
            points = operating_points(own, find_score(table, name), PERCENTS)
            by_kind = {k: [p["threshold"] for p in points if p["wanted"] == k] for k in ("completeness", "purity")}
            found[name] = {"rows": int(own.sum()), **by_kind}
    return found


def list_constants(fitted: Mapping[str, Any] | None) -> dict[str, float | None]:
    """Return threshold_<what is wanted>, None where no threshold gives it, and `CHOSEN_BY`, as constants of a table."""
    if fitted is None:
        return {}
    return {f"{PREFIX}{name}": value for name, value in fitted["thresholds"].items()} | {CHOSEN_BY: fitted["rows"]}


def judge(table: tables.Table, constants: tables.Constants, target: str = metrics.TARGET) -> dict[str, Any]:
    """Return what the thresholds of a table give on its rows; {} where no class stands out or it has no rows.

    Returns {"of": class, "chosen": whether they are constants of the table and its rows did not choose them,
    "rows": how many rows of the class chose them, None if unknown, "points": `operating_points`, where chosen
    each with "intervals": {"purity" and "completeness": [low, high]}}.
    Without the constants of `list_constants` the thresholds are those of the very rows.
    """
    name = looked_for(tables.classes_of(table), target)
    if name is None or not (own := table["label"] == name).any():
        return {}
    score = find_score(table, name)
    points = operating_points(own, score)
    names = [PREFIX + _point(point["wanted"], point["level"]) for point in points]
    chosen = all(name in constants for name in names) and not _chose(table)
    if chosen:
        points = [_evaluate(point, constants[key], table, own, score) for point, key in zip(points, names, strict=True)]
    rows = constants.get(CHOSEN_BY) if chosen else int(own.sum())
    return {"of": name, "chosen": chosen, "rows": rows, "points": points}


def _point(wanted: str, level: float) -> str:
    return f"{wanted}_{level:g}"


def find_score(table: tables.Table, name: str) -> np.ndarray:
    """Return the probability of one class, (N,) float64."""
    return table[f"p_{name}"].astype(np.float64)


def _chose(table: tables.Table) -> bool:
    """Whether these are the validation rows."""
    return "split" in table and bool((table["split"] == "validation").all())


def _evaluate(
    point: Mapping[str, Any], threshold: float | None, table: tables.Table, own: np.ndarray, score: np.ndarray
) -> dict[str, Any]:
    """Return a point with another threshold, and with what it gives on the rows."""
    point = {**point, "threshold": threshold, "completeness": None, "purity": None}
    if threshold is not None:
        taken, point["intervals"] = score >= threshold, {}
        for name, hits, of in (("completeness", taken, own), ("purity", own, taken)):
            if of.any():
                point[name] = float(hits[of].mean())
                point["intervals"][name] = list(intervals.share(hits[of], tables.find_objects(table)[of]))
    return point
