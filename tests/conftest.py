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
from omegaconf import DictConfig

from alerce_early.config import compose_config
from alerce_early.data.spec import DataSpec
from alerce_early.evaluation.kinds import Classification
from alerce_early.report import sections
from alerce_early.simulation.survey import simulate
from alerce_early.steps import train

CHECKOUT = Path(__file__).parent.parent

torch.set_num_threads(1)  # the suite runs one worker a core; more threads than cores wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for the processes that tests start


@pytest.fixture(scope="session")
def survey() -> dict[str, Any]:
    """400 simulated stamps as the raw dict of a stamps file."""
    return simulate(n=400, seed=1)


@pytest.fixture(scope="session")
def stamps_file(survey: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "stamps.pkl"
    path.write_bytes(pickle.dumps(survey))
    return path


@pytest.fixture(scope="session", name="composed")
def composed_() -> Callable[..., DictConfig]:
    """Compose train.yaml with overrides, as the command line does."""
    return compose_config


@pytest.fixture
def quick(stamps_file: Path, tmp_path: Path) -> Callable[..., DictConfig]:
    """A config for the tiny stamps file: two epochs of three small batches."""

    return partial(_quick, stamps_file, tmp_path)


def tiny_run(stamps_file: Path, outputs: Path, *overrides: str) -> Path:
    """A finished run of one such epoch; its network does not matter."""
    return train(_quick(stamps_file, outputs, "trainer.max_epochs=1", *overrides), outputs / "run").path


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
