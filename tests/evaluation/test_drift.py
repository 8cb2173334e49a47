"""Drift: a made shift is found, chance and another mix of classes are not taken for it."""

import numpy as np
import pytest

from alerce_early.evaluation.drift import find_drift, match_classes, psi

NAMES = ("ra", "magpsf", "ndethist")


def test_a_made_shift_is_found_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(400, 3)), rng.normal(size=(200, 3))
    assert find_drift(train, test, NAMES) == []
    (found,) = find_drift(train, test + np.array([0, 0, 1.5]), NAMES)
    assert found["column"] == "ndethist" and found["psi"] > 0.25
    assert found["other_median"] - found["median"] == pytest.approx(1.5, abs=0.3)


def test_another_mix_of_classes_is_no_drift() -> None:
    rng = np.random.default_rng(0)
    train_labels, test_labels = np.repeat([0, 1], [900, 300]), np.repeat([0, 1], [100, 100])
    train, test = (labels[:, None] * 2.0 + rng.normal(size=(len(labels), 3)) for labels in (train_labels, test_labels))
    assert len(find_drift(train, test, NAMES)) == 3
    assert find_drift(train, test, NAMES, train_labels, test_labels) == []


def test_matched_rows_have_the_wanted_shares() -> None:
    labels = np.repeat([0, 1, 2], [900, 300, 50])
    rows = match_classes(labels, np.repeat([0, 1], [10, 10]))
    assert np.bincount(labels[rows], minlength=3).tolist() == [300, 300, 0]
    assert len(match_classes(labels, labels)) == len(labels)


def test_psi_by_hand() -> None:
    reference, other = np.repeat([0.0, 1.0], [50, 50]), np.repeat([0.0, 1.0], [20, 80])
    p, q = np.array([50.5, 50.5]) / 101, np.array([20.5, 80.5]) / 101  # half a row added to each bin
    assert psi(reference, other) == pytest.approx(((q - p) * np.log(q / p)).sum())
    assert psi(reference, reference) == 0
