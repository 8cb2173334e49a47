"""Purity and completeness by hand, and accuracy in bins of a column."""

import numpy as np
import pytest

from alerce_early.evaluation import intervals, thresholds, uncertainty
from alerce_early.evaluation.kinds import Classification
from alerce_early.report import page, sections
from tests.helpers.tiny import page_of

# in descending order of score: SN SN rest (SN rest, tied) SN rest rest
OWN = np.array([1, 1, 0, 1, 0, 1, 0, 0], dtype=bool)
SCORE = np.array([0.9, 0.8, 0.7, 0.6, 0.6, 0.3, 0.2, 0.1])
WORDS = ("accuracy", "balanced_accuracy", "recall/SN")
NAMES = ("completeness_0.9", "completeness_0.95", "purity_0.9", "purity_0.95")


def test_purity_and_completeness_by_hand() -> None:
    threshold, purity, completeness = thresholds.purity_completeness(OWN, SCORE)
    assert threshold.tolist() == [0.9, 0.8, 0.7, 0.6, 0.3, 0.2, 0.1]
    assert purity.tolist() == pytest.approx([1, 1, 2 / 3, 3 / 5, 4 / 6, 4 / 7, 4 / 8])
    assert completeness.tolist() == [0.25, 0.5, 0.5, 0.75, 1, 1, 1]


def test_threshold_for_a_completeness_or_purity() -> None:
    complete, _, pure, _ = thresholds.operating_points(OWN, SCORE)
    assert complete == {"wanted": "completeness", "level": 0.9, "threshold": 0.3, "purity": 4 / 6, "completeness": 1}
    assert (pure["threshold"], pure["purity"], pure["completeness"]) == (0.8, 1, 0.5)
    order = np.random.default_rng(0).permutation(8)
    assert thresholds.operating_points(OWN[order], SCORE[order])[2] == pure
    assert thresholds.operating_points(~OWN, SCORE)[2]["threshold"] is None  # never 90 % pure


def test_every_class_has_a_threshold_for_each_percent() -> None:
    labels = np.where(OWN, "SN", "rest")
    found = thresholds.fit_percents({"label": labels, "p_SN": SCORE, "p_rest": 1 - SCORE, "p_none": 0 * SCORE})
    assert list(found) == ["SN", "rest"] and found["SN"]["rows"] == 4
    assert {len(found[name][wanted]) for name in found for wanted in ("purity", "completeness")} == {100}
    assert [found["SN"]["completeness"][percent - 1] for percent in (50, 75, 90)] == [0.8, 0.6, 0.3]
    assert [found["SN"]["purity"][percent - 1] for percent in (50, 51, 90)] == [0.1, 0.2, 0.8]
    assert found["rest"]["purity"][99] == pytest.approx(0.8)


def test_target_class() -> None:
    assert thresholds.target_class(("AGN", "SN", "VS")) == "SN" == thresholds.target_class(("SN", "rest"))
    assert thresholds.target_class(("bogus", "real")) == "real" and thresholds.target_class(("a", "b", "c")) is None


def test_validation_thresholds_are_evaluated_on_other_rows() -> None:
    chosen = thresholds.fit({"label": np.where(OWN, "SN", "rest"), "p_SN": SCORE, "p_rest": 1 - SCORE})
    assert chosen == {
        "of": "SN",
        "rows": 4,
        "thresholds": {"completeness_0.9": 0.3, "completeness_0.95": 0.3, "purity_0.9": 0.8, "purity_0.95": 0.8},
    }
    # in descending order of score: SN rest | SN SN | rest
    test = {"id": np.arange(5), "label": np.array(["SN", "rest", "SN", "SN", "rest"]), "split": np.full(5, "test")}
    test |= {"p_SN": (score := np.array([0.9, 0.85, 0.7, 0.4, 0.2])), "p_rest": 1 - score}
    constants = thresholds.list_constants(chosen)
    complete, _, pure, _ = (judged := thresholds.judge(test, constants))["points"]
    assert judged["chosen"] and (complete["threshold"], pure["threshold"]) == (0.3, 0.8)
    assert complete["completeness"] == 1 and complete["purity"] == 3 / 4
    assert pure["completeness"] == 1 / 3 and pure["purity"] == 1 / 2
    assert pure["intervals"]["purity"] == list(intervals.wilson(1, 2))
    _, section = page_of(test, "Thresholds for SN", constants)
    assert "chosen on the validation rows" in section.words[0]
    assert section.tables[0][1][2][1:] == ["0.800", "0.333 [0.06, 0.79]", "0.500 [0.09, 0.91]"]

    themselves = test | {"split": np.full(5, "validation")}
    for rows, known in ((test, {}), (themselves, constants)):
        judged = thresholds.judge(rows, known)
        _, section = page_of(rows, "Thresholds for SN", known)
        assert not judged["chosen"] and "chosen on the same rows" in section.words[0]
        assert judged["points"] == thresholds.operating_points(test["label"] == "SN", score)


