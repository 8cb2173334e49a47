"""Run the code examples of the README files in a copy of the project."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alerce_early.artifacts import checkpoints, predictions
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import INSTALL, InputError, require_extra
from alerce_early.evaluation import tables
from tests.helpers.command import run
from tests.helpers.tiny import CHECKOUT, sections_of

SHORT = ("trainer.max_epochs=1", "data.batches_per_epoch=2")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project with the example files of the README files; each begins with its file name."""
    copy = tmp_path_factory.mktemp("copy")
    for folder in ("alerce_early", "conf"):
        shutil.copytree(CHECKOUT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    named = r"```(?:python|yaml)\n((?:# @package _global_\n)?# ((?:alerce_early|conf)/\S+)\n.*?)```"
    pages = (CHECKOUT / ".github/CONTRIBUTING.md", CHECKOUT / "alerce_early/data/readers/README.md")
    blocks = re.findall(named, "\n".join(page.read_text() for page in pages), re.DOTALL)
    assert {Path(name).parent.name for _, name in blocks} == {"models", "model", "readers", "data"}
    for content, name in blocks:
        assert not (copy / name).exists()
        (copy / name).write_text(content)
    return copy


def test_the_model_and_data_added_in_the_readme_train(extended: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alerce_early.train", "data=night", "model=linear", "data.n=300", *SHORT],
        cwd=extended,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(extended)},
    )
    assert done.returncode == 0, done.stderr
    assert "linear: " in done.stdout and "report: " in done.stdout
    (made,) = (extended / "outputs" / "runs").glob("*/*")
    assert made.parent.name == "night-linear"


def test_install_instructions_never_use_the_name_of_the_package() -> None:
    """It is not registered on PyPI: a stranger could register it and have their code installed instead."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    pages = [CHECKOUT / "Makefile", *CHECKOUT.glob("*.md")]
    pages += [file for part in ("alerce_early", "conf", "tests") for file in (CHECKOUT / part).rglob("*.*")]
    text = "\n".join(file.read_text() for file in pages if file.suffix in ("", ".md", ".py", ".yaml"))
    text += "\n".join(INSTALL.format(f"[{extra}]") for extra in project["optional-dependencies"])
    assert not re.search(rf"install[^\n]*['\"` ]{project['name']}\b", text)
    asked = re.findall(r"install[^\n]* '\.\[([\w,]+)\]'", text)
    assert {extra for extras in asked for extra in extras.split(",")} <= project["optional-dependencies"].keys()
    with pytest.raises(InputError, match=re.escape(INSTALL.format("[stream]"))), require_extra("a test", "stream"):
        importlib.import_module("nowhere")


@pytest.mark.slow
def test_examples_of_user_code_run_outside_the_checkout(survey: dict[str, Any], tmp_path: Path) -> None:
    """Covers a network with and without a yaml, a recipe step, a loss, a metric, a callback and a reader."""
    page = (CHECKOUT / "conf/README.md").read_text()
    for content, name in re.findall(
        r"```(?:python|yaml)\n((?:# @package _global_\n)?# (my_\S+)\n.*?)```", page, re.DOTALL
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    whole = [i for i, image in enumerate(survey["images"]) if np.shape(image) == (63, 63, 3)]
    stamps, labels = np.stack([survey["images"][i] for i in whole]), np.asarray(survey["labels"])[whole] == 1
    np.savez(tmp_path / "mine.npz", stamps=stamps, labels=labels.astype(int), names=[f"mine{i}" for i in whole])

    commands = re.findall(
        r"^python -m (alerce_early\.train .*\b(?:mine|my_package)\b.*)$", page.replace("\\\n", ""), re.M
    )
    assert len(commands) == 7
    runs = []
    for i, command in enumerate(commands):
        size = () if "mine.npz" in command else ("data.n=400",)
        words = shlex.split(command, comments=True)
        done = run(*words, *size, *SHORT, f"outputs=out{i}", "data.batch_size=16", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        runs += [Run(folder) for folder in (tmp_path / f"out{i}" / "runs").glob("*/*")]
    by_yaml, _, stepped, lost, judged, _, read = runs
    configs = [one.config() for one in runs]
    assert configs[0].model.net == configs[1].model.net == {"_target_": "my_package.parts.MyNet", "width": 16}
    assert "my_package.parts.Root" in str(checkpoints.read(stepped.best)["hyper_parameters"]["spec"]["recipe"])
    assert (tmp_path / "diary.txt").read_text().startswith("0 ")
    assert checkpoints.read(read.best)["hyper_parameters"]["spec"]["classes"] == ("other", "SN")

    # the example's loss is bounded by 1; cross-entropy is not
    assert 0 < lost.history()[0]["val/loss"] < 1 < by_yaml.history()[0]["val/loss"]
    np.savez(tmp_path / "new.npz", images=stamps[:9], labels=labels[:9].astype(int))
    done = run("alerce_early.predict", lost.path, "new.npz", "--out", "night.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr  # prediction does not need the loss

    table = tables.select_judged(predictions.read(judged.predictions), "test")
    called = table["predicted"] == "SN"
    purity = (table["label"][called] == "SN").mean() if called.any() else 0
    assert judged.metrics["test/purity"] == pytest.approx(purity)
    shown = {
        row[0]: row[1] for section in sections_of(judged.page.read_text()) for _, rows in section.tables for row in rows
    }
    assert shown["purity"] == f"{purity:.3f}"
    events = EventAccumulator(str(judged.path)).Reload()
    assert b"test/purity" in events.summary_metadata["_hparams_/experiment"].plugin_data.content
    assert f"purity {purity:.3f}" in run("alerce_early.compare", judged.path).stdout
