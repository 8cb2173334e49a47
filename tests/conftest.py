"""Tiny raw files in the real formats, and runs from composed configs.

What takes seconds to import is imported by the fixtures: the process that only deals out the tests needs none of it.
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

# of the workers, one a core, and of the processes that tests start; more threads than cores wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests, so that no worker is left with one when the others have ended."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def survey() -> dict[str, Any]:
    """400 simulated stamps as the raw dict of a stamps file."""
    from alerce_early.simulation.survey import simulate

    return simulate(n=400, seed=1)


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of the suite share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def stamps_file(survey: dict[str, Any], common: Path) -> Path:
    from alerce_early import files

    with files.hold_lock(common / "stamps.lock", 600):
        if not (path := common / "stamps.pkl").exists():
            path.write_bytes(pickle.dumps(survey))
    return path


@pytest.fixture(scope="session", name="composed")
def composed_() -> Callable[..., DictConfig]:
    """Compose train.yaml with overrides, as the command line does."""
    from alerce_early.experiments.config import compose_config

    return compose_config


@pytest.fixture(scope="session")
def quick(stamps_file: Path, common: Path) -> Callable[..., DictConfig]:
    """A config for the tiny stamps file: two epochs of three small batches. Its store is that of other tests."""
    from tests.helpers.tiny import quick_config

    return partial(quick_config, stamps_file, common)


@pytest.fixture(scope="session")
def finished_run(quick: Callable[..., DictConfig], common: Path) -> "Run":
    """A run of one such epoch, of stamps and two columns, for tests that need any and leave it as it is."""
    from alerce_early import files
    from alerce_early.experiments.run import train
    from tests.helpers.tiny import TWO_COLUMNS

    with files.hold_lock(common / "finished.lock", 300):
        return train(quick(*TWO_COLUMNS), common / "finished")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real stamps, alerts and spectra, which are no part of the project."""
    folder = os.environ.get("ALERCE_EARLY_REAL_DATA")
    if not folder:
        pytest.skip("ALERCE_EARLY_REAL_DATA names no folder of real data")
    return Path(folder)
