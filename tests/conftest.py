"""Fixtures shared by all tests: small raw files, composed configs and a trained run.

Slow imports are inside the fixtures, because the pytest-xdist controller, which only distributes tests, needs none.
"""

import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from omegaconf import DictConfig

if TYPE_CHECKING:
    from alerce_early.artifacts.run_folder import Run

# There is one worker per core, and tests start processes of their own: more threads would only compete for cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with slow tests first, so that none is left for a single worker at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def survey() -> dict[str, Any]:
    """Return 400 simulated stamps as the dict of a stamps file."""
    from alerce_early.simulation.survey import simulate

    return simulate(n=400, seed=1)


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder shared by all pytest-xdist workers."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def stamps_file(survey: dict[str, Any], common: Path) -> Path:
    """Return the path of a stamps file that contains the survey."""
    from alerce_early import files

    with files.hold_lock(common / "stamps.lock", 600):
        if not (path := common / "stamps.pkl").exists():
            path.write_bytes(pickle.dumps(survey))
    return path


@pytest.fixture(scope="session", name="composed")
def composed_() -> Callable[..., DictConfig]:
    """Return a function that composes train.yaml with overrides, as the command line does."""
    from alerce_early.experiments.config import compose_config

    return compose_config


@pytest.fixture(scope="session")
def quick(stamps_file: Path, common: Path) -> Callable[..., DictConfig]:
    """Return a function that composes a config of two epochs of three small batches; all tests share its store."""
    from tests.helpers.tiny import quick_config

    return partial(quick_config, stamps_file, common)


@pytest.fixture(scope="session")
def finished_run(quick: Callable[..., DictConfig], common: Path) -> "Run":
    """Return a run of one epoch on stamps and two metadata columns; tests must not modify it."""
    from alerce_early import files
    from alerce_early.experiments.run import train
    from tests.helpers.tiny import TWO_COLUMNS

    with files.hold_lock(common / "finished.lock", 300):
        return train(quick(*TWO_COLUMNS), common / "finished")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real stamps, alerts and spectra, which the repository does not include."""
    folder = os.environ.get("ALERCE_EARLY_REAL_DATA")
    if not folder:
        pytest.skip("ALERCE_EARLY_REAL_DATA is not set")
    return Path(folder)
