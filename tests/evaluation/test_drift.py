"""Drift: a known shift is found, random differences are not."""

import numpy as np
import pytest

from alerce_early.evaluation.drift import find_drift, psi

NAMES = ("ra", "magpsf", "ndethist")


def test_only_the_shifted_column_is_found() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(400, 3)), rng.normal(size=(200, 3))
    assert find_drift(train, test, NAMES) == []
    (found,) = find_drift(train, test + np.array([0, 0, 1.5]), NAMES)
    assert found["column"] == "ndethist" and found["psi"] > 0.25
    assert found["other_median"] - found["median"] == pytest.approx(1.5, abs=0.3)


def test_psi_by_hand() -> None:
    reference, other = np.repeat([0.0, 1.0], [50, 50]), np.repeat([0.0, 1.0], [20, 80])
    p, q = np.array([50.5, 50.5]) / 101, np.array([20.5, 80.5]) / 101  # half a row added to each bin
    assert psi(reference, other) == pytest.approx(((q - p) * np.log(q / p)).sum())
    assert psi(reference, reference) == 0
