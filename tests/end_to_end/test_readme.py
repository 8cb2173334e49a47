"""What the README files show how to add, added as they say in a copy of the project and run."""

import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import INSTALL, InputError, require_extra
from tests.helpers.command import run
from tests.helpers.tiny import CHECKOUT

SHORT = ("trainer.max_epochs=1", "data.batches_per_epoch=2")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with every file that the README files write out, by the name it begins with."""
    copy = tmp_path_factory.mktemp("copy")
    for folder in ("alerce_early", "conf"):
        shutil.copytree(CHECKOUT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    named = r"```(?:python|yaml)\n((?:# @package _global_\n)?# ((?:alerce_early|conf)/\S+)\n.*?)```"
    pages = (CHECKOUT / "README.md", CHECKOUT / "alerce_early/data/readers/README.md")
    blocks = re.findall(named, "\n".join(page.read_text() for page in pages), re.DOTALL)
    assert {Path(name).parent.name for _, name in blocks} == {"models", "model", "readers", "data"}
    for content, name in blocks:
        assert not (copy / name).exists()
        (copy / name).write_text(content)
    return copy


def test_what_the_readme_adds_runs(extended: Path) -> None:
    """The model on the data that it adds."""
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


def test_this_package_is_installed_by_its_folder() -> None:
    """Its name is in no index: whoever took it there would get what installs it by name."""
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


def test_a_network_outside_of_the_checkout_runs_as_written(stamps_file: Path, tmp_path: Path) -> None:
    page = (CHECKOUT / "conf/README.md").read_text()
    for content, name in re.findall(
        r"```(?:python|yaml)\n((?:# @package _global_\n)?# (my_\S+)\n.*?)```", page, re.DOTALL
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    commands = re.findall(r"^python -m (alerce_early\.train .*\bmine)$", page, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        done = run(*command.split(), "data=alerce", f"data.path={stamps_file}", *SHORT, "outputs=out", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    configs = [Run(folder).config() for folder in (tmp_path / "out" / "runs" / "alerce-mine").iterdir()]
    assert configs[0].model.net == configs[1].model.net == {"_target_": "my_package.nets.MyNet", "width": 16}
