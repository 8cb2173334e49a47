"""95 % confidence intervals: Wilson's of proportions, and bootstraps over objects."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

LEVEL = 0.95
ROUNDING = 1e-9  # tolerance of a share


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion, in [0, 1]; (0, 1) without trials."""
    from scipy.stats import binomtest  # half a second and 40 MB that prediction does not need

    if trials == 0:
        return 0.0, 1.0
    interval = binomtest(successes, trials).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def share(hits: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a fraction.

    It is Wilson's, or a bootstrap over objects if several rows belong to one object. If all rows or none are hits,
    all bootstrap draws are identical and their interval would have no width: Wilson's is used, with one trial per
    object.

    Parameters
    ----------
    hits : ndarray
        (n,) bool.
    groups : ndarray
        (n,) object of each row.

    Returns
    -------
    tuple of float
        Low and high, in [0, 1].
    """
    objects = len(np.unique(groups))
    if objects == len(groups) or hits.all() or not hits.any():
        return wilson(round(objects * float(hits.mean())) if len(hits) else 0, objects)
    return bootstrap(lambda times: {"share": float(times @ hits / times.sum())}, groups)["share"]


def widen(value: float, bounds: Sequence[float], groups: Iterable[np.ndarray]) -> list[float]:
    """Replace a bootstrap interval of zero width at 0 or 1 by Wilson's, with one trial per object.

    Parameters
    ----------
    value : float
        The estimate, in [0, 1].
    bounds : sequence of float
        Low and high of the bootstrap.
    groups : iterable of ndarray
        Objects of the rows of the estimate; for a mean over several sets of rows, one array for each.

    Returns
    -------
    list of float
        Low and high.
    """
    if bounds[1] - bounds[0] > ROUNDING or min(abs(value), abs(1 - value)) > ROUNDING:
        return list(bounds)
    trials = [len(np.unique(objects)) for objects in groups if len(objects)] or [0]
    return np.mean([wilson(n * round(value), n) for n in trials], axis=0).tolist()


def judge_rows(
    statistic: Callable[[np.ndarray], dict[str, float]],
    groups: np.ndarray,
    rows: np.ndarray | None = None,
    shares: Collection[str] = (),
) -> dict[str, Any]:
    """Compute the numbers of a statistic with their bootstrap intervals.

    Parameters
    ----------
    statistic : callable
        Takes row weights (N,) float64 and returns named numbers.
    groups : ndarray
        (N,) object of each row, see `resamples`.
    rows : ndarray, optional
        Indices of the rows to use; all by default.
    shares : collection of str
        Names of the numbers that are fractions of rows, whose intervals `widen` corrects.

    Returns
    -------
    dict
        {"n": rows, "values": {name: number}, "intervals": {name: [low, high]}}.
    """
    rows = np.arange(len(groups)) if rows is None else rows

    def on_all(times: np.ndarray) -> dict[str, float]:
        weights = np.zeros(len(groups))
        weights[rows] = times
        return statistic(weights)

    bounds = bootstrap(on_all, groups[rows])
    intervals, values = {name: list(bound) for name, bound in bounds.items()}, on_all(np.ones(len(rows)))
    intervals |= {name: widen(values[name], intervals[name], [groups[rows]]) for name in shares}
    return {"n": len(rows), "values": values, "intervals": intervals}


def judge_by_class(
    statistic: Callable[[np.ndarray], dict[str, float]],
    groups: np.ndarray,
    labels: np.ndarray,
    shares: Collection[str] = (),
) -> dict[str, Any]:
    """Return `judge_rows` of all rows and, as "by_class", of the rows with each label; parameters as there."""
    names = labels.astype(str)
    by_class = {
        str(name): judge_rows(statistic, groups, np.flatnonzero(names == name), shares) for name in np.unique(names)
    }
    return judge_rows(statistic, groups, shares=shares) | {"by_class": by_class}


def bootstrap(
    statistic: Callable[[np.ndarray], dict[str, float]], groups: np.ndarray, draws: int = 500
) -> dict[str, tuple[float, float]]:
    """Compute percentile bootstrap intervals of the numbers of a statistic.

    A number that a draw leaves undefined is taken from the other draws. Parameters as in `judge_rows`.

    Returns
    -------
    dict of str to tuple of float
        Low and high of each number.
    """
    values = [statistic(times) for times in resamples(groups, draws)]
    tails = [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2]
    names = dict.fromkeys(name for value in values for name in value)
    bounds = {name: np.percentile([value[name] for value in values if name in value], tails) for name in names}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}


def resamples(groups: np.ndarray, draws: int) -> Iterator[np.ndarray]:
    """Yield bootstrap weights of the rows, resampling whole objects with replacement.

    Rows of one object are not independent, so they are drawn together.

    Parameters
    ----------
    groups : ndarray
        (N,) object of each row.
    draws : int
        Number of resamples.

    Yields
    ------
    ndarray
        (N,) float64, how often each row was drawn.
    """
    rng = np.random.default_rng(0)
    objects, group = np.unique(groups, return_inverse=True)
    for _ in range(draws):
        sample = rng.integers(len(objects), size=len(objects))
        yield np.bincount(sample, minlength=len(objects))[group].astype(np.float64)


def reflect_interval(value: float, bounds: Sequence[float]) -> list[float]:
    """Return the basic bootstrap interval, clipped at 0, of a number that resampling inflates.

    A calibration error is such a number; the percentile interval would count the inflation twice.

    Parameters
    ----------
    value : float
        The estimate, at least 0.
    bounds : sequence of float
        Low and high of the percentile bootstrap.

    Returns
    -------
    list of float
        Low and high.

    References
    ----------
    Davison & Hinkley 1997, Bootstrap Methods and their Application, section 5.2.1.
    """
    return [max(0.0, 2 * value - bounds[1]), max(0.0, 2 * value - bounds[0])]
