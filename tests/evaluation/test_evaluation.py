"""Metrics by hand, their intervals, and the file of a table."""

from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics

from alerce_early.artifacts import predictions
from alerce_early.errors import InputError
from alerce_early.evaluation import intervals, metrics
from alerce_early.evaluation.kinds import Classification, choose_kind
from alerce_early.report import page

judge = Classification().judge
CLASSES = ("AGN", "SN", "VS")

# true:      AGN  AGN  SN   SN   SN   VS
# predicted: AGN  SN   SN   SN   VS   VS
TABLE = {
    "id": np.array(list("abcdef")),
    "row": np.arange(6),
    "split": np.array(["test"] * 6),
    "label": np.array(["AGN", "AGN", "SN", "SN", "SN", "VS"]),
    "predicted": np.array(["AGN", "SN", "SN", "SN", "VS", "VS"]),
    "p_AGN": np.array([0.8, 0.3, 0.1, 0.2, 0.1, 0.1]),
    "p_SN": np.array([0.1, 0.6, 0.7, 0.5, 0.3, 0.2]),
    "p_VS": np.array([0.1, 0.1, 0.2, 0.3, 0.6, 0.7]),
}


def test_a_table_worked_out_by_hand() -> None:
    values = judge(TABLE)["values"]
    assert next(iter(values)) == "recall/SN"
    expected = {
        "accuracy": 4 / 6,
        "recall/AGN": 1 / 2,
        "recall/SN": 2 / 3,
        "recall/VS": 1,
        "balanced_accuracy": (1 / 2 + 2 / 3 + 1) / 3,
        "precision/AGN": 1,
        "precision/SN": 2 / 3,
        "precision/VS": 1 / 2,
        "f1/AGN": 2 / 3,
        "f1/SN": 2 / 3,
        "f1/VS": 2 / 3,
        "macro_precision": (1 + 2 / 3 + 1 / 2) / 3,
        "macro_f1": 2 / 3,
        # 4 of 6 correct; true classes 2, 3, 1 times, predicted 1, 3, 2 times
        "mcc": (4 * 6 - (2 * 1 + 3 * 3 + 1 * 2)) / ((36 - 14) * (36 - 14)) ** 0.5,
        # pairs in which a row of the class has a higher probability than another row; a tie counts half
        "roc_auc/AGN": 8 / 8,
        "roc_auc/SN": 7 / 9,
        "roc_auc/VS": 5 / 5,
        "roc_auc": (1 + 7 / 9 + 1) / 3,
        # precision at each row of the class, in descending order of probability
        "average_precision/AGN": 1,
        "average_precision/SN": (1 + 2 / 3 + 3 / 4) / 3,
        "average_precision/VS": 1,
        "average_precision": (1 + 29 / 36 + 1) / 3,
        "log_loss": -np.log(0.8 * 0.3 * 0.7 * 0.5 * 0.3 * 0.7) / 6,
        "brier": (0.06 + 0.86 + 0.14 + 0.38 + 0.86 + 0.14) / 6,
        "ece": (4 - 3.9) / 6,  # so few rows share one bin: mean confidence 3.9 / 6
    }
    assert {name: pytest.approx(value) for name, value in expected.items()} == values
    assert judge(TABLE)["confusion"] == [[1, 1, 0], [0, 2, 1], [0, 0, 1]]


def test_metrics_do_not_depend_on_the_order_of_rows() -> None:
    shuffled = {name: column[[3, 1, 5, 0, 4, 2]] for name, column in TABLE.items()}
    assert judge(shuffled)["values"] == pytest.approx(judge(TABLE)["values"], rel=1e-12)


def test_two_classes_worked_out_by_hand() -> None:
    # in descending order of p_SN: SN SN rest SN | rest SN rest rest
    labels = np.array([1, 1, 0, 1, 0, 1, 0, 0])
    p = np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1])
    values = metrics.classification(labels, np.stack([1 - p, p], 1), ("rest", "SN"))
    assert values["fnr_at_fpr_0.01/SN"] == values["fnr_at_fpr_0.1/SN"] == 1 / 2
    assert values["f2/SN"] == pytest.approx(5 * 0.75 * 0.75 / (4 * 0.75 + 0.75))
    assert values["roc_auc/SN"] == pytest.approx(13 / 16) and values["mcc"] == pytest.approx(0.5)


