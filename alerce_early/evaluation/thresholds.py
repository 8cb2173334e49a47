"""Operating points: thresholds on the probability of one class, with their purity and completeness."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alerce_early.evaluation import intervals, metrics, tables

FEW = 30  # rows of the class; with fewer, a threshold is not reliable
PREFIX = "threshold_"  # prefix of the constants that `list_constants` returns
CHOSEN_BY = f"{PREFIX}rows"  # constant: number of rows of the class that the thresholds were fitted to
WANTED = (0.9, 0.95)  # levels of completeness and purity on the report page
PERCENTS = tuple(percent / 100 for percent in range(1, 101))  # levels in a checkpoint


def target_class(classes: tuple[str, ...], target: str = metrics.TARGET) -> str | None:
    """Return the class whose probability is thresholded.

    Parameters
    ----------
    classes : tuple of str
        Classes of the table.
    target : str
        Preferred class.

    Returns
    -------
    str or None
        The target; without it, the positive one of two classes; None if there are more than two.
    """
    return metrics.positive(classes, target) if target in classes or len(classes) == 2 else None


def purity_completeness(own: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the purity and completeness of the rows at or above each threshold.

    Parameters
    ----------
    own : ndarray
        (N,) bool, rows of the class; at least one is True.
    score : ndarray
        (N,) probability of the class.

    Returns
    -------
    tuple of ndarray
        Thresholds, in descending order, purity and completeness, (K,) each.
    """
    ranking = metrics.Ranking(own, score)
    hits, others = ranking.counts(np.ones(len(own)))
    return ranking.thresholds, hits / (hits + others), hits / hits[-1]


def operating_points(own: np.ndarray, score: np.ndarray, levels: Sequence[float] = WANTED) -> list[dict[str, Any]]:
    """Find the highest threshold for each level of completeness, and the lowest for each level of purity.

    Parameters
    ----------
    own : ndarray
        (N,) bool, rows of the class; at least one is True.
    score : ndarray
        (N,) probability of the class.
    levels : sequence of float
        Minimum completeness or purity, in [0, 1].

    Returns
    -------
    list of dict
        {"wanted": "completeness" or "purity", "level", "threshold", "purity", "completeness"}; the last three are None
        if no threshold reaches the level.
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
    """Fit the operating points of one class on the validation split.

    Parameters
    ----------
    table : mapping of str to ndarray
        Labelled validation rows with ``p_<class>``.
    target : str
        Class whose completeness and purity are traded, see `target_class`.

    Returns
    -------
    dict or None
        {"of": class, "rows": number of its rows, "thresholds": {"completeness_0.9": float or None, ...}}; None if the
        table has no such class or no row of it.
    """
    name = target_class(tables.classes_of(table), target)
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
        For each class that has rows: ``rows``, their number, and ``completeness`` and ``purity``, each a list of 100
        thresholds on ``p_<class>`` for the levels 0.01 to 1, None if no threshold reaches the level.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in tables.classes_of(table):
        if (own := table["label"] == name).any():
            points = operating_points(own, find_score(table, name), PERCENTS)
            by_kind = {k: [p["threshold"] for p in points if p["wanted"] == k] for k in ("completeness", "purity")}
            found[name] = {"rows": int(own.sum()), **by_kind}
    return found


def list_constants(fitted: Mapping[str, Any] | None) -> dict[str, float | None]:
    """Return fitted thresholds as constants of a table.

    Parameters
    ----------
    fitted : mapping or None
        Result of `fit`.

    Returns
    -------
    dict
        ``threshold_<completeness or purity>_<level>``, None if no threshold reaches the level, and `CHOSEN_BY`; {} if
        nothing was fitted.
    """
    if fitted is None:
        return {}
    return {f"{PREFIX}{name}": value for name, value in fitted["thresholds"].items()} | {CHOSEN_BY: fitted["rows"]}


def judge(table: tables.Table, constants: tables.Constants, target: str = metrics.TARGET) -> dict[str, Any]:
    """Evaluate the thresholds among the constants of a table; without them, fit thresholds to its own rows.

    Parameters
    ----------
    table : mapping of str to ndarray
        Labelled rows with ``p_<class>``.
    constants : mapping of str to float
        May contain the constants of `list_constants`.
    target : str
        Target class, see `target_class`.

    Returns
    -------
    dict
        {"of": class, "chosen": whether the thresholds were fitted to other rows, "rows": number of rows of the class
        that they were fitted to, None if unknown, "points": see `operating_points`}. If chosen, each point also has
        "intervals": {"purity" and "completeness": [low, high]}. {} if the table has no such class or no row of it.
    """
    name = target_class(tables.classes_of(table), target)
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
    """Return the name of an operating point, such as completeness_0.9."""
    return f"{wanted}_{level:g}"


def find_score(table: tables.Table, name: str) -> np.ndarray:
    """Return the probability of one class, (N,) float64."""
    return table[f"p_{name}"].astype(np.float64)


def _chose(table: tables.Table) -> bool:
    """Return True if all rows belong to the validation split."""
    return "split" in table and bool((table["split"] == "validation").all())


def _evaluate(
    point: Mapping[str, Any], threshold: float | None, table: tables.Table, own: np.ndarray, score: np.ndarray
) -> dict[str, Any]:
    """Return a point with the given threshold, and its purity and completeness on the rows of a table."""
    point = {**point, "threshold": threshold, "completeness": None, "purity": None}
    if threshold is not None:
        taken, point["intervals"] = score >= threshold, {}
        for name, hits, of in (("completeness", taken, own), ("purity", own, taken)):
            if of.any():
                point[name] = float(hits[of].mean())
                point["intervals"][name] = list(intervals.share(hits[of], tables.find_objects(table)[of]))
    return point
