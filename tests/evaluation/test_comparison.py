"""Statistical tests between configs, by hand and against their nominal error rates."""

from typing import Any

import numpy as np
import pytest

from alerce_early.evaluation import comparison
from alerce_early.evaluation.comparison import Outcome


def outcome(right: np.ndarray, ids: np.ndarray | None = None, strata: np.ndarray | None = None) -> Outcome:
    """right: (N, seeds) bool."""
    rows = np.arange(len(right)).astype(str)
    return Outcome(rows, rows if ids is None else ids, np.full(len(right), "all") if strata is None else strata, right)


def table(right: list[bool], labels: list[str], order: list[int]) -> dict[str, Any]:
    p = np.array([(label == "SN") == ok for label, ok in zip(labels, right, strict=True)], dtype=float)
    columns = {"id": np.array(list("abcd")), "row": np.arange(4), "label": np.array(labels), "p_SN": p, "p_VS": 1 - p}
    return {name: column[order] for name, column in columns.items()}


def test_mcnemar_by_hand() -> None:
    one, other = np.ones(20, bool), np.ones(20, bool)
    one[0], other[1:9] = False, False  # 8 rows to 1: 2 (1 + 9) / 2^9
    assert comparison.mcnemar(outcome(one[:, None]), outcome(other[:, None])) == pytest.approx(20 / 512)
    assert comparison.mcnemar(outcome(one[:, None]), outcome(one[:, None])) == 1


def test_outcome_does_not_depend_on_the_order_of_rows() -> None:
    labels, right = ["SN", "SN", "VS", "VS"], [True, False, True, True]
    straight = Outcome.of([table(right, labels, [0, 1, 2, 3])])
    shuffled = Outcome.of([table(right, labels, [2, 0, 3, 1])])
    assert np.array_equal(straight.right, shuffled.right) and np.array_equal(straight.keys, shuffled.keys)
    assert straight.share.tolist() == [1, 0, 1, 1]


def test_mcnemar_requires_one_row_per_object() -> None:
    rows = outcome(np.ones((6, 1), bool))
    objects = outcome(np.ones((6, 1), bool), ids=np.array(list("aabbcc")))
    assert comparison.compare_paired(rows, rows) == {"paired bootstrap": 1.0, "rows right (McNemar)": 1.0}
    assert comparison.compare_paired(objects, objects) == {"paired bootstrap": 1.0}


def test_bootstrap_resamples_objects() -> None:
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(30), 10).astype(str)
    one, other = (np.repeat(rng.random(30) < p, 10)[:, None] for p in (0.7, 0.55))
    apart = comparison.paired_bootstrap(outcome(one), outcome(other))
    together = comparison.paired_bootstrap(outcome(one, ids), outcome(other, ids))
    assert together > 3 * apart


def test_bootstrap_is_two_sided() -> None:
    one, other = np.ones((400, 1), bool), np.ones((400, 1), bool)
    one[:20], other[20:55] = False, False  # the means differ by 15 rows with a standard deviation of 7.4: z = 2.03
    p = comparison.paired_bootstrap(outcome(one), outcome(other))
    assert p == pytest.approx(0.042, abs=0.012)
    assert p == pytest.approx(comparison.paired_bootstrap(outcome(other), outcome(one)))


def test_bootstrap_has_its_nominal_error_rate() -> None:
    rng = np.random.default_rng(0)
    ids, strata = np.arange(100).astype(str), np.repeat(["SN", "VS"], [30, 70])
    pairs = (tuple(rng.random((100, 1)) < 0.7 for _ in range(2)) for _ in range(60))
    found = [comparison.paired_bootstrap(*(outcome(right, ids, strata) for right in pair)) < 0.05 for pair in pairs]
    assert sum(found) <= 8  # 3 expected; more than 8 has probability 0.003


def test_interval_weighs_classes_equally() -> None:
    strata = np.repeat(["SN", "VS"], [20, 180])
    right = np.r_[np.arange(20) < 10, np.ones(180, bool)][:, None]
    low, high = outcome(right, strata=strata).interval()
    assert low < 0.75 < high and high - low == pytest.approx(2 * 1.96 * 0.5 * (0.25 / 20) ** 0.5, rel=0.2)


def test_welch_and_verdict() -> None:
    assert comparison.welch([0.5], [0.6, 0.7]) is None and comparison.welch([0.5, 0.5], [0.5, 0.5]) is None
    p = comparison.welch([0.60, 0.62, 0.61], [0.70, 0.72, 0.71])
    assert p is not None and p < 0.001 and comparison.verdict(p) == "p < 0.001"
    assert comparison.verdict(0.2) == "not distinguishable (p 0.20)"
    assert comparison.verdict(0.05).startswith("not distinguishable")
