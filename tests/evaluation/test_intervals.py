"""Intervals of few objects."""

import numpy as np
import pytest

from alerce_early.evaluation import metrics, uncertainty
from alerce_early.evaluation.comparison import Outcome
from alerce_early.evaluation.intervals import share, wilson
from alerce_early.evaluation.kinds import Classification, Regression


@pytest.mark.parametrize("hit", (False, True))
def test_interval_of_all_or_no_hits_has_a_width(hit: bool) -> None:
    groups = np.array(["a", "a", "b", "c", "d"])
    assert share(np.full(5, hit), groups) == wilson(4 * hit, 4)


def table(n: int, classes: tuple[str, ...] = ("SN", "AGN", "bogus")) -> dict[str, np.ndarray]:
    """Return n rows per class, each of another object, all correct with the same confidence."""
    labels = np.repeat(classes, n)
    probabilities = {f"p_{name}": np.where(labels == name, 0.9, 0.1 / (len(classes) - 1)) for name in classes}
    return {"id": np.arange(len(labels)), "label": labels, "split": np.full(len(labels), "test"), **probabilities}


def test_metrics_of_ten_correct_rows_have_intervals() -> None:
    judged = Classification().summarise(table(10))
    for name, (low, high) in judged["intervals"].items():
        if name not in metrics.LOSSES and name != "accuracy":
            assert (low, high) == pytest.approx(wilson(10, 10)), name
    judged = Classification().summarise(table(10, ("SN", "rest")))  # two classes, which have fnr_at_fpr
    low, high = judged["intervals"]["fnr_at_fpr_0.01/SN"]
    assert (low, high) == pytest.approx(wilson(0, 10)) and judged["values"]["fnr_at_fpr_0.01/SN"] == 0
    assert Outcome.of([table(10)]).interval() == pytest.approx(wilson(10, 10))


def test_objects_are_the_trials_of_a_perfect_class() -> None:
    rows = table(10)
    rows["id"] = np.where(rows["label"] == "SN", rows["id"] // 2, rows["id"])
    judged = Classification().summarise(rows)["intervals"]
    assert judged["f1/SN"] == pytest.approx(wilson(5, 5)) and judged["f1/AGN"] == pytest.approx(wilson(10, 10))
    assert judged["macro_f1"][0] == pytest.approx((wilson(5, 5)[0] + 2 * wilson(10, 10)[0]) / 3)


def test_interval_of_no_catastrophic_failure_has_a_width() -> None:
    true = np.linspace(0.1, 1, 10)
    rows = {"id": np.arange(10), "label": np.full(10, "QSO"), "true": true, "predicted": true + 1e-4}
    judged = Regression().judge(rows)
    for part in (judged, judged["by_class"]["QSO"]):
        assert part["intervals"]["catastrophic"] == pytest.approx(wilson(0, 10))


def test_separation_of_one_wrong_row_has_a_wide_interval() -> None:
    rows = table(10)
    for name, value in (("SN", 0.3), ("AGN", 0.4), ("bogus", 0.3)):
        rows[f"p_{name}"][0] = value
    separation = uncertainty.judge(rows)["separation"]
    assert separation["values"]["entropy"] == 1 and separation["intervals"]["entropy"] == list(wilson(1, 1))


def test_share_over_different_objects_has_a_wilson_interval() -> None:
    hits = np.array([True, False, True, False, False, True, True])
    assert share(hits, np.arange(7)) == wilson(4, 7)
