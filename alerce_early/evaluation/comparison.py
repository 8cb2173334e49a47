"""Statistical tests of whether one config is better than another: on the same test rows, and across seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import binomtest, ttest_ind

from alerce_early.evaluation.intervals import LEVEL, resamples, widen
from alerce_early.evaluation.kinds import choose_kind
from alerce_early.evaluation.tables import find_objects

N_DRAWS = 2000
BOOTSTRAP, MCNEMAR = "paired bootstrap", "rows right (McNemar)"
ALPHA = 0.05  # significance level of each test


@dataclass(frozen=True)
class Outcome:
    """Which test rows one config got right, with each of its seeds.

    Parameters
    ----------
    keys : ndarray
        (N,) str, names of the rows, sorted.
    ids : ndarray
        (N,) objects of the rows.
    strata : ndarray
        (N,) strata with equal weight in the score, such as the classes for a balanced accuracy.
    right : ndarray
        (N, seeds) bool.
    """

    keys: np.ndarray
    ids: np.ndarray
    strata: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, tables: Sequence[Mapping[str, np.ndarray]]) -> "Outcome":
        """Collect the outcome from one table of labelled test rows per seed; the rows may be in any order."""
        orders = [np.argsort(_keys(table), kind="stable") for table in tables]
        kind, first, order = choose_kind(tables[0]), tables[0], orders[0]
        right = np.stack([kind.correct(table)[rows] for table, rows in zip(tables, orders, strict=True)], 1)
        return cls(_keys(first)[order], find_objects(first)[order], kind.strata(first)[order], right)

    @property
    def share(self) -> np.ndarray:
        """Share (N,) of the seeds that got each row right."""
        return self.right.mean(1)

    @cached_property
    def one_row_per_object(self) -> bool:
        """Whether every row belongs to a different object."""
        return len(np.unique(self.ids)) == len(self.ids)

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval, by bootstrap over objects, of the score averaged over seeds."""
        scores = self._scores(self.share)
        bounds = np.percentile(scores, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]).tolist()
        strata = (self.ids[self.strata == one] for one in np.unique(self.strata))
        low, high = widen(scores[0], bounds, strata)
        return low, high

    def _scores(self, values: np.ndarray) -> np.ndarray:
        """Return bootstrap scores (N_DRAWS,), resampling objects: the mean over strata of the mean of values (N,)."""
        _, stratum = np.unique(self.strata, return_inverse=True)

        def score(times: np.ndarray) -> float:
            total = np.bincount(stratum, times)
            return float((np.bincount(stratum, times * values)[total > 0] / total[total > 0]).mean())

        return np.array([score(times) for times in resamples(self.ids, N_DRAWS)])


def _keys(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return a key (N,) per row that identifies it in all tables of the same data file."""
    row = table["row"] if "row" in table else np.arange(len(table["id"]))
    return np.char.add(np.char.add(table["id"].astype(str), " "), row.astype(str))


def mcnemar(one: Outcome, other: Outcome) -> float:
    """Compute the exact p value of McNemar's test.

    With several seeds it is a sign test: a row counts for the config that classified it correctly with more seeds.

    Parameters
    ----------
    one, other : Outcome
        Outcomes on the same rows, with one row per object.

    Returns
    -------
    float
        In [0, 1]; 1 if no row differs.

    References
    ----------
    McNemar 1947, Psychometrika 12, 153; Dietterich 1998, Neural Computation 10, 1895, section 3.1.
    """
    difference = one.share - other.share
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def paired_bootstrap(one: Outcome, other: Outcome) -> float:
    """Compute the two-sided p value of equal scores, by bootstrap over objects.

    It is twice the smaller of the fractions of draws with a difference of at most, and of at least, zero.

    Parameters
    ----------
    one, other : Outcome
        Outcomes on the same rows.

    Returns
    -------
    float
        In [1 / N_DRAWS, 1], the resolution of the bootstrap.

    References
    ----------
    Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 15.4.
    """
    differences = one._scores(one.share - other.share)
    tail = min((differences <= 0).mean(), (differences >= 0).mean())
    return float(min(1.0, max(2 * tail, 1 / N_DRAWS)))


def compare_paired(one: Outcome, other: Outcome) -> dict[str, float]:
    """Compute the p values of all tests that apply to these rows, by name of the test.

    The bootstrap compares scores, which weigh strata equally. McNemar's test weighs rows equally and requires one row
    per object.
    """
    p_values = {BOOTSTRAP: paired_bootstrap(one, other)}
    return p_values | ({MCNEMAR: mcnemar(one, other)} if one.one_row_per_object else {})


def welch(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Compute the two-sided p value of Welch's t-test on the scores of seeds.

    Returns
    -------
    float or None
        None if either has fewer than two seeds, or if no score differs between seeds.
    """
    if min(len(one), len(other)) < 2 or np.ptp(one) + np.ptp(other) == 0:
        return None
    return float(ttest_ind(one, other, equal_var=False).pvalue)


def verdict(p: float) -> str:
    """Describe a p value in words."""
    return f"p {p:.3f}" if 0.001 <= p < ALPHA else "p < 0.001" if p < ALPHA else f"not distinguishable (p {p:.2f})"
