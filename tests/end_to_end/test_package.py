"""The wheel contains configs, templates and pretrained networks, and works without a checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from alerce_early.files import PRETRAINED
from tests.helpers.tiny import CHECKOUT


@pytest.mark.slow
def test_a_wheel_works_in_an_empty_folder(tmp_path: Path) -> None:
    def python(*arguments: str, **options: Any) -> str:
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(CHECKOUT))
    (wheel,) = tmp_path.glob("*.whl")
    packed = zipfile.ZipFile(wheel)
    configs = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "conf").rglob("*.yaml")}
    assert {f"alerce_early/{name}" for name in configs} <= set(packed.namelist())
    networks = {str(path.relative_to(CHECKOUT)) for path in PRETRAINED.iterdir()}
    assert networks and networks <= set(packed.namelist())
    templates = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "alerce_early").rglob("*.html")}
    assert templates and templates <= set(packed.namelist())
    packed.extractall(tmp_path / "site")  # equivalent to installing a pure Python wheel

    empty = tmp_path / "empty"
    empty.mkdir()
    alone = {"cwd": empty, "env": {"PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": "1"}}
    where = python("-c", "from alerce_early.experiments.config import CONF; print(CONF)", **alone).strip()
    assert where == str(tmp_path / "site" / "alerce_early" / "conf")
    classes = python("-c", "import alerce_early; print(alerce_early.load('ztf').classes)", **alone)
    assert "asteroid" in classes
    assert "alerce_early.models.rotinv.RotInv" in python("-m", "alerce_early.train", "--cfg", "job", **alone)