@pytest.mark.parametrize(("n", "warned"), ((7, True), (29, True), (30, False)))
def test_threshold_fitted_to_few_rows_has_a_warning(n: int, warned: bool) -> None:
    rows = {"id": np.arange(4), "label": np.array(["SN", "rest"] * 2), "split": np.full(4, "test")}
    rows |= {"p_SN": (score := np.array([0.9, 0.1, 0.4, 0.3])), "p_rest": 1 - score}
    labels = np.array(["SN"] * n + ["rest"] * 50)
    chosen = thresholds.fit({"label": labels, "p_SN": np.linspace(1, 0, n + 50), "p_rest": np.linspace(0, 1, n + 50)})
    constants = thresholds.list_constants(chosen)
    assert thresholds.judge(rows, constants)["rows"] == n
    _, section = page_of(rows, "Thresholds for SN", constants)
    assert all((f"only {n} rows of SN" in row[0]) is warned for row in section.tables[0][1])
    del constants[thresholds.CHOSEN_BY]  # unknown in tables of older versions
    _, section = page_of(rows, "Thresholds for SN", constants)
    assert not any("warning" in row[0] for row in section.tables[0][1])


def test_unreachable_purity_and_threshold_above_all_rows() -> None:
    rows = {"id": np.arange(3), "label": np.array(["SN", "rest", "rest"]), "split": np.full(3, "test")}
    rows |= {"p_SN": (score := np.array([0.3, 0.2, 0.1])), "p_rest": 1 - score}
    fitted = {"of": "SN", "rows": 1, "thresholds": dict(zip(NAMES, (0.3, 0.9, None, None), strict=True))}
    _, section = page_of(rows, "Thresholds for SN", thresholds.list_constants(fitted))
    assert [row[1:] for row in section.tables[0][1]] == [
        ["0.300", "1.000 [0.21, 1.00]", "1.000 [0.21, 1.00]"],
        ["0.900", "0.000 [0.00, 0.79]", "no rows called SN"],
        ["not reached", "", ""],
        ["not reached", "", ""],
    ]
    assert thresholds.fit({"label": np.array(["a"]), "true": np.array([0.1])}) is None
    assert thresholds.list_constants(None) == {}


def test_figures_for_two_and_for_more_classes() -> None:
    two = {"id": np.arange(8), "label": np.where(OWN, "SN", "rest"), "p_SN": SCORE, "p_rest": 1 - SCORE}
    drawn, section = page_of(two, "Thresholds for SN")
    assert {"purity_completeness", "det"} <= drawn.keys() and len(section.pictures) == 3
    drawn, section = page_of(two | {"p_AGN": np.zeros(8)}, "Thresholds for SN")
    assert "det" not in drawn and len(section.pictures) == 2
    assert thresholds.judge(two | {"label": np.full(8, "rest")}, {}) == {}


def test_bins_of_a_column_have_equally_many_rows() -> None:
    values = np.arange(200.0)
    bins = uncertainty.bin_by_column(values < 100, np.append(values[:160], np.full(40, np.nan)))
    assert [rows for *_, rows in bins] == [20] * 8 and [right for *_, right, _ in bins] == [20] * 5 + [0] * 3
    assert bins[0][:2] == (0, 19) and uncertainty.bin_by_column(values < 100, np.full(200, np.nan)) == []
    labels = {"label": np.resize(["a", "b"], 200), "predicted": np.full(200, "a")}
    table = {"id": np.arange(200), **labels, "p_a": np.full(200, 0.6), "p_b": np.full(200, 0.4)}
    drawn, section = page_of(table | {"magpsf": values}, "Accuracy by magnitude and S/N")
    assert "by_magpsf" in drawn and len(section.pictures) == 1
    with pytest.raises(StopIteration):
        page_of(table, "Accuracy by magnitude and S/N")


