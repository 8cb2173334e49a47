"""Whether one config is better than another: tests on the same test rows, and across seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import binomtest, ttest_ind

from alerce_early.evaluation.intervals import LEVEL, resamples, widen
from alerce_early.evaluation.kinds import choose_kind
from alerce_early.evaluation.tables import find_objects

DRAWS = 2000
BOOTSTRAP, MCNEMAR = "paired bootstrap", "rows right (McNemar)"
ALPHA = 0.05  # of every test


@dataclass(frozen=True)
class Outcome:
    """How often each test row of one config was right, over its seeds.

    keys: (N,) str that name the rows, sorted; ids: (N,) the objects; strata: (N,) what the score weighs alike
    (the classes, for a balanced accuracy); right: (N, seeds) bool.
    """

    keys: np.ndarray
    ids: np.ndarray
    strata: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, tables: Sequence[Mapping[str, np.ndarray]]) -> "Outcome":
        """From the labelled test rows of each seed, the same ones in any order."""
        orders = [np.argsort(_keys(table), kind="stable") for table in tables]
        kind, first, order = choose_kind(tables[0]), tables[0], orders[0]
        right = np.stack([kind.find_right(table)[rows] for table, rows in zip(tables, orders, strict=True)], 1)
        return cls(_keys(first)[order], find_objects(first)[order], kind.find_strata(first)[order], right)

    @property
    def share(self) -> np.ndarray:
        """(N,) share of the seeds that were right on each row."""
        return self.right.mean(1)

    @cached_property
    def each_its_own(self) -> bool:
        """Whether every row is another object."""
        return len(np.unique(self.ids)) == len(self.ids)

    def interval(self) -> tuple[float, float]:
        """95 % of the mean over seeds of the score, by which other objects might have been in the test rows."""
        scores = self._scores(self.share)
        bounds = np.percentile(scores, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]).tolist()
        strata = (self.ids[self.strata == one] for one in np.unique(self.strata))
        low, high = widen(scores[0], bounds, strata)
        return low, high

    def _scores(self, values: np.ndarray) -> np.ndarray:
        """(DRAWS,) of the mean over strata of the mean of values (N,), bootstrapped over whole objects."""
        _, stratum = np.unique(self.strata, return_inverse=True)

        def score(times: np.ndarray) -> float:
            total = np.bincount(stratum, times)
            return float((np.bincount(stratum, times * values)[total > 0] / total[total > 0]).mean())

        return np.array([score(times) for times in resamples(self.ids, DRAWS)])


def _keys(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) str, the same for the same row in every table of one file."""
    row = table["row"] if "row" in table else np.arange(len(table["id"]))
    return np.char.add(np.char.add(table["id"].astype(str), " "), row.astype(str))


def mcnemar(one: Outcome, other: Outcome) -> float:
    """Exact p of McNemar's test on the same rows, of which every one must be another object.

    With several seeds it is the sign test on which config was right on a row with more of them (McNemar 1947;
    Dietterich 1998, section 3.1). 1 where no row differs.
    """
    difference = one.share - other.share
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def paired_bootstrap(one: Outcome, other: Outcome) -> float:
    """Two-sided p that the score of one is that of the other, on the same rows: bootstrap over whole objects.

    Twice the share of draws on the far side of no difference (Efron & Tibshirani 1993, section 15.4); at
    least 1 / DRAWS, below which the draws cannot see.
    """
    drawn = one._scores(one.share - other.share)
    far = min((drawn <= 0).mean(), (drawn >= 0).mean())
    return float(min(1.0, max(2 * far, 1 / DRAWS)))


def compare_paired(one: Outcome, other: Outcome) -> dict[str, float]:
    """p of the tests that fit these rows, by name: the bootstrap of the score, and McNemar's where it may be used.

    The two ask different things: the score weighs strata alike, McNemar's test rows.
    """
    return {BOOTSTRAP: paired_bootstrap(one, other)} | ({MCNEMAR: mcnemar(one, other)} if one.each_its_own else {})


def welch(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Two-sided p of Welch's t-test on the scores of seeds; None where either has less than two or none varies."""
    if min(len(one), len(other)) < 2 or np.ptp(one) + np.ptp(other) == 0:
        return None
    return float(ttest_ind(one, other, equal_var=False).pvalue)


def verdict(p: float) -> str:
    """Return a p in words."""
    return f"p {p:.3f}" if 0.001 <= p < ALPHA else "p < 0.001" if p < ALPHA else f"not distinguishable (p {p:.2f})"
