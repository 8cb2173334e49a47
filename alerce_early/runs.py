"""Run folders: what each holds and how it is written.

config.yaml versions.json train.log events.out.tfevents.*   from the start
history.jsonl checkpoints/{best,last}.ckpt                  after each epoch
predictions.parquet [predictions.csv] confusion.png curves.png report/        at the end
metrics.json                                                last: its presence means finished
"""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alerce_early.errors import InputError

LIBRARIES = ("alerce-early", "torch", "torchvision", "lightning", "hydra-core", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Run:
    """One run folder."""

    path: Path

    @classmethod
    def find(cls, path: str | Path) -> "Run":
        """An existing run folder; raises InputError if it is none."""
        run = cls(Path(path))
        if not run.config_file.exists():
            raise InputError(f"{path} is no run folder: there is no config.yaml in it.")
        return run

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.parquet"

    @property
    def blind_predictions(self) -> Path:
        """Of the rows without a label, where there are any."""
        return self.path / "predictions.csv"

    @property
    def pictures(self) -> Path:
        """What the task drew of the finished network, a PNG for each; its name is the caption."""
        return self.path / "pictures"

    @property
    def page(self) -> Path:
        return self.path / "report" / "index.html"

    def config(self) -> DictConfig:
        loaded = OmegaConf.load(self.config_file)
        assert isinstance(loaded, DictConfig)
        return loaded

    def begin(self, config: DictConfig) -> None:
        """Write what made the run: its config, with all references resolved, and versions."""
        write_text(self.config_file, OmegaConf.to_yaml(config, resolve=True))
        write_text(self.path / "versions.json", json.dumps(versions(), indent=1))

    def history(self) -> list[dict[str, float]]:
        """One dict an epoch, as logged."""
        file = self.path / "history.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def read_json(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError:
            raise InputError(f"{self.path} has no {name}: the run has not finished.") from None

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        write_text(self.path / name, json.dumps(values, indent=1))


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename: a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide a result."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a checkout that was never installed
            found[name] = "not installed"
    return found
