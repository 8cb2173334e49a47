"""Tiny raw files in the real formats, and runs from composed configs."""

import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig

from alerce_early import files
from alerce_early.config import compose_config
from alerce_early.data.spec import DataSpec
from alerce_early.evaluation.kinds import Classification
from alerce_early.report import sections
from alerce_early.runs import Run
from alerce_early.simulation.survey import simulate
from alerce_early.steps import train

CHECKOUT = Path(__file__).parent.parent

torch.set_num_threads(1)  # the suite runs one worker a core; more threads than cores wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for the processes that tests start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests, so that no worker is left with one when the others have ended."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def survey() -> dict[str, Any]:
    """400 simulated stamps as the raw dict of a stamps file."""
    return simulate(n=400, seed=1)


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of the suite share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def stamps_file(survey: dict[str, Any], common: Path) -> Path:
    with files.hold_lock(common / "stamps.lock", 60):
        if not (path := common / "stamps.pkl").exists():
            path.write_bytes(pickle.dumps(survey))
    return path


@pytest.fixture(scope="session", name="composed")
def composed_() -> Callable[..., DictConfig]:
    """Compose train.yaml with overrides, as the command line does."""
    return compose_config


@pytest.fixture(scope="session")
def quick(stamps_file: Path, common: Path) -> Callable[..., DictConfig]:
    """A config for the tiny stamps file: two epochs of three small batches. Its store is that of other tests."""
    return partial(_quick, stamps_file, common)


TWO_COLUMNS = ("trainer.max_epochs=1", "features.names=[fwhm,ndethist]")


@pytest.fixture(scope="session")
def finished_run(quick: Callable[..., DictConfig], common: Path) -> Run:
    """A run of one such epoch, of stamps and two columns, for tests that need any and leave it as it is."""
    with files.hold_lock(common / "finished.lock", 300):
        return train(quick(*TWO_COLUMNS), common / "finished")


class EnoughError(Exception):
    """The weights are there, and nobody asks for what is judged and drawn after them."""


class Enough(Callback):
    def on_fit_end(self, *_: object) -> None:
        raise EnoughError


def trained_weights(config: DictConfig, folder: Path) -> dict[str, torch.Tensor]:
    """The last weights of a run that ends with its training."""
    with pytest.raises(EnoughError):
        train(config, folder, Enough())
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def _quick(stamps_file: Path, outputs: Path, *overrides: str) -> DictConfig:
    return compose_config(
        "data=alerce",
        f"data.path={stamps_file}",
        f"outputs={outputs}",
        "model=preliminary_cnn",
        "recipe=minmax",
        "trainer.max_epochs=2",
        "data.batches_per_epoch=3",
        "data.batch_size=16",
        *overrides,
    )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real stamps, alerts and spectra, which are no part of the project."""
    folder = os.environ.get("ALERCE_EARLY_REAL_DATA")
    if not folder:
        pytest.skip("ALERCE_EARLY_REAL_DATA names no folder of real data")
    return Path(folder)


def spec(features: tuple[str, ...] = (), **facts: Any) -> DataSpec:
    """The facts of a small data set of stamps, but for those given."""
    usual: dict[str, Any] = {
        **{"kind": "stamps", "shape": (3, 21, 21), "classes": ("a", "b", "c"), "recipe": (), "margin": 0},
        **{"n_train": 100, "fingerprint": "", "origin": "a test"},
        **{"feature_mean": tuple(100.0 + i for i in range(len(features))), "feature_std": (10.0,) * len(features)},
    }
    return DataSpec(features=features, **usual | facts)


def page_of(table: dict[str, np.ndarray], title: str) -> tuple[dict[str, Any], sections.Section]:
    """The figures of a page about a table of classifications, and its section of this title."""
    kind = Classification()
    names = [name.removeprefix("p_") for name in table if name.startswith("p_")]
    predicted = np.array(names)[np.stack([table[f"p_{name}"] for name in names], 1).argmax(1)]
    table = {"predicted": predicted, "split": np.full(len(predicted), "test")} | table
    drawn = sections.draw(kind, judged := kind.judge(table), table)
    written = sections.write(kind, judged, table, drawn, images=None)
    return drawn, next(section for section in written if section.title == title)


def stamp(value: float = 0.0, height: int = 63, width: int = 63) -> np.ndarray:
    """A constant raw stamp (H, W, 3)."""
    return np.full((height, width, 3), value, dtype=np.float32)