def test_accuracy_by_number_of_detections_worked_out_by_hand() -> None:
    """Both rows with two or three detections belong to one object, a single trial; two rows have no number."""
    rows = [
        *((1, "SN", "SN"), (1, "SN", "AGN"), (1, "AGN", "AGN"), (1, "AGN", "AGN"), (2, "SN", "SN"), (3, "AGN", "AGN")),
        *((4, "AGN", "SN"), (10, "AGN", "AGN"), (11, "SN", "AGN"), (20, "SN", "AGN"), (np.nan, "SN", "SN")),
        (0, "SN", "SN"),
    ]
    numbers, labels, predicted = (np.array(column) for column in zip(*rows, strict=True))
    score = np.where(predicted == "SN", 0.8, 0.1)
    table = {"id": np.arange(12).astype(str), "label": labels, "p_AGN": 1 - score, "p_SN": score}
    table["object"] = np.where(np.isin(numbers, (2, 3)), "both", table["id"])
    known = table | {"ndethist": numbers, "predicted": predicted}
    found = Classification().judge(known)["by_detections"]
    values = {name: [of["n"], *map(of["values"].get, WORDS)] for name, of in found.items()}
    assert values == {
        "1": [4, 0.75, 0.75, 0.5],
        "2 to 3": [2, 1, 1, 1],
        "4 to 10": [2, 0.5, 0.5, None],
        "more than 10": [2, 0, 0, 0],
    }
    bounds = {name: of["intervals"]["accuracy"] for name, of in found.items()}
    wanted = {"1": (3, 4), "2 to 3": (1, 1), "4 to 10": (1, 2), "more than 10": (0, 2)}
    assert bounds == {name: pytest.approx(intervals.wilson(*counts)) for name, counts in wanted.items()}
    drawn, section = page_of(known, "Accuracy by number of detections")
    ((head, shown),) = section.tables
    assert "by_ndethist" not in drawn and head[:3] == ("", "rows", "SN recall")
    assert [row[:2] for row in shown] == [["1", "4"], ["2 to 3", "2"], ["4 to 10", "2"], ["more than 10", "2"]]
    assert [row[2][:5] for row in shown] == ["0.500", "1.000", "", "0.000"]
    for column in ({}, {"ndethist": np.full(12, np.nan)}):
        with pytest.raises(StopIteration):
            page_of(table | column, "Accuracy by number of detections")


def test_interval_of_a_mean_of_perfect_and_failed_classes() -> None:
    """Resampling cannot change a recall of 0 or 1, so each class has Wilson's interval."""
    table = {"id": np.arange(20), "label": np.repeat(["a", "b"], (12, 8)), "p_a": np.full(20, 0.9)}
    table |= {"p_b": 1 - table["p_a"], "predicted": np.full(20, "a"), "ndethist": np.ones(20)}
    bounds = Classification().judge(table)["by_detections"]["1"]["intervals"]["balanced_accuracy"]
    assert bounds == pytest.approx(np.mean([intervals.wilson(12, 12), intervals.wilson(0, 8)], 0)) and bounds[0] < 0.4


def test_page_of_an_older_result_without_detections() -> None:
    table = {"id": np.arange(8), "label": np.where(OWN, "SN", "rest"), "p_SN": SCORE, "p_rest": 1 - SCORE}
    table |= {"predicted": np.where(SCORE > 0.5, "SN", "rest"), "split": np.full(8, "test"), "ndethist": np.full(8, 1)}
    judged = (kind := Classification()).judge(table)
    assert judged.pop("by_detections")["1"]["n"] == 8
    html = page.render("classification_more.html", **sections.describe(kind, judged, table), drawn={}, notes=[])
    assert "number of detections" not in html and "Calibration" in html
