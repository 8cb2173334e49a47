"""Loggers of Lightning, chosen by name."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from alerce_early.errors import InputError
from alerce_early.experiments.run import train


def test_a_run_has_the_chosen_loggers(quick, tmp_path: Path) -> None:
    run = train(quick("logger=none", "trainer.max_epochs=1"), tmp_path / "none")
    assert run.finished and not list(run.path.glob("events.*"))
    run = train(quick("logger=csv", "trainer.max_epochs=1"), tmp_path / "csv")
    logged = (run.path / "metrics.csv").read_text()
    assert not list(run.path.glob("events.*"))
    assert f"{run.metrics['test/balanced_accuracy']:.4f}"[:5] in logged and "val/loss" in logged


@pytest.mark.parametrize("library", ("wandb", "mlflow"))
def test_a_logger_that_is_not_installed_is_one_line(quick, library: str, tmp_path: Path) -> None:
    if find_spec(library):
        pytest.skip(f"{library} is installed")
    with pytest.raises(InputError, match=rf"logger={library} is not installed.*\[loggers\]"):
        train(quick(f"logger={library}"), tmp_path / "run")


def test_mlflow_gets_the_curves_and_the_result(quick, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    place = f"sqlite:///{tmp_path}/mlflow.db"
    run = train(quick("logger=mlflow", f"logger.mlflow.tracking_uri={place}", "trainer.max_epochs=1"), tmp_path / "run")
    client = mlflow.MlflowClient(place)
    (logged,) = client.search_runs([client.get_experiment_by_name("alerce_early").experiment_id])
    reached = run.metrics["test/balanced_accuracy"]
    assert logged.data.metrics["test/balanced_accuracy"] == pytest.approx(reached)
    assert "val/loss" in logged.data.metrics and logged.data.params["model"] == "preliminary_cnn"


def test_wandb_can_run_offline(quick, tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    run = train(quick("logger=wandb", "logger.wandb.offline=true", "trainer.max_epochs=1"), tmp_path / "run")
    wandb.finish()  # otherwise called at the end of the process
    (kept,) = run.path.glob("wandb/offline-run-*/*.wandb")
    assert b"test/balanced_accuracy" in kept.read_bytes()


def test_a_misspelt_option_of_wandb_is_one_line(quick, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    with pytest.raises(InputError, match=r"logger\.wandb.*projct"):
        train(quick("logger=wandb", "logger.wandb.offline=true", "+logger.wandb.projct=x"), tmp_path / "run")