def test_f2_of_supernovae_counts_recall_twice() -> None:
    p = np.array([0.9, 0.1, 0.8, 0.7, 0.6])  # one of two SN found, four rows predicted SN
    values = metrics.classification(np.array([1, 1, 0, 0, 0]), np.stack([1 - p, p], 1), ("rest", "SN"))
    assert values["f2/SN"] == pytest.approx(5 * 0.25 * 0.5 / (4 * 0.25 + 0.5))


def test_fnr_at_fpr_with_ties_and_at_the_exact_rate() -> None:
    # in descending order: real | bogus | real | real and bogus, tied | real | 8 bogus; 1 of 10 bogus may pass
    labels = np.array([1, 0, 1, 1, 0, 1, *[0] * 8])
    p = np.array([0.9, 0.8, 0.7, 0.6, 0.6, 0.5, *[0.1] * 8])
    order = np.random.default_rng(0).permutation(len(p))

    def misses(labels: np.ndarray, p: np.ndarray) -> list[float]:
        values = metrics.classification(labels, np.stack([1 - p, p], 1), ("bogus", "real"))
        return [values["fnr_at_fpr_0.01/real"], values["fnr_at_fpr_0.1/real"]]

    assert misses(labels, p) == misses(labels[order], p[order]) == [3 / 4, 1 / 2]


