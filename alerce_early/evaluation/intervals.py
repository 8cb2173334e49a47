"""How far a number can be trusted: 95 % intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

LEVEL = 0.95


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson score interval of a proportion, in [0, 1]; (0, 1) where there were no trials."""
    from scipy.stats import binomtest  # half a second and 40 MB, which who only predicts can spare

    if trials == 0:
        return 0.0, 1.0
    interval = binomtest(successes, trials).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def share(hits: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Interval of the share of hits (n,) bool: Wilson's, or over objects where rows share one in groups (n,).

    Where all rows or none are hits every draw says the same, which is no certainty: Wilson's, each object one trial.
    """
    objects = len(np.unique(groups))
    if objects == len(groups) or hits.all() or not hits.any():
        return wilson(round(objects * float(hits.mean())) if len(hits) else 0, objects)
    return bootstrap(lambda drawn: {"share": float(hits[drawn].mean())}, groups)["share"]


def judged(
    statistic: Callable[[np.ndarray], dict[str, float]], groups: np.ndarray, rows: np.ndarray | None = None
) -> dict[str, Any]:
    """{"n", "values": {name: number}, "intervals": {name: [low, high]}} of the rows (n,), or all, as plain values.

    statistic, groups: see `bootstrap`; statistic takes row numbers.
    """
    rows = np.arange(len(groups)) if rows is None else rows
    bounds = bootstrap(lambda drawn: statistic(rows[drawn]), groups[rows])
    return _plain(len(rows), statistic(rows), bounds)


def judged_by_weight(statistic: Callable[[np.ndarray], dict[str, float]], groups: np.ndarray) -> dict[str, Any]:
    """As `judged`, of all rows, for a statistic that takes how often each was drawn."""
    return _plain(len(groups), statistic(np.ones(len(groups))), bootstrap(statistic, groups, weights=True))


def judged_by_class(
    statistic: Callable[[np.ndarray], dict[str, float]], groups: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """`judged` of all rows, with "by_class": the same of the rows of each of labels (N,)."""
    names = labels.astype(str)
    by_class = {str(name): judged(statistic, groups, np.flatnonzero(names == name)) for name in np.unique(names)}
    return judged(statistic, groups) | {"by_class": by_class}


def _plain(n: int, values: dict[str, float], bounds: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    return {"n": n, "values": values, "intervals": {name: list(bound) for name, bound in bounds.items()}}


def bootstrap(
    statistic: Callable[[np.ndarray], dict[str, float]],
    groups: np.ndarray,
    *,
    draws: int = 500,
    seed: int = 0,
    weights: bool = False,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap over whole objects.

    statistic: takes row numbers (n,) int64, with repeats, or, where weights is set, how often each row was drawn,
    (N,) float64; it returns named numbers. groups: (N,) the object of each row; rows of one object are drawn
    together, since they are no independent evidence. Returns (low, high) of each name, over the draws in which
    it is defined.
    """
    rng = np.random.default_rng(seed)
    _, group = np.unique(groups, return_inverse=True)
    by_group = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes

    def resample() -> np.ndarray:
        drawn = rng.integers(len(sizes), size=len(sizes))
        if weights:
            return np.bincount(drawn, minlength=len(sizes))[group].astype(np.float64)
        # the rows of each drawn group, laid end to end without a loop over groups
        offsets = np.arange(sizes[drawn].sum()) - np.repeat(np.cumsum(sizes[drawn]) - sizes[drawn], sizes[drawn])
        return by_group[np.repeat(starts[drawn], sizes[drawn]) + offsets]

    values = [statistic(resample()) for _ in range(draws)]
    tails = [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2]
    names = dict.fromkeys(name for value in values for name in value)
    bounds = {name: np.percentile([value[name] for value in values if name in value], tails) for name in names}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}


def reflected(value: float, bounds: Sequence[float]) -> list[float]:
    """The basic bootstrap interval, not below 0, of a number that every new draw inflates, as a calibration error.

    bounds: of the percentile bootstrap, which counts the inflation twice; here its draws about the value stand
    for the value about the truth (Davison and Hinkley 1997, section 5.2.1).
    """
    return [max(0.0, 2 * value - bounds[1]), max(0.0, 2 * value - bounds[0])]
