"""Contents of a run folder, and how they are read and written.

At the start: config.yaml, overrides.yaml, versions.json, code.diff if the checkout has changes, train.log and the
logger's files. After each epoch: history.jsonl and checkpoints/{best,last}.ckpt. At the end: predictions.parquet,
predictions.csv for unlabelled rows, confusion.svg, curves.svg and report/. metrics.json comes last: a run that has it
is finished.
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

# Keys of a config that cannot change the result.
IRRELEVANT_KEYS = ("outputs", "name", "resume", "logger", "ensemble", "hydra", "format")
REQUIRED_KEYS = (  # a truncated config lacks some
    *("seed", "data.batch_size", "data.source", "recipe.steps", "augment.steps", "features", "optim.optimizer"),
    *("trainer", "model.net", "model.task", "data.split", "data.sampling"),
)
LOCAL_LOGGERS = ("lightning.pytorch.loggers.TensorBoardLogger", "lightning.pytorch.loggers.CSVLogger")
LIBRARIES = ("alerce-early", "torch", "torchvision", "lightning", "hydra-core", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Run:
    """A run folder.

    Parameters
    ----------
    path : Path
        The folder, which may not exist yet.
    """

    path: Path

    @classmethod
    def find(cls, path: str | Path) -> "Run":
        """Return an existing run folder; raise InputError if it has no config.yaml."""
        run = cls(Path(path))
        if not run.config_file.exists():
            raise InputError(f"{path} is not a run folder: it has no config.yaml.")
        return run

    @classmethod
    def new(cls, path: Path) -> "Run":
        """Create a run folder with this name, or with a number appended if it is already claimed."""
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
        """Lock the folder for writing; raise `files.BusyError` if another process holds the lock."""
        return files.hold_lock(self.path / ".lock", patience=0)

    @contextmanager
    def log(self, level: int | str = logging.INFO) -> Iterator[None]:
        """Log to train.log, and to standard output unless the caller has set up logging."""
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
        """Remove the folder if it contains only a log, because the command failed before training."""
        if self.path.is_dir() and {file.name for file in self.path.iterdir()} <= {"train.log", ".lock"}:
            shutil.rmtree(self.path)
            with suppress(OSError):  # not empty: it contains other runs
                self.path.parent.rmdir()

    @property
    def finished(self) -> bool:
        """Whether the run has written its metrics."""
        return (self.path / "metrics.json").exists()

    @property
    def cut(self) -> bool:
        """Whether the run was interrupted and has a checkpoint to resume from."""
        return self.last.exists() and not self.finished

    @property
    def config_file(self) -> Path:
        """Path of the composed config."""
        return self.path / "config.yaml"

    @property
    def best(self) -> Path:
        """Path of the checkpoint with the best validation metric."""
        return self.path / "checkpoints" / "best.ckpt"

    def trained(self) -> Path:
        """Return the path of the best checkpoint; raise InputError if it does not exist yet."""
        if not self.best.exists():
            raise InputError(f"{self.path} has no checkpoint yet.")
        return self.best

    @property
    def last(self) -> Path:
        """Path of the checkpoint of the last complete epoch."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def predictions(self) -> Path:
        """Path of the table of labelled validation and test rows."""
        return self.path / "predictions.parquet"

    @property
    def blind_predictions(self) -> Path:
        """Path of the table of unlabelled test rows, if there are any."""
        return self.path / "predictions.csv"

    @property
    def result(self) -> dict[str, Any]:
        """Content of metrics.json."""
        return self.read_json("metrics.json")

    @property
    def metrics(self) -> dict[str, Any]:
        """Content of metrics.json as a flat dict: "test/recall/SN", "test/intervals/recall/SN", "epochs", ..."""

        def flatten(key: str, value: Any) -> Iterator[tuple[str, Any]]:
            if not isinstance(value, dict):
                yield key, value
            else:
                for name, inner in value.items():
                    yield from flatten(key if name == "values" else f"{key}/{name}".lstrip("/"), inner)

        return dict(flatten("", self.result))

    @property
    def pictures(self) -> Path:
        """Folder of SVGs drawn by the task; each file name is a caption."""
        return self.path / "pictures"

    @property
    def page(self) -> Path:
        """Path of the HTML report."""
        return self.path / "report" / "index.html"

    def config(self) -> DictConfig:
        """Return the config in the current format; raise InputError if it is damaged or contains references."""
        try:
            loaded = OmegaConf.load(self.config_file)
            if "${" in repr(OmegaConf.to_container(loaded)):  # checked before resolving: a run may come from anyone
                raise InputError(
                    f"{self.config_file}: a value has a reference, ${{...}}, which no run writes. Replace it by the "
                    "value, or train again."
                )
            missing = [name for name in REQUIRED_KEYS if OmegaConf.select(cast(DictConfig, loaded), name) is None]
            if isinstance(loaded, DictConfig) and not missing:
                loaded = OmegaConf.create(migrations.migrate(cast(dict[str, Any], OmegaConf.to_container(loaded))))
        except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError, OmegaConfBaseException) as error:
            raise InputError(f"{self.config_file} is damaged: {one_line(error)}.") from None
        if not isinstance(loaded, DictConfig) or missing:
            raise InputError(f"{self.config_file} is damaged: it has no {', '.join(missing)}.")
        return loaded

    def expect(self, config: DictConfig) -> None:
        """Raise InputError, naming the keys that differ, if the folder's run has another config."""
        if not (self.cut or self.finished):
            return
        here, given = flatten_config(self.config()), flatten_config(config)
        differ = [key for key in sorted(here.keys() | given.keys()) if here.get(key) != given.get(key)]
        if differ:
            raise InputError(f"{self.path} was made with another config: {describe_differences(differ, here, given)}.")

    @property
    def overrides(self) -> list[str]:
        """Command-line options of the run, as typed."""
        file = self.path / "overrides.yaml"
        try:
            return [str(option) for option in yaml.safe_load(file.read_text()) or ()] if file.exists() else []
        except (ValueError, TypeError, yaml.YAMLError) as error:
            raise InputError(f"{file} is damaged: {one_line(error)}. Remove it, or restore it.") from None

    def begin(self, config: DictConfig, overrides: Sequence[str] = ()) -> None:
        """Write the resolved config, the options, versions and the checkout's changes; clean up partial files.

        Parameters
        ----------
        config : DictConfig
            The composed config.
        overrides : sequence of str
            Command-line options, as typed.
        """
        for partial in self.path.rglob(".*.partial"):  # of a killed process
            partial.unlink()
        if self.cut:
            return
        text = OmegaConf.to_yaml(config, resolve=True)
        files.write_text(self.config_file, f"format: {migrations.FORMAT}\n{text}")
        files.write_text(self.path / "overrides.yaml", yaml.safe_dump(list(overrides), allow_unicode=True))
        commit, diff = describe_code()
        commit += ", with the changes in code.diff" if diff else ""
        files.write_text(self.path / "versions.json", json.dumps(collect_versions() | {"commit": commit}, indent=1))
        if diff:
            files.write_text(self.path / "code.diff", diff)

    def history(self) -> list[dict[str, Any]]:
        """Return one dict per epoch: the logged numbers, and as "losses" the losses of its steps."""
        file = self.path / "history.jsonl"
        try:
            rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
            if not all(isinstance(row, dict) and "epoch" in row for row in rows):
                raise ValueError("a line is not an epoch")
        except ValueError as error:
            raise InputError(f"{file} is damaged: {one_line(error)}. Remove it to get a page without curves.") from None
        return rows

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON file; raise InputError if it is missing or damaged."""
        try:
            found = json.loads((self.path / name).read_text())
            if not isinstance(found, dict):
                raise ValueError("it is not an object")
        except FileNotFoundError:
            raise InputError(f"{self.path} has no {name}: the run has not finished.") from None
        except ValueError as error:
            advice = f"Remove it, and train with resume={self.path} to recreate it"
            raise InputError(f"{self.path / name} is damaged: {one_line(error)}. {advice}.") from None
        return found

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file atomically."""
        files.write_text(self.path / name, json.dumps(values, indent=1))


