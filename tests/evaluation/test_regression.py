"""Evaluation of redshifts: metrics by hand, and whole runs of the three models of spectra."""

import json
from pathlib import Path

import numpy as np
import pytest

from alerce_early.artifacts import predictions
from alerce_early.artifacts.run_folder import Run
from alerce_early.evaluation import metrics, tables
from alerce_early.evaluation.kinds import Regression, choose_kind
from alerce_early.experiments.run import train
from alerce_early.report import sections

TABLE = {
    "id": np.array(["a", "b", "c", "d"]),
    "label": np.array(["QSO", "QSO", "QSO", "QSO_BAL"]),
    "true": np.array([1.0, 1.0, 3.0, 0.0]),
    "predicted": np.array([1.02, 0.98, 3.2, 0.01]),
    "confidence": np.array([3.0, 2.0, 0.1, 1.0]),
}


def test_numbers_by_hand() -> None:
    values = metrics.redshift(TABLE["true"], TABLE["predicted"])
    # errors .02 -.02 .2 .01; over 1 + z: .01 -.01 .05 .01
    assert values["mae"] == pytest.approx(0.0625) and values["mse"] == pytest.approx((0.0008 + 0.04 + 0.0001) / 4)
    assert values["bias"] == pytest.approx(0.01)
    assert values["nmad"] == pytest.approx(1.4826 * 0.01)  # distances 0 .02 .04 0
    assert values["catastrophic"] == 0.25  # 0.05 c is 14,990 km/s, 0.01 c is 2,998
    assert metrics.velocity(np.array([1.0]), np.array([1.02]))[0] == pytest.approx(2997.92, abs=0.01)


def test_nmad_is_about_the_bias() -> None:
    predicted = np.array([0.03, 0.01, 0.02, -0.5])
    values = metrics.redshift(np.zeros(4), predicted)
    assert values["bias"] == pytest.approx(0.015) and values["nmad"] == pytest.approx(1.4826 * 0.01)
    assert values["catastrophic"] == 0.5  # 0.03 c is 8,994 km/s, 0.02 c is 5,996
    at_the_limit = {"true": np.zeros(1), "predicted": np.array([metrics.CATASTROPHIC / metrics.LIGHT])}
    assert metrics.velocity(**at_the_limit) == metrics.CATASTROPHIC
    assert metrics.redshift(**at_the_limit)["catastrophic"] == 0 and Regression().correct(at_the_limit).all()


def test_regression_is_chosen_by_columns_and_evaluates_parts() -> None:
    assert choose_kind(TABLE).name == "regression"
    judged = Regression().judge(TABLE)
    assert judged["n"] == 4 and judged["by_class"]["QSO"]["n"] == 3
    assert judged["values"]["catastrophic"] == 0.25
    low, high = judged["intervals"]["catastrophic"]
    assert 0 <= low < 0.25 < high <= 1
    assert judged["most_confident"]["0.5"]["values"]["catastrophic"] == 0
    assert Regression().judge({k: v for k, v in TABLE.items() if k != "confidence"})["most_confident"] == {}
    assert json.loads(json.dumps(judged)) == judged
    assert dict(sections.headline(Regression(), judged))["catastrophic"].startswith("0.2500 [")


@pytest.mark.parametrize("model", ("spectra_class", "spectra_redshift"))
def test_whole_runs(composed, tmp_path: Path, model: str) -> None:
    config = composed(
        *(f"model={model}", "data.n=300", f"outputs={tmp_path}", "trainer.max_epochs=2", "data.batches_per_epoch=3"),
        *("data.batch_size=16", "data.split={validation:10,test:15}"),
    )
    assert config.data.name == "sdss_simulated" and config.augment.steps == []
    run: Run = train(config, tmp_path / "run")
    table = predictions.read(run.predictions)
    result = run.read_json("metrics.json")
    assert result["test"]["n"] == (table["split"] == "test").sum() > 20
    if model != "spectra_class":
        assert {"true", "predicted"} <= set(table) and set(table["label"]) == {"QSO", "QSO_BAL"}
        again = metrics.redshift(
            *(tables.select_split(table, "test")[name].astype(float) for name in ("true", "predicted"))
        )
        assert again == pytest.approx(result["test"]["values"])
        assert (run.path / "predicted.svg").exists()
    assert "Largest errors" in run.page.read_text() or "mistakes" in run.page.read_text()


@pytest.mark.parametrize("experiment", ("spectra_class", "spectra_redshift"))
def test_published_recipes_compose(composed, experiment: str) -> None:
    config = composed(f"experiment={experiment}")
    assert config.model.name == experiment and config.data.name == "sdss_simulated" and config.data.sampling == "as_is"
    assert config.recipe.steps[0]["_target_"].endswith("Renormalise")
    elsewhere = composed(f"experiment={experiment}", "data=sdss", "data.path=somewhere")
    assert elsewhere.data.name == "sdss" and elsewhere.data.source.path == "somewhere"


def test_line_boxes_learn_redshifts(composed, tmp_path: Path) -> None:
    config = composed(
        *("model=spectra_lines", "data.n=1200", f"outputs={tmp_path}", "trainer.max_epochs=2"),
        *(
            "data.batches_per_epoch=50",
            "data.batch_size=32",
            "data.split={validation:20,test:50}",
            "model.net.width=64",
        ),
    )
    run = train(config, tmp_path / "run")
    result = run.read_json("metrics.json")
    assert result["test"]["values"]["catastrophic"] < 0.4  # a constant is wrong for 9 in 10
    assert result["test"]["most_confident"]["0.5"]["values"]["catastrophic"] < 0.2
    assert (run.path / "confidence.svg").exists() and "confidence" in predictions.read(run.predictions)
