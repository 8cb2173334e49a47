"""Files of a run folder: the code that made it, its config and its overrides."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from alerce_early.artifacts import migrations
from alerce_early.artifacts.run_folder import Run, describe_code
from alerce_early.experiments import schema
from alerce_early.experiments.run import train


def test_uncommitted_changes_are_saved_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_code(tmp_path) == ("", "")
    monkeypatch.setattr(describe_code, "__defaults__", (tmp_path,))  # the checkout of the package

    def begun(name: str) -> tuple[str, str | None]:
        """Create a run folder and return its commit and code.diff."""
        (run := Run(tmp_path / name)).begin(OmegaConf.create({"seed": 0}))
        diff = run.path / "code.diff"
        return run.read_json("versions.json")["commit"], diff.read_text() if diff.exists() else None

    assert begun("installed") == ("", None)
    (package := tmp_path / "alerce_early").mkdir()
    (package / "old.py").write_text("a = 1\n")

    def git(*words: str) -> str:
        name = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *name, *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD").strip()
    assert describe_code(tmp_path) == (commit, "") and begun("clean") == (commit, None)
    (package / "old.py").write_text("a = 2\n")
    (package / "new.py").write_text("b = 3\n")
    (tmp_path / "notes.txt").write_text("c = 4\n")
    diff = describe_code(tmp_path)[1]
    assert "\n+a = 2" in diff and "\n+b = 3" in diff and "c = 4" not in diff
    assert begun("changed") == (f"{commit}, with the changes in code.diff", diff)
    git("checkout", "--", ".")
    (undo := tmp_path / "code.diff").write_text(diff)
    (package / "new.py").unlink()
    git("apply", str(undo))
    assert (package / "old.py").read_text() == "a = 2\n" and (package / "new.py").read_text() == "b = 3\n"


OLD = {
    0: {"logger": {"name": "csv", "make": {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": ""}}},
    1: {"format": 1, "callbacks": None, "ema": 0.9, "logger": {"name": "none", "make": None}},
    2: {"format": 2, "logger": {"csv": {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": ""}}},
}


@pytest.mark.parametrize("number", OLD)
def test_config_of_an_older_run_is_migrated(number: int, finished_run: Run, tmp_path: Path) -> None:
    assert set(OLD) == set(range(migrations.FORMAT + 1)), "one for each format"
    config = OmegaConf.load(finished_run.config_file)
    assert config.pop("format") == migrations.FORMAT
    if number == 0:
        for key in ("callbacks", "ema", "init_from", "distil", "ensemble", "metrics"):
            del config[key]
        for key in ("match_radius", "nights", "simulated_share", "simulated_n", "simulated_seed", "simulated"):
            del config.data[key]
        del config.recipe.min_share, config.augment.redraw, config.optim.groups, config.data.split.by
        del config.model.task.focal_gamma, config.model.task.class_weights
    OmegaConf.save(
        OmegaConf.merge({key: config[key] for key in config if key != "logger"}, OLD[number]), tmp_path / "config.yaml"
    )
    found = Run(tmp_path).config()
    schema.check(found, file=Run(tmp_path).config_file)
    assert "format" not in found and found.ema == (0.9 if number == 1 else None)
    assert (found.data.match_radius, found.recipe.min_share) == ((None, 0.0) if number == 0 else (1.5, 0.25))
    assert found.logger == (
        None if number == 1 else {"csv": {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": ""}}
    )
    assert (found.callbacks, found.init_from, found.distil) == (None, None, None)


def test_overrides_are_saved_as_typed_and_shown(quick: Callable[..., DictConfig], tmp_path: Path) -> None:
    options = ["trainer.max_epochs=1", "data.batches_per_epoch=1", 'name="a b"']
    done = train(quick(*options), tmp_path / "run", overrides=options)
    assert done.overrides == options and " ".join(options[:2]) in done.page.read_text()
