"""Scaling of probabilities: finds what was done to them, and tells how far it helps."""

import numpy as np
import pytest
from scipy.special import softmax

from alerce_early.errors import InputError
from alerce_early.evaluation import calibration
from alerce_early.evaluation.classification import judge

CLASSES = ("AGN", "SN", "VS")


def overconfident(n: int, seed: int, scale: object = 2.5, bias: object = 0.0) -> dict[str, np.ndarray]:
    """A table whose logits are those of the labels, scaled and shifted."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((n, 3))
    labels = (logits + rng.gumbel(size=(n, 3))).argmax(1)  # so that softmax(logits) is their distribution
    put_out = softmax(logits * np.asarray(scale) + np.asarray(bias), axis=1).astype(np.float32)
    columns = {f"p_{name}": put_out[:, i] for i, name in enumerate(CLASSES)}
    predicted = np.array(CLASSES)[put_out.argmax(1)]
    return {"id": np.arange(n).astype(str), "label": np.array(CLASSES)[labels], "predicted": predicted, **columns}


def test_the_temperature_is_found() -> None:
    fitted = calibration.fit(overconfident(20_000, seed=0), "temperature")
    assert fitted is not None and fitted["bias"] == [0, 0, 0]
    assert fitted["scale"] == pytest.approx([1 / 2.5] * 3, rel=0.03) and len(set(fitted["scale"])) == 1


def test_vector_scaling_undoes_what_a_temperature_cannot() -> None:
    validation, test = (overconfident(5_000, seed, scale=[2.0, 0.7, 1.0], bias=[0.5, -1, 0]) for seed in (0, 1))
    losses = {}
    for method in ("temperature", "vector"):
        losses[method] = judge(test | calibration.columns(calibration.fit(validation, method), test))
    assert (
        losses["vector"]["calibrated"]["values"]["log_loss"]
        < losses["temperature"]["calibrated"]["values"]["log_loss"] - 0.02
        < losses["temperature"]["values"]["log_loss"] - 0.02
    )


@pytest.mark.parametrize("method", ("temperature", "vector"))
def test_few_validation_rows_lower_the_loss_on_other_rows(method: str) -> None:
    better, errors = 0, []
    for seed in range(10):
        validation, test = overconfident(500, seed), overconfident(2_500, 100 + seed)
        columns = calibration.columns(calibration.fit(validation, method), test)
        assert np.allclose(np.sum(list(columns.values()), 0), 1)
        judged = judge(test | columns) if not seed else None
        labels = calibration.tables.label_indices(test, CLASSES)
        own = [
            np.stack([part[f"{key}_{name}"] for name in CLASSES], 1)[np.arange(2_500), labels]
            for key, part in (("p", test), ("q", columns))
        ]
        before, after = (-np.log(values).mean() for values in own)
        better += after < before
        if judged:
            assert judged["calibrated"]["values"]["log_loss"] == pytest.approx(after)
            low, high = judged["calibrated"]["intervals"]["log_loss"]
            assert low < after < high
            errors.append((judged["values"]["ece"], judged["calibrated"]["values"]["ece"]))
    assert better >= 9 and all(before > 0.05 and after < 0.03 for before, after in errors)


def test_a_class_without_rows_or_mistakes_stays_finite() -> None:
    perfect = {"label": np.array(["SN"] * 5), "p_AGN": np.zeros(5), "p_SN": np.ones(5), "p_VS": np.zeros(5)}
    for method in ("temperature", "vector"):
        fitted = calibration.fit(perfect, method)
        assert fitted is not None and np.isfinite([*fitted["scale"], *fitted["bias"]]).all()
        assert np.isfinite(calibration.apply(fitted, np.array([[0.0, 1, 0]]))).all()


def test_nothing_is_fitted_where_there_is_nothing_to_fit() -> None:
    table = overconfident(10, seed=0)
    assert calibration.fit(table, "none") is None and calibration.columns(None, table) == {}
    assert calibration.fit({"label": np.array(["a"]), "true": np.array([0.1])}, "vector") is None
    assert judge(table)["calibrated"] == {}
    with pytest.raises(InputError, match="calibration=platt is unknown; there are temperature, vector, none"):
        calibration.fit(table, "platt")


def test_the_page_shows_before_and_after() -> None:
    table = overconfident(300, seed=0)
    table |= calibration.columns(calibration.fit(table, "temperature"), table)
    drawn = calibration.pictures(table)
    section = calibration.section(judge(table), drawn)
    assert section.tables[0][0] == ("", "as put out", "calibrated") and len(section.tables[0][1]) == 3
    assert len(drawn["reliability"].axes[0].containers) == 2
