"""Calibration errors worked out by hand, and those of perfect and of wrong probabilities."""

import numpy as np
import pytest

from alerce_early.evaluation import calibration, metrics
from tests.helpers.tiny import page_of

# 20 rows sure of b by .6, of which 15 are b, and 20 sure of it by .9, of which 16 are
P = np.repeat([0.6, 0.9], 20)
PROBABILITIES = np.stack([1 - P, P], 1)
LABELS = np.concatenate([np.arange(20) < 15, np.arange(20) < 16]).astype(int)


def table(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    names = [f"c{i}" for i in range(probabilities.shape[1])]
    columns = {f"p_{name}": probabilities[:, i] for i, name in enumerate(names)}
    return {"id": np.arange(len(labels)), "label": np.array(names)[labels], **columns}


def perfect(n: int, seed: int) -> dict[str, np.ndarray]:
    """Three classes, their labels drawn from the probabilities."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([1, 1, 1], n)
    return table(probabilities, (rng.random((n, 1)) > np.cumsum(probabilities, 1)[:, :2]).sum(1))


def test_errors_by_hand() -> None:
    errors = metrics.CalibrationErrors(LABELS, PROBABILITIES)
    # shares .75 and .8 where .6 and .9 were said; of a the same distances
    assert errors(np.ones(40)) == pytest.approx({"ece": (0.15 + 0.1) / 2, "classwise_ece": (0.15 + 0.1) / 2})
    # the first 20 rows twice
    assert errors(np.repeat([2.0, 1.0], 20))["ece"] == pytest.approx((2 * 0.15 + 0.1) / 3)


def test_the_most_probable_class_and_each_class_are_asked_apart() -> None:
    probabilities = np.tile([0.5, 0.3, 0.2], (20, 1))
    found = metrics.CalibrationErrors(np.repeat([0, 1, 2], [10, 10, 0]), probabilities)(np.ones(20))
    assert found == pytest.approx({"ece": 0, "classwise_ece": (0 + 0.2 + 0.2) / 3})


def test_the_first_error_is_the_metric_of_that_name() -> None:
    rows = perfect(700, seed=0)
    judged = calibration.judge(rows)["p"]["values"]
    probabilities, labels = np.stack([rows[f"p_c{i}"] for i in range(3)], 1), np.char.strip(rows["label"], "c")
    values = metrics.classification(labels.astype(int), probabilities, ("c0", "c1", "c2"))
    assert {name: judged[name] for name in ("log_loss", "brier", "ece")} == pytest.approx(
        {name: values[name] for name in ("log_loss", "brier", "ece")}
    )


def test_wrong_probabilities_have_larger_errors_than_perfect_ones() -> None:
    rows = perfect(2_500, seed=0)
    sharp = np.stack([rows[f"p_c{i}"] for i in range(3)], 1) ** 2
    wrong = rows | {f"p_c{i}": sharp[:, i] / sharp.sum(1) for i in range(3)}
    right, judged = (calibration.judge(one)["p"]["values"] for one in (rows, wrong))
    assert 0.01 < right["ece"] < 0.04  # by chance alone
    assert all(judged[name] > 2 * right[name] for name in ("ece", "classwise_ece"))


@pytest.mark.parametrize("pays", (True, False))
def test_the_page_shows_before_and_after(pays: bool) -> None:
    rows = table(PROBABILITIES, LABELS)
    rows |= calibration.calibrate_columns({"temperature": 0.8 if pays else 1.0}, rows)
    drawn, section = page_of(rows, "Calibration")
    assert section.tables[0][0] == ("", "uncalibrated", "calibrated")
    assert len(drawn["reliability"].axes[0].containers) == 2
    assert ("no temperature lowered" in section.words[-1]) is not pays
