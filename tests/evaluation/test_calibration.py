"""Temperature scaling: it recovers a known temperature, and is not used if it does not help."""

import numpy as np
import pytest
from scipy.special import softmax

from alerce_early.evaluation import calibration, tables
from alerce_early.evaluation.kinds import Classification

judge = Classification().judge
CLASSES = ("AGN", "SN", "VS")
GRID = np.geomspace(0.2, 5, 200)


def overconfident(n: int, seed: int, scale: object = 2.5, bias: object = 0.0) -> dict[str, np.ndarray]:
    """Return a table with the true logits of its labels, scaled and shifted."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((n, 3))
    labels = (logits + rng.gumbel(size=(n, 3))).argmax(1)  # so that softmax(logits) is their distribution
    put_out = softmax(logits * np.asarray(scale) + np.asarray(bias), axis=1).astype(np.float32)
    columns = {f"p_{name}": put_out[:, i] for i, name in enumerate(CLASSES)}
    predicted = np.array(CLASSES)[put_out.argmax(1)]
    return {"id": np.arange(n).astype(str), "label": np.array(CLASSES)[labels], "predicted": predicted, **columns}


def log_loss(table: dict[str, np.ndarray], prefix: str) -> float:
    labels = tables.label_indices(table, CLASSES)
    return -np.log(np.stack([table[f"{prefix}_{name}"] for name in CLASSES], 1)[np.arange(len(labels)), labels]).mean()


def scaled_loss(table: dict[str, np.ndarray], temperature: float) -> float:
    return log_loss(table | calibration.calibrate_columns({"temperature": temperature}, table), "q")


def test_fit_recovers_the_temperature() -> None:
    fitted = calibration.fit(overconfident(20_000, seed=0), "temperature")
    assert fitted is not None and fitted["temperature"] == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize("scale", (0.1, 0.3, 1.5, 4.0))
def test_no_other_temperature_has_a_lower_log_loss(scale: float) -> None:
    table = overconfident(300, seed=0, scale=scale)
    fitted = calibration.fit(table, "temperature")
    assert fitted is not None and fitted["kept"] is None
    others = [fitted["temperature"] * factor for factor in (0.5, 0.99, 0.999, 1.001, 1.01, 2.0)]
    assert scaled_loss(table, fitted["temperature"]) < min(scaled_loss(table, one) for one in others)


def test_calibrated_probabilities_by_hand() -> None:
    columns = calibration.calibrate_columns({"temperature": 2.0}, {"p_a": np.array([0.8]), "p_b": np.array([0.2])})
    assert columns["q_a"] == pytest.approx(2 / 3) and columns["q_b"] == pytest.approx(
        1 / 3
    )  # ratio of the square roots: 2 to 1


def test_temperature_of_few_rows_lowers_the_loss_on_others() -> None:
    better, errors = 0, []
    for seed in range(10):
        validation, test = overconfident(500, seed), overconfident(2_500, 100 + seed)
        columns = calibration.calibrate_columns(calibration.fit(validation, "temperature"), test)
        assert np.allclose(np.sum(list(columns.values()), 0), 1)
        judged = judge(test | columns) if not seed else None
        before, after = log_loss(test, "p"), log_loss(test | columns, "q")
        better += after < before
        if judged:
            calibrated = judged["calibration"]["q"]
            assert calibrated["values"]["log_loss"] == pytest.approx(after)
            low, high = calibrated["intervals"]["log_loss"]
            assert low < after < high
            errors.append((judged["values"]["ece"], calibrated["values"]["ece"]))
    assert better >= 9 and all(before > 0.05 and after < 0.03 for before, after in errors)


def test_a_class_without_rows_or_mistakes_stays_finite() -> None:
    perfect = {
        "id": np.arange(5),
        "label": np.array(["SN"] * 5),
        "p_AGN": np.zeros(5),
        "p_SN": np.ones(5),
        "p_VS": np.zeros(5),
    }
    fitted = calibration.fit(perfect, "temperature")
    assert fitted is not None and np.isfinite(calibration.apply(fitted, np.array([[0.0, 1, 0]]))).all()


def test_fit_returns_none_without_rows_or_probabilities() -> None:
    table = overconfident(10, seed=0)
    assert calibration.fit(table, "none") is None and calibration.calibrate_columns(None, table) == {}
    assert calibration.fit({"label": np.array(["a"]), "true": np.array([0.1])}, "temperature") is None
    assert set(judge(table)["calibration"]) == {"p"}


def test_scaling_is_not_used_unless_it_lowers_the_loss() -> None:
    """A temperature fitted to 47 rows of a calibrated network is mostly noise."""
    losses, kept = [], 0
    for seed in range(40):
        validation, test = overconfident(47, seed, scale=1.0), overconfident(2_500, 100 + seed, scale=1.0)
        fitted = calibration.fit(validation, "temperature")
        assert fitted is not None
        unguarded = {"temperature": min(GRID, key=lambda one: scaled_loss(validation, one))}
        if fitted["kept"]:
            kept += 1
            assert fitted["temperature"] == 1 and "47 validation rows" in fitted["kept"]
        else:
            assert fitted["temperature"] == pytest.approx(unguarded["temperature"], rel=0.02)
        losses += [scaled_loss(test, one["temperature"]) - log_loss(test, "p") for one in (fitted, unguarded)]
    guarded, without = np.array(losses).reshape(-1, 2).mean(0)
    assert kept >= 20 and 0 < guarded < 0.7 * without  # the scalings that pass cross-validation still cost a little


def test_helpful_scaling_is_used_even_with_few_rows() -> None:
    fits = [calibration.fit(overconfident(100, seed), "temperature") for seed in range(20)]
    assert all(fitted is not None and fitted["kept"] is None for fitted in fits)


def test_zero_probability_of_the_true_class_has_a_finite_loss() -> None:
    table = overconfident(300, seed=0)
    whole = calibration.fit(table, "temperature")
    zeros = table | {f"p_{name}": table[f"p_{name}"].round(2) for name in CLASSES}
    with np.errstate(divide="ignore"):
        assert np.isinf(log_loss(zeros, "p"))
    fitted = calibration.fit(zeros, "temperature")
    assert fitted is not None and whole is not None and fitted["kept"] is None
    assert whole["temperature"] < fitted["temperature"] < 10 * whole["temperature"]


def test_rows_of_a_single_object_are_not_calibrated() -> None:
    fitted = calibration.fit(overconfident(50, seed=0) | {"id": np.full(50, "one")}, "temperature")
    assert fitted is not None and fitted["temperature"] == 1 and fitted["kept"]


def test_cross_validation_keeps_rows_of_an_object_together() -> None:
    """Repeated rows add no evidence: a fit must not be validated on copies of its own rows."""
    few = overconfident(20, seed=3, scale=1.0)
    many = {name: np.repeat(column, 100) for name, column in few.items()}
    apart = many | {"id": np.arange(2_000).astype(str)}
    fits = [calibration.fit(table, "temperature") for table in (few, many, apart)]
    assert [fitted is not None and bool(fitted["kept"]) for fitted in fits] == [True, True, False]