def checkpoint_of(path: Path) -> Path:
    """Resolve a run, a checkpoint or a pretrained network to a checkpoint file.

    Parameters
    ----------
    path : Path
        A run folder, a file, or the name of a pretrained network.

    Returns
    -------
    Path
        The run's best checkpoint, the file itself, or the bundled file.

    Raises
    ------
    InputError
        If there is no such run, file or network.
    """
    if path.exists():
        return path if path.is_file() else Run.find(path).trained()
    shipped = {file.stem: file for file in sorted(files.PRETRAINED.glob("*.ckpt"))}
    if str(path) not in shipped:
        raise InputError(
            f"{path}: no such run folder, checkpoint or pretrained network. Pretrained are {', '.join(shipped)}."
        )
    return shipped[str(path)]


def flatten_config(config: DictConfig) -> dict[str, Any]:
    """Return the keys that can change the result, as dotted names with plain values."""

    def leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                yield from leaves(f"{key}.{name}", inner)
        else:
            yield key, value

    plain: Any = OmegaConf.to_container(config, resolve=True)
    return dict(chain.from_iterable(leaves(key, value) for key, value in plain.items() if key not in IRRELEVANT_KEYS))


def logs_inside(config: DictConfig) -> bool:
    """Return whether all loggers of the config write only to the run folder."""
    made = [dict(options) for options in (config.logger or {}).values()]
    return all(
        options.pop("_target_") in LOCAL_LOGGERS
        and all(re.fullmatch(r"(\w[\w.-]*)?", str(value)) for value in options.values())
        for options in made
    )


def describe_differences(keys: Sequence[str], there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Describe how two flat configs differ in these keys: "model.name rotinv there, preliminary_cnn here; ..."."""
    return "; ".join(f"{key} {there.get(key)} there, {here.get(key)} here" for key in keys)


def describe_code(root: Path = files.PACKAGE.parent) -> tuple[str, str]:
    """Return the commit of the checkout and the diff of code and configs, including new files.

    Both are empty for an installed package and without git.
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
    """Return the versions of Python and of the libraries that can change a result."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a checkout that was never installed
            found[name] = "not installed"
    return found
