"""Loggers are Lightning's own, chosen by name."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from alerce_early.errors import InputError
from alerce_early.steps import train


def test_a_run_has_the_logger_that_is_asked_for(quick, tmp_path: Path) -> None:
    run = train(quick("logger=none", "trainer.max_epochs=1"), tmp_path / "none")
    assert run.finished and not list(run.path.glob("events.*"))
    run = train(quick("logger=csv", "trainer.max_epochs=1"), tmp_path / "csv")
    logged = (run.path / "metrics.csv").read_text()
    assert not list(run.path.glob("events.*"))
    assert f"{run.metrics['test']['values']['balanced_accuracy']:.4f}"[:5] in logged and "val/loss" in logged


@pytest.mark.parametrize("library", ("wandb", "mlflow"))
def test_a_logger_that_is_not_installed_is_one_line(quick, library: str, tmp_path: Path) -> None:
    if find_spec(library):
        pytest.skip(f"{library} is installed")
    with pytest.raises(InputError, match=rf"logger={library} is not installed.*\[loggers\]"):
        train(quick(f"logger={library}"), tmp_path / "run")
