"""Calibration errors by hand, and of correct and wrong probabilities."""

import numpy as np
import pytest

from alerce_early.evaluation import calibration, metrics
from tests.helpers.tiny import page_of

# 20 rows with p_b = 0.6, 15 of them b, and 20 with p_b = 0.9, 16 of them b
P = np.repeat([0.6, 0.9], 20)
PROBABILITIES = np.stack([1 - P, P], 1)
LABELS = np.concatenate([np.arange(20) < 15, np.arange(20) < 16]).astype(int)


def table(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    names = [f"c{i}" for i in range(probabilities.shape[1])]
    columns = {f"p_{name}": probabilities[:, i] for i, name in enumerate(names)}
    return {"id": np.arange(len(labels)), "label": np.array(names)[labels], **columns}


def perfect(n: int, seed: int) -> dict[str, np.ndarray]:
    """Return probabilities of three classes and labels drawn from them."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([1, 1, 1], n)
    return table(probabilities, (rng.random((n, 1)) > np.cumsum(probabilities, 1)[:, :2]).sum(1))


def test_errors_by_hand() -> None:
    errors = metrics.CalibrationErrors(LABELS, PROBABILITIES)
    # fractions 0.75 and 0.8 for probabilities 0.6 and 0.9; the gaps of a are the same
    assert errors(np.ones(40)) == pytest.approx({"ece": (0.15 + 0.1) / 2, "classwise_ece": (0.15 + 0.1) / 2})
    # the first 20 rows twice
    assert errors(np.repeat([2.0, 1.0], 20))["ece"] == pytest.approx((2 * 0.15 + 0.1) / 3)


def test_top_label_and_classwise_errors_differ() -> None:
    probabilities = np.tile([0.5, 0.3, 0.2], (20, 1))
    found = metrics.CalibrationErrors(np.repeat([0, 1, 2], [10, 10, 0]), probabilities)(np.ones(20))
    assert found == pytest.approx({"ece": 0, "classwise_ece": (0 + 0.2 + 0.2) / 3})


def test_top_label_error_is_the_metric_ece() -> None:
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
