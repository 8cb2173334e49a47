"""Run folders: what each holds and how it is written.

config.yaml overrides.yaml versions.json [code.diff] train.log events.out.tfevents.*   from the start
history.jsonl checkpoints/{best,last}.ckpt                  after each epoch
predictions.parquet [predictions.csv] confusion.svg ... report/        at the end
metrics.json                                                last: its presence means finished
"""

import json
import logging
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alerce_early import files
from alerce_early.artifacts import migrations
from alerce_early.errors import InputError, one_line

# Keys of a config that cannot change a result.
FREE = ("outputs", "name", "resume", "logger", "ensemble", "hydra", "format")
GROUPS = (  # of a whole config; one that was cut short lacks some
    *("seed", "data.batch_size", "data.source", "recipe.steps", "augment.steps", "features", "optim.optimizer"),
    *("trainer", "model.net", "model.task", "data.split", "data.sampling"),
)
LOCAL_LOGGERS = ("lightning.pytorch.loggers.TensorBoardLogger", "lightning.pytorch.loggers.CSVLogger")
LIBRARIES = ("alerce-early", "torch", "torchvision", "lightning", "hydra-core", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Run:
    """One run folder."""

    path: Path

    @classmethod
    def find(cls, path: str | Path) -> "Run":
        """Return an existing run folder; raises InputError if it is none."""
        run = cls(Path(path))
        if not run.config_file.exists():
            raise InputError(f"{path} is no run folder: there is no config.yaml in it.")
        return run

    @classmethod
    def new(cls, path: Path) -> "Run":
        """Return a new run folder of this name, or of the first free name after it, that no other process has got."""
        name, number = path.name, 1
        with files.translate_refusals(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                try:
                    path.mkdir()
                    return cls(path)
                except FileExistsError:
                    number += 1
                    path = path.with_name(f"{name}+{number}")

    def alone(self) -> AbstractContextManager[None]:
        """Hold the folder while writing in it; raises `files.BusyError` if another process does."""
        return files.hold_lock(self.path / ".lock", patience=0)

    @contextmanager
    def log(self, level: int | str = logging.INFO) -> Iterator[None]:
        """Write to train.log what is logged, and to standard output unless the caller has set up logging."""
        self.path.mkdir(parents=True, exist_ok=True)
        root = logging.getLogger()
        handlers: list[logging.Handler] = [logging.FileHandler(self.path / "train.log", delay=True)]
        handlers += [] if root.handlers else [logging.StreamHandler(sys.stdout)]
        before = root.level
        root.setLevel(level)
        for handler in handlers:
            root.addHandler(handler)
        try:
            yield
        finally:
            root.setLevel(before)
            for handler in handlers:
                root.removeHandler(handler)
                handler.close()

    def discard_if_unused(self) -> None:
        """Remove the folder if nothing but a log is in it: a command did not begin to train."""
        if self.path.is_dir() and {file.name for file in self.path.iterdir()} <= {"train.log", ".lock"}:
            shutil.rmtree(self.path)
            with suppress(OSError):  # other runs are beside it
                self.path.parent.rmdir()

    @property
    def finished(self) -> bool:
        return (self.path / "metrics.json").exists()

    @property
    def cut(self) -> bool:
        """Ended too early, with a checkpoint to continue from."""
        return self.last.exists() and not self.finished

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    def trained(self) -> Path:
        """Return the best checkpoint; raises InputError if there is none yet."""
        if not self.best.exists():
            raise InputError(f"{self.path} has no checkpoint yet.")
        return self.best

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.parquet"

    @property
    def blind_predictions(self) -> Path:
        """Of the rows without a label, where there are any."""
        return self.path / "predictions.csv"

    @property
    def result(self) -> dict[str, Any]:
        """The content of metrics.json."""
        return self.read_json("metrics.json")

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json in one level: "test/recall/SN", "test/intervals/recall/SN", "epochs", ..."""

        def flatten(key: str, value: Any) -> Iterator[tuple[str, Any]]:
            if not isinstance(value, dict):
                yield key, value
            else:
                for name, inner in value.items():
                    yield from flatten(key if name == "values" else f"{key}/{name}".lstrip("/"), inner)

        return dict(flatten("", self.result))

    @property
    def pictures(self) -> Path:
        """What the task drew of the finished network, an SVG for each; its name is the caption."""
        return self.path / "pictures"

    @property
    def page(self) -> Path:
        return self.path / "report" / "index.html"

    def config(self) -> DictConfig:
        """Return the config in today's format; raises InputError if it is damaged or holds references."""
        try:
            loaded = OmegaConf.load(self.config_file)
            if "${" in repr(OmegaConf.to_container(loaded)):  # before anything is resolved: a run may come from anyone
                raise InputError(
                    f"{self.config_file}: a value refers to something else by ${{...}}, which no run writes. Write the "
                    "value itself, or train again."
                )
            lacking = [name for name in GROUPS if OmegaConf.select(cast(DictConfig, loaded), name) is None]
            if isinstance(loaded, DictConfig) and not lacking:
                loaded = OmegaConf.create(migrations.migrate(cast(dict[str, Any], OmegaConf.to_container(loaded))))
        except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError, OmegaConfBaseException) as error:
            raise InputError(f"{self.config_file} is damaged: {one_line(error)}.") from None
        if not isinstance(loaded, DictConfig) or lacking:
            raise InputError(f"{self.config_file} is damaged: it has no {', '.join(lacking)}.")
        return loaded

    def expect(self, config: DictConfig) -> None:
        """Raise InputError, naming the keys that differ, if what the folder holds was made with another config."""
        if not (self.cut or self.finished):
            return
        here, given = flatten_config(self.config()), flatten_config(config)
        differ = [key for key in sorted(here.keys() | given.keys()) if here.get(key) != given.get(key)]
        if differ:
            raise InputError(f"{self.path} was made with another config: {describe_differences(differ, here, given)}.")

    @property
    def overrides(self) -> list[str]:
        """The options that the run began with, as typed."""
        file = self.path / "overrides.yaml"
        try:
            return [str(option) for option in yaml.safe_load(file.read_text()) or ()] if file.exists() else []
        except (ValueError, TypeError, yaml.YAMLError) as error:
            raise InputError(f"{file} is damaged: {one_line(error)}. Without it the page shows no options.") from None

    def begin(self, config: DictConfig, overrides: Sequence[str] = ()) -> None:
        """Write what made the run: its config, with all references resolved, versions, and the code of a checkout.

        overrides: the options as typed. What a killed process left half written goes.
        """
        for left in self.path.rglob(".*.partial"):
            left.unlink()
        if self.cut:
            return
        text = OmegaConf.to_yaml(config, resolve=True)
        files.write_text(self.config_file, f"format: {migrations.FORMAT}\n{text}")
        files.write_text(self.path / "overrides.yaml", yaml.safe_dump(list(overrides), allow_unicode=True))
        commit, diff = describe_code()
        commit += ", with the changes of code.diff" if diff else ""
        files.write_text(self.path / "versions.json", json.dumps(collect_versions() | {"commit": commit}, indent=1))
        if diff:
            files.write_text(self.path / "code.diff", diff)

    def history(self) -> list[dict[str, Any]]:
        """Return one dict per epoch: its numbers as logged, and as "losses" those of its steps."""
        file = self.path / "history.jsonl"
        try:
            rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
            if not all(isinstance(row, dict) and "epoch" in row for row in rows):
                raise ValueError("a line is no epoch")
        except ValueError as error:
            raise InputError(f"{file} is damaged: {one_line(error)}. Without it the page has no curves.") from None
        return rows

    def read_json(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self.path / name).read_text())
            if not isinstance(found, dict):
                raise ValueError("it holds no names with values")
        except FileNotFoundError:
            raise InputError(f"{self.path} has no {name}: the run has not finished.") from None
        except ValueError as error:
            advice = f"Remove it, and train with resume={self.path} to have it again"
            raise InputError(f"{self.path / name} is damaged: {one_line(error)}. {advice}.") from None
        return found

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        files.write_text(self.path / name, json.dumps(values, indent=1))


