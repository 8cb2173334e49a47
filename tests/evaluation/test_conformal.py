"""Conformal sets: thresholds by hand, and coverage of exchangeable rows."""

import numpy as np
import pytest
from scipy.special import softmax

from alerce_early.errors import InputError
from alerce_early.evaluation import conformal, intervals
from tests.helpers.tiny import spec

CLASSES = ("AGN", "SN", "VS")


def simulated(n: int, seed: int) -> dict[str, np.ndarray]:
    """Return a table with a rare and difficult class SN and an overconfident network."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, size=n, p=[0.6, 0.1, 0.3])
    p = softmax(2 * (rng.standard_normal((n, 3)) + np.array([2, 0.7, 1.5])[labels, None] * np.eye(3)[labels]), axis=1)
    return {"label": np.array(CLASSES)[labels], **{f"p_{name}": p[:, i] for i, name in enumerate(CLASSES)}}


def test_scores_and_thresholds_by_hand() -> None:
    p = np.array([[0.5, 0.2, 0.3], [0.1, 0.9, 0.0]])
    assert conformal.sets([0.5, 0.75, 1.0], p).tolist() == [[True, False, True], [False, True, True]]
    scores = np.arange(1, 20) / 100  # of 19 scores the 18th is the threshold for 0.9
    assert (
        conformal.threshold(scores, 0.9) == 0.18 + conformal.ROUNDING_MARGIN
        and conformal.threshold(scores[:8], 0.9) == 1
    )
    assert conformal.threshold(scores[:9], 0.9) == 0.09 + conformal.ROUNDING_MARGIN  # of 9 scores the last: 10 x 0.9
    assert conformal.threshold(np.ones(19), 0.9) == 1
    assert conformal.threshold(np.empty(0), 0.9) == 1


def test_sets_are_joined_and_read_back() -> None:
    fitted = {"coverage": 0.8, "thresholds": {name: [0.6, 0.75, 0.05] for name in conformal.KINDS}}
    table = {"label": np.array(["AGN", "VS"]), "p_AGN": [0.5, 0.1], "p_SN": [0.3, 0.1], "p_VS": [0.2, 0.8]}
    table = {name: np.array(column) for name, column in table.items()}
    columns = conformal.set_columns(fitted, table)
    assert columns["set"].tolist() == ["AGN|SN", ""]
    judged = conformal.judge(table | columns, conformal.list_constants(fitted))
    assert judged["wanted"] == 0.8 and judged["sets"]["set"]["all"]["size"] == 1
    assert judged["sets"]["set"]["AGN"]["coverage"] == 1 and judged["sets"]["set"]["VS"]["coverage"] == 0
    assert judged["sets"]["set"]["AGN"]["size"] == 2 and judged["sets"]["set"]["VS"]["size"] == 0
    assert judged["sets"]["set"]["all"]["interval"] == list(intervals.wilson(1, 2))


def test_coverage_by_class_is_within_its_binomial_interval() -> None:
    validation, test = simulated(40_000, seed=0), simulated(4_000, seed=1)
    fitted = conformal.fit(validation, 0.9)
    judged = conformal.judge(test | conformal.set_columns(fitted, test), conformal.list_constants(fitted))["sets"]
    for name in CLASSES:
        low, high = judged["set"][name]["interval"]
        assert low <= 0.9 <= high
    low, high = judged["set_marginal"]["all"]["interval"]
    assert low <= 0.9 <= high
    assert judged["set_marginal"]["SN"]["coverage"] < 0.85  # a common threshold covers a rare class too rarely


def test_class_with_too_few_rows_is_in_every_set() -> None:
    table = simulated(200, seed=0)
    few = {
        name: column[(table["label"] != "SN") | (np.cumsum(table["label"] == "SN") <= 3)]
        for name, column in table.items()
    }
    impossible = {"label": np.array(["AGN"]), "p_AGN": np.ones(1), "p_SN": np.zeros(1), "p_VS": np.zeros(1)}
    assert conformal.set_columns(conformal.fit(few, 0.9), impossible)["set"].tolist() == ["AGN|SN"]


@pytest.mark.parametrize("seed", range(5))
def test_rounding_does_not_change_sets_of_the_validation_rows(seed: int) -> None:
    table = simulated(500, seed)
    fitted = conformal.fit(table, 0.9)
    assert fitted is not None
    rng = np.random.default_rng(seed)
    moved = table | {f"p_{name}": table[f"p_{name}"] + 1e-7 * rng.choice([-1, 1], 500) for name in CLASSES}
    here, there = conformal.set_columns(fitted, table), conformal.set_columns(fitted, moved)
    assert all((here[name] == there[name]).all() for name in conformal.KINDS)


def test_mean_coverage_over_small_validation_sets_is_nominal() -> None:
    """The mean is between coverage and coverage + 1 / (n + 1) (Vovk et al. 2005)."""
    rng = np.random.default_rng(0)
    scores = rng.random((4_000, 30))
    held = [rng.random() <= conformal.threshold(row, 0.9) for row in scores]
    low, high = intervals.wilson(sum(held), len(held))
    assert low < 0.9 + 1 / 31 and high > 0.9


def test_class_name_with_the_set_separator_is_rejected() -> None:
    with pytest.raises(InputError, match=r"class 'a\|b'"):
        spec(classes=("a|b", "c"))


def test_coverage_outside_0_to_1_is_rejected() -> None:
    for coverage in (90, 1, 0, -0.5):
        with pytest.raises(InputError, match=f"coverage={coverage}: "):
            conformal.fit(simulated(10, seed=0), coverage)
    assert conformal.fit({"label": np.array(["a"]), "true": np.array([0.1])}, 0.9) is None
    assert conformal.set_columns(None, simulated(10, seed=0)) == {} == conformal.judge(simulated(10, seed=0), {})
