"""Risk and coverage of a table by hand."""

import numpy as np
import pytest

from alerce_early.evaluation import uncertainty
from tests.helpers.tiny import page_of


def table(**columns: list) -> dict[str, np.ndarray]:
    p = np.array([0.9, 0.6, 0.2, 0.55])
    rows = {"id": list("wxyz"), "label": ["b", "a", "a", "b"], "p_a": 1 - p, "p_b": p, **columns}
    return {name: np.array(values) for name, values in rows.items()}


def test_accuracy_of_the_most_confident_rows() -> None:
    right, entropy = np.array([True, False, True, True]), np.array([0.1, 0.9, 0.3, 0.2])
    assert uncertainty.risk_coverage(right, entropy).tolist() == [1, 1, 1, 0.75]
    assert uncertainty.risk_coverage(right, -entropy).tolist() == [0, 0.5, pytest.approx(2 / 3), 0.75]


def test_uncertainty_is_the_entropy_of_the_prediction() -> None:
    assert uncertainty.find_entropy(table())[1] == pytest.approx(-0.6 * np.log(0.6) - 0.4 * np.log(0.4))
    assert uncertainty.find_entropy(table(entropy=[4.0, 3, 2, 1])).tolist() == [4, 3, 2, 1]
    rounded = {name: column * 0.999 if name.startswith("p_") else column for name, column in table().items()}
    assert uncertainty.find_entropy(rounded) == pytest.approx(uncertainty.find_entropy(table()), rel=1e-12)


def test_page_shows_accuracy_by_confidence() -> None:
    plain = table()
    drawn, section = page_of(plain, "Uncertainty")
    assert "risk_coverage" in drawn and "draws" not in drawn
    # in order of entropy: 0.9 correct, 0.2 correct, 0.6 wrong, 0.55 correct
    assert section.tables[0][1][0] == ["100%", "0.750"]
    assert section.tables[0][1][-1] == ["50%", "1.000"]


def test_the_entropy_separates_wrong_rows_from_right_ones() -> None:
    separation = uncertainty.judge_separation(
        table()
    )  # entropy decreases with |p - 0.5|: correct, wrong, correct, correct
    assert separation["values"] == {"entropy": pytest.approx(2 / 3)}  # one of the three correct rows is less certain
    better = uncertainty.judge_separation(table(entropy=[1.0, 4, 2, 3], entropy_of_means=[1.0, 2, 3, 4]))
    assert better["values"] == {
        "entropy": 1,
        "entropy_of_means": pytest.approx(1 / 3),
        "gain": pytest.approx(2 / 3),
    }
    all_right = uncertainty.judge_separation(table(label=["b", "b", "a", "b"]))
    assert all_right["values"] == {}


def test_samples_are_summarised_by_class() -> None:
    votes = np.array([0.9, 0.4, 0.3, 0.5])  # for b
    drawn, section = page_of(
        table(std_a=[0.1, 0.2, 0.4, 0.1], std_b=[0.1, 0.2, 0.4, 0.3], vote_a=1 - votes, vote_b=votes), "Uncertainty"
    )
    assert {"risk_coverage", "draws"} <= drawn.keys()
    rows = section.tables[2][1]
    assert rows[0] == ["a", "2", "0.600", "0.300", "0.650", "0.500"]
    assert rows[1] == ["b", "2", "0.725", "0.200", "0.700", "1.000"]
    assert rows[2][:2] == ["all", "4"] and rows[2][3:] == ["0.250", "0.675", "0.750"]


def test_interval_of_the_separation_resamples_objects() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(200)
    rows = {"id": np.arange(200), "label": np.where(rng.random(200) < p, "b", "a"), "p_a": 1 - p, "p_b": p}

    def find_width(table: dict[str, np.ndarray]) -> float:
        low, high = uncertainty.judge_separation(table)["intervals"]["entropy"]
        return high - low

    four = rows | {"object": np.argsort(np.argsort(p)) // 50}  # 50 similar rows per object
    assert find_width(four) != find_width(rows)
    assert find_width(four) == find_width(rows | {"id": four["object"]})
