"""How far a number can be trusted: 95 % intervals."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

LEVEL = 0.95
ROUNDING = 1e-9  # of a share


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson score interval of a proportion, in [0, 1]; (0, 1) where there were no trials."""
    from scipy.stats import binomtest  # half a second and 40 MB, which who only predicts can spare

    if trials == 0:
        return 0.0, 1.0
    interval = binomtest(successes, trials).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def share(hits: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the fraction of hits (n,) bool.

    Wilson's, or a bootstrap over objects if several rows belong to one object, as groups (n,) tell. Where all rows or
    none are hits, every bootstrap draw is identical and its interval would have no width: Wilson's is used then, with
    one trial per object.
    """
    objects = len(np.unique(groups))
    if objects == len(groups) or hits.all() or not hits.any():
        return wilson(round(objects * float(hits.mean())) if len(hits) else 0, objects)
    return bootstrap(lambda times: {"share": float(times @ hits / times.sum())}, groups)["share"]


def widen(value: float, bounds: Sequence[float], groups: Iterable[np.ndarray]) -> list[float]:
    """Return a bootstrap's interval of a number in [0, 1], or where it has no width Wilson's, with a trial per object.

    groups: the objects of the rows that the number is about; of several such sets of rows it is taken for the mean of
    their numbers. Where all draws are 0 or all are 1, the bootstrap knows nothing of the rows that were not drawn.
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
    """Return {"n", "values": {name: number}, "intervals": {name: [low, high]}} of the rows (n,), or all.

    statistic: takes how often each row counts, (N,) float64, and returns named numbers; groups: see `resamples`;
    shares: names of those numbers that are shares of the rows, whose interval is `widen`'s.
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
    """Return `judge_rows` of all rows, with "by_class": the same of the rows of each of labels (N,)."""
    names = labels.astype(str)
    by_class = {
        str(name): judge_rows(statistic, groups, np.flatnonzero(names == name), shares) for name in np.unique(names)
    }
    return judge_rows(statistic, groups, shares=shares) | {"by_class": by_class}


def bootstrap(
    statistic: Callable[[np.ndarray], dict[str, float]], groups: np.ndarray, draws: int = 500
) -> dict[str, tuple[float, float]]:
    """Return (low, high) of each number of a statistic: percentile bootstrap, see `judge_rows` and `resamples`.

    A number that is undefined in some draws has the interval of the others.
    """
    values = [statistic(times) for times in resamples(groups, draws)]
    tails = [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2]
    names = dict.fromkeys(name for value in values for name in value)
    bounds = {name: np.percentile([value[name] for value in values if name in value], tails) for name in names}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}


def resamples(groups: np.ndarray, draws: int) -> Iterator[np.ndarray]:
    """Draw as many objects as there are, with replacement; yield how often each row was drawn, (N,) float64.

    groups: (N,) the object of each row; rows of one object are drawn together, since they are no independent evidence.
    """
    rng = np.random.default_rng(0)
    objects, group = np.unique(groups, return_inverse=True)
    for _ in range(draws):
        drawn = rng.integers(len(objects), size=len(objects))
        yield np.bincount(drawn, minlength=len(objects))[group].astype(np.float64)


def reflect_interval(value: float, bounds: Sequence[float]) -> list[float]:
    """Return the basic bootstrap interval, not below 0, of a number that every draw inflates, as a calibration error.

    bounds: of the percentile bootstrap, which counts the inflation twice; here its draws about the value stand
    for the value about the truth (Davison and Hinkley 1997, section 5.2.1).
    """
    return [max(0.0, 2 * value - bounds[1]), max(0.0, 2 * value - bounds[0])]
