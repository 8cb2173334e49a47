"""Intervals: what few objects leave open."""

import numpy as np
import pytest

from alerce_early.evaluation import metrics, uncertainty
from alerce_early.evaluation.comparison import Outcome
from alerce_early.evaluation.intervals import share, wilson
from alerce_early.evaluation.kinds import Classification, Regression


@pytest.mark.parametrize("hit", (False, True))
def test_all_or_no_hits_among_shared_objects_are_no_certainty(hit: bool) -> None:
    groups = np.array(["a", "a", "b", "c", "d"])
    assert share(np.full(5, hit), groups) == wilson(4 * hit, 4)


def table(n: int, classes: tuple[str, ...] = ("SN", "AGN", "bogus")) -> dict[str, np.ndarray]:
    """N rows of each class, all judged right with the same confidence, each of an object of its own."""
    labels = np.repeat(classes, n)
    probabilities = {f"p_{name}": np.where(labels == name, 0.9, 0.1 / (len(classes) - 1)) for name in classes}
    return {"id": np.arange(len(labels)), "label": labels, "split": np.full(len(labels), "test"), **probabilities}


def test_no_number_of_ten_rows_that_are_all_right_is_certain() -> None:
    judged = Classification().summarise(table(10))
    for name, (low, high) in judged["intervals"].items():
        if name not in metrics.LOSSES and name != "accuracy":
            assert (low, high) == pytest.approx(wilson(10, 10)), name
    judged = Classification().summarise(table(10, ("SN", "rest")))  # with the miss rates of two classes
    low, high = judged["intervals"]["fnr_at_fpr_0.01/SN"]
    assert (low, high) == pytest.approx(wilson(0, 10)) and judged["values"]["fnr_at_fpr_0.01/SN"] == 0
    assert Outcome.of([table(10)]).interval() == pytest.approx(wilson(10, 10))


def test_rows_of_one_object_are_one_trial_of_a_perfect_class() -> None:
    rows = table(10)
    rows["id"] = np.where(rows["label"] == "SN", rows["id"] // 2, rows["id"])
    judged = Classification().summarise(rows)["intervals"]
    assert judged["f1/SN"] == pytest.approx(wilson(5, 5)) and judged["f1/AGN"] == pytest.approx(wilson(10, 10))
    assert judged["macro_f1"][0] == pytest.approx((wilson(5, 5)[0] + 2 * wilson(10, 10)[0]) / 3)


def test_ten_redshifts_without_a_failure_promise_none() -> None:
    true = np.linspace(0.1, 1, 10)
    rows = {"id": np.arange(10), "label": np.full(10, "QSO"), "true": true, "predicted": true + 1e-4}
    judged = Regression().judge(rows)
    for part in (judged, judged["by_class"]["QSO"]):
        assert part["intervals"]["catastrophic"] == pytest.approx(wilson(0, 10))


def test_one_wrong_row_that_is_the_least_certain_proves_little() -> None:
    rows = table(10)
    for name, value in (("SN", 0.3), ("AGN", 0.4), ("bogus", 0.3)):
        rows[f"p_{name}"][0] = value
    separation = uncertainty.judge(rows)["separation"]
    assert separation["values"]["entropy"] == 1 and separation["intervals"]["entropy"] == list(wilson(1, 1))


def test_a_share_of_rows_of_different_objects_is_wilsons() -> None:
    hits = np.array([True, False, True, False, False, True, True])
    assert share(hits, np.arange(7)) == wilson(4, 7)