def checkpoint_of(path: Path) -> Path:
    """Return the best checkpoint of a run folder, the file itself, or the pretrained network of this name.

    Raises InputError where there is none.
    """
    if path.exists():
        return path if path.is_file() else Run.find(path).trained()
    shipped = {file.stem: file for file in sorted(files.PRETRAINED.glob("*.ckpt"))}
    if str(path) not in shipped:
        raise InputError(f"{path} is no run folder, checkpoint or pretrained network; those are {', '.join(shipped)}.")
    return shipped[str(path)]


def flatten_config(config: DictConfig) -> dict[str, Any]:
    """Return dotted key to plain value, of the keys that can change a result."""

    def leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                yield from leaves(f"{key}.{name}", inner)
        else:
            yield key, value

    plain: Any = OmegaConf.to_container(config, resolve=True)
    return dict(chain.from_iterable(leaves(key, value) for key, value in plain.items() if key not in FREE))


def logs_inside(config: DictConfig) -> bool:
    """Return whether the loggers of a whole config can only write into the run folder."""
    made = [dict(options) for options in (config.logger or {}).values()]
    return all(
        options.pop("_target_") in LOCAL_LOGGERS
        and all(re.fullmatch(r"(\w[\w.-]*)?", str(value)) for value in options.values())
        for options in made
    )


def describe_differences(keys: Sequence[str], there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return in words how two flat configs differ: "model.name rotinv there, preliminary_cnn here; ...".

    keys: those that differ.
    """
    return "; ".join(f"{key} {there.get(key)} there, {here.get(key)} here" for key in keys)


def describe_code(root: Path = files.PACKAGE.parent) -> tuple[str, str]:
    """Return the commit of the checkout that this package is, and how code and configs differ from it, new files too.

    Both are empty of an installed package, or where there is no git.
    """
    if not (root / ".git").exists() or not shutil.which("git"):
        return "", ""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, errors="replace")
        return done.stdout

    parts = ("alerce_early", "conf")
    new = git("ls-files", "--others", "--exclude-standard", *parts).splitlines()
    diff = git("diff", "HEAD", "--", *parts) + "".join(git("diff", "--no-index", "/dev/null", file) for file in new)
    return git("rev-parse", "HEAD").strip(), diff


def collect_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide a result."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a checkout that was never installed
            found[name] = "not installed"
    return found