def test_metrics_equal_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    p = rng.dirichlet([1, 1, 1], 300).round(1) + 0.05 * np.eye(3)[labels]
    p /= p.sum(1, keepdims=True)
    drawn = rng.integers(300, size=300)
    values = metrics.Classification(labels, p, CLASSES)(np.bincount(drawn, minlength=300).astype(float))
    true, q = labels[drawn], p[drawn]
    options = {"multi_class": "ovr", "average": "macro"}
    expected = {
        "mcc": sklearn.metrics.matthews_corrcoef(true, q.argmax(1)),
        "macro_precision": sklearn.metrics.precision_score(true, q.argmax(1), average="macro"),
        "macro_f1": sklearn.metrics.f1_score(true, q.argmax(1), average="macro"),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(true, q.argmax(1)),
        "roc_auc": sklearn.metrics.roc_auc_score(true, q, **options),
        "average_precision": sklearn.metrics.average_precision_score(np.eye(3)[true], q),
        "log_loss": sklearn.metrics.log_loss(true, q),
        "brier": ((q - np.eye(3)[true]) ** 2).sum(1).mean(),
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_calibration_error_over_bins_of_equal_counts() -> None:
    # 20 rows with confidence 0.6, 15 of them correct, and 20 with 0.9, 16 of them correct
    p = np.repeat([0.6, 0.9], 20)
    labels = np.concatenate([np.arange(20) < 15, np.arange(20) < 16]).astype(int)
    values = metrics.classification(labels, np.stack([1 - p, p], 1), ("bogus", "real"))
    assert values["ece"] == pytest.approx((0.15 + 0.1) / 2) and "f2/SN" not in values
    assert np.bincount(metrics.equal_bins(np.arange(300) / 300)).tolist() == [20] * 15
    assert np.bincount(metrics.equal_bins(np.arange(39))).tolist() == [39]


def test_metrics_are_finite_without_rows_or_probability_of_a_class() -> None:
    """VS is predicted but has no rows, and one row has probability 0 for its true class."""
    labels, p = np.array([0, 0, 1, 1]), np.array([[1.0, 0, 0], [0, 0, 1], [0, 1, 0], [0.2, 0.8, 0]])
    values = metrics.classification(labels, p, CLASSES)
    assert values["macro_precision"] == values["precision/AGN"] == 1 and values["precision/VS"] == 0
    assert values["balanced_accuracy"] == 0.75 and "roc_auc/VS" not in values
    assert values["log_loss"] == pytest.approx((36.04 - np.log(0.8)) / 4, abs=0.01)
    assert metrics.entropy(p)[:3].tolist() == [0, 0, 0]
    alone = metrics.classification(labels[:2], p[:2], CLASSES)
    assert "roc_auc" not in alone and np.isfinite([*values.values(), *alone.values()]).all()


def test_wilson_interval() -> None:
    # Wilson 1927 with z = 1.96 for 8 of 10: centre (8 + 1.9207) / 13.8414, half width 0.2268
    low, high = intervals.wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert intervals.wilson(0, 0) == (0, 1)


def test_bootstrap_draws_whole_objects() -> None:
    """100 rows of one object count like a single row."""
    right = np.repeat([0.0, 1.0], 200)

    def accuracy(times: np.ndarray) -> dict[str, float]:
        return {"accuracy": float(times @ right / times.sum())}

    alone = intervals.bootstrap(accuracy, np.arange(400).astype(str))["accuracy"]
    grouped = intervals.bootstrap(accuracy, (np.arange(400) // 100).astype(str))["accuracy"]
    assert alone[1] - alone[0] < 0.15 and grouped[1] - grouped[0] >= 0.75


def test_bootstrap_interval_of_a_mean_is_normal() -> None:
    values = np.random.default_rng(0).standard_normal(400)
    found = intervals.bootstrap(
        lambda times: {"mean": float(times @ values / times.sum())}, np.arange(400), draws=4_000
    )
    assert (np.array(found["mean"]) - values.mean()) / (values.std() / 20) == pytest.approx([-1.96, 1.96], abs=0.15)


def test_resamples_have_as_many_objects_as_the_table() -> None:
    drawn = list(intervals.resamples(np.array(["a", "b", "b", "c", "c", "c"]), draws=2_000))
    assert all(a + b + c == 3 and b == also and c == d == e for a, b, also, c, d, e in drawn)
    assert np.mean(drawn, 0) == pytest.approx(1, abs=0.1)


def test_interval_of_ten_of_ten_has_a_width() -> None:
    labels = np.array(["a"] * 10 + ["b"] * 2)
    p_a = np.where(labels == "a", 0.9, 0.1)
    table = {"id": np.array([0, 0, *range(2, 12)]), "label": labels, "p_a": p_a, "p_b": 1 - p_a}
    assert judge(table)["intervals"]["recall/a"] == list(intervals.wilson(9, 9))


def test_interval_of_a_zero_calibration_error_includes_zero() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1], 2_000)
    labels = np.where(rng.random(2_000) < p[:, 1], "b", "a")
    judged = judge({"id": np.arange(2_000), "label": labels, "p_a": p[:, 0], "p_b": p[:, 1]})
    low, high = judged["intervals"]["ece"]
    assert low < 0.005 and 0 < judged["values"]["ece"] < 0.05 and high < 0.05


def test_class_without_rows_is_left_out_of_macro_averages() -> None:
    values = metrics.classification(np.array([0, 0]), np.array([[0.9, 0.1, 0], [0.8, 0.1, 0.1]]), CLASSES)
    assert values["balanced_accuracy"] == values["macro_f1"] == 1 and values["recall/SN"] == values["mcc"] == 0


@pytest.mark.parametrize("name", ("table.parquet", "table.csv"))
def test_table_is_read_as_written(tmp_path: Path, name: str) -> None:
    predictions.write(tmp_path / name, TABLE)
    found = predictions.read(tmp_path / name)
    assert list(found) == list(TABLE)
    assert all(found[column].tolist() == TABLE[column].tolist() for column in TABLE)
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_unusable_tables_and_labels_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.parquet or \.csv"):
        predictions.write(tmp_path / "table.txt", TABLE)
    (tmp_path / "broken.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match=r"broken\.parquet"):
        predictions.read(tmp_path / "broken.parquet")
    with pytest.raises(InputError, match=r"label comet.*p_comet"):
        judge(TABLE | {"label": np.array(["comet"] * 6)})
    with pytest.raises(InputError, match="columns id"):
        choose_kind({"id": TABLE["id"]})


def test_narrow_interval_is_shown_with_more_digits() -> None:
    assert page.number(0.8731, [0.841, 0.902]) == "0.873 [0.84, 0.90]"
    assert page.number(0.8731, [0.8701, 0.8762]) == "0.873 [0.870, 0.876]"


def test_page_escapes_html(tmp_path: Path) -> None:
    link = page.link(tmp_path / "<q>", "<s>", tmp_path)
    content = {"headline": [("x", "<b>")], "columns": ["a & b", "<script>x"], "rows": [["<u>", link]]}
    html = page.render("index.html", marker=page.INDEX, folder="<i>", unfinished=[Path("<hr>")], **content)
    assert not any(tag in html for tag in ("<script>x", "<b><b>", "<u>", "<i>", "<hr>", "<s>", "<q>"))
    assert "<b>&lt;b&gt;</b>" in html and "a &amp; b" in html and '<a href="&lt;q&gt;">&lt;s&gt;</a>' in html


def test_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv"):
        predictions.read(tmp_path / "none.csv")
