"""Start-up, help and the benchmark of training."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from alerce_early import __version__
from alerce_early.__main__ import VERBS
from alerce_early.experiments import schema
from alerce_early.experiments.config import CONF, compose_config
from alerce_early.training.trainer import choose_precision
from tests.bench.measures import train_against_loops
from tests.helpers.command import run

SLOW = {"torch", "lightning", "matplotlib", "scipy", "sklearn"}


def test_no_command_imports_torch_before_parsing_its_options() -> None:
    imports = ", ".join(f"alerce_early.{verb}" for verb in VERBS) + ", alerce_early.report.__main__"
    code = f"import sys; import {imports}; print(*{SLOW} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "\n", done.stdout + done.stderr[-300:]


def test_the_training_benchmark_prints_one_line_per_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_against_loops("preliminary_cnn", 2, tmp_path, "data.n=300")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train preliminary_cnn ")]
    half = ["bare float32 loop"] if choose_precision({"precision": "auto"}) == "bf16-mixed" else []
    expected = ["bare loop", *half, "DataLoader of rows"]
    assert [name in line for name, line in zip(expected, lines, strict=True)] == [True] * len(expected)
    assert all(float(line.split(" >=")[0].split()[-1]) > 0 for line in lines)


def run_module(*words: str) -> tuple[int, str, str]:
    """Run `python -m` and return exit status, standard output and standard error."""
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_one_command_for_all_verbs() -> None:
    version = (0, f"alerce-early {__version__}\n", "")
    assert run_module("alerce_early", "--version") == version
    assert all(run(f"alerce_early.{verb}", "--version").stdout == version[1] for verb in VERBS)
    status, output, _ = run_module("alerce_early")
    assert status == 0 and all(f"\n  {verb} " in output for verb in VERBS)
    assert run_module("alerce_early", "compare", "--help") == run_module("alerce_early.compare", "--help")
    assert run_module("alerce_early", "compare", "nowhere") == run_module("alerce_early.compare", "nowhere")
    status, _, error = run_module("alerce_early", "predit")
    assert status == 2 and error.endswith("did you mean predict?\n")


def test_help_documents_every_key_of_the_chosen_configs() -> None:
    status, output, _ = run_module("alerce_early.train", "model=hits_shallow", "--help")
    assert status == 0
    for name in ("model/hits_shallow", "data/hits_simulated"):  # the model selects this data
        text = (Path(CONF) / f"{name}.yaml").read_text().replace("# @package _global_", "")
        comments = re.findall("# .*", text)
        assert comments and all(comment in output for comment in comments), name
    config = compose_config("model=hits_shallow")
    rows = [(f"{key}={value} ", meaning) for key, value, meaning in schema.describe(config) if value is not None]
    assert len(rows) > 40 and all(option in output and f"# {meaning}\n" in output for option, meaning in rows)
    assert "data.test_path=" not in output  # not a key of this data


def test_the_table_of_options_in_the_readme_is_current() -> None:
    text = (Path(CONF) / "README.md").read_text()
    assert schema.update_table(text, compose_config()) == text, "update it: python -m alerce_early.experiments.schema"
