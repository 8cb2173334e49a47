"""Purity and completeness worked out by hand, and accuracy in bins of a column."""

import numpy as np
import pytest

from alerce_early.evaluation import slices, thresholds

# by falling score: SN SN rest (SN rest, tied) SN rest rest
OWN = np.array([1, 1, 0, 1, 0, 1, 0, 0], dtype=bool)
SCORE = np.array([0.9, 0.8, 0.7, 0.6, 0.6, 0.3, 0.2, 0.1])


def test_purity_and_completeness_by_hand() -> None:
    threshold, purity, completeness = thresholds.purity_completeness(OWN, SCORE)
    assert threshold.tolist() == [0.9, 0.8, 0.7, 0.6, 0.3, 0.2, 0.1]
    assert purity.tolist() == pytest.approx([1, 1, 2 / 3, 3 / 5, 4 / 6, 4 / 7, 4 / 8])
    assert completeness.tolist() == [0.25, 0.5, 0.5, 0.75, 1, 1, 1]


def test_the_threshold_for_what_is_wanted() -> None:
    complete, _, pure, _ = thresholds.operating_points(OWN, SCORE)
    assert complete == {"wanted": "completeness", "level": 0.9, "threshold": 0.3, "purity": 4 / 6, "completeness": 1}
    assert (pure["threshold"], pure["purity"], pure["completeness"]) == (0.8, 1, 0.5)
    order = np.random.default_rng(0).permutation(8)
    assert thresholds.operating_points(OWN[order], SCORE[order])[2] == pure
    assert thresholds.operating_points(~OWN, SCORE)[2]["threshold"] is None  # never 90 % pure


def test_which_class_is_looked_for() -> None:
    assert thresholds.looked_for(("AGN", "SN", "VS")) == "SN" == thresholds.looked_for(("SN", "rest"))
    assert thresholds.looked_for(("bogus", "real")) == "real" and thresholds.looked_for(("a", "b", "c")) is None


def test_pictures_for_two_classes_and_for_more() -> None:
    two = {"label": np.where(OWN, "SN", "rest"), "p_SN": SCORE, "p_rest": 1 - SCORE}
    judged = thresholds.judge(two)
    drawn = thresholds.pictures(judged, two)
    assert drawn.keys() == {"purity_completeness", "det"} and len(thresholds.section(judged, drawn).pictures) == 2
    more = two | {"p_AGN": np.zeros(8)}
    assert thresholds.pictures(thresholds.judge(more), more).keys() == {"purity_completeness"}
    assert thresholds.judge(two | {"label": np.full(8, "rest")}) == {}


def test_bins_of_a_column_hold_equally_many_rows() -> None:
    values = np.arange(200.0)
    bins = slices.by_column(values < 100, np.append(values[:160], np.full(40, np.nan)))
    assert [rows for *_, rows in bins] == [20] * 8 and [right for *_, right, _ in bins] == [20] * 5 + [0] * 3
    assert bins[0][:2] == (0, 19) and slices.by_column(values < 100, np.full(200, np.nan)) == []
    table = {"label": np.full(200, "a"), "predicted": np.full(200, "a"), "magpsf": values}
    drawn = slices.pictures(table)
    section = slices.section(drawn)
    assert drawn.keys() == {"by_magpsf"} and section is not None and len(section.pictures) == 1
    assert slices.section({}) is None
