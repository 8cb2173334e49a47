"""Sweeps: killed, shared between processes and submitted elsewhere; all predefined sweeps compose."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError
from alerce_early.experiments import sweep as sweeps
from alerce_early.experiments.config import CONF
from alerce_early.experiments.instantiate import make_data, make_task
from tests.helpers.command import Command

SMALL = ("model=preliminary_cnn", "data=alerce", "trainer.max_epochs=1", "data.batches_per_epoch=2", "name=mine")


def ready() -> list[Path]:
    return sorted(Path(CONF, "sweep").glob("*.yaml"))


@pytest.mark.parametrize("file", ready(), ids=lambda file: file.stem)
def test_every_predefined_sweep_composes(file: Path, composed: Callable[..., DictConfig], common: Path) -> None:
    fixed = [f"sweep={file.stem}", f"outputs={common}"]
    params = composed(*fixed, hydra=True).hydra.sweeper.params
    parsed = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    assert len({tuple(job) for job in jobs}) == len(jobs) > 1
    if file.stem == "folds":
        assert {option for job in jobs for option in job if "fold=" in option} == {
            f"data.split.fold={fold}" for fold in range(composed(*fixed).data.split.folds)
        }
    some = [*jobs[:: len(jobs) // 3], jobs[-1]]
    configs = [composed(*fixed, *job) for job in some]
    assert len({OmegaConf.to_yaml(config) for config in configs}) == len({tuple(job) for job in some})
    last = configs[-1]
    OmegaConf.update(last, "data.n", 600)
    assert make_task(last, make_data(last).spec).net is not None


def keys(node: object) -> list[str]:
    """Return all keys of a yaml as written, without the hydra node."""
    if not isinstance(node, dict):
        return []
    return [key for name, inner in node.items() if name != "hydra" for key in (str(name), *keys(inner))]


@pytest.mark.parametrize("file", sorted(Path(CONF).rglob("*.yaml")), ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_no_yaml_has_dotted_keys(file: Path) -> None:
    assert [key for key in keys(OmegaConf.to_container(OmegaConf.load(file))) if "." in key] == []


def test_the_sweep_systems_trains_for_320_batches(composed: Callable[..., DictConfig]) -> None:
    config = composed("sweep=systems")
    assert config.data.batches_per_epoch * config.trainer.max_epochs == 320


def sweep(stamps_file: Path, outputs: Path, *overrides: str) -> Command:
    """Start a sweep of small jobs."""
    return Command("alerce_early.train", "-m", *SMALL, *overrides, f"data.path={stamps_file}", f"outputs={outputs}")


@pytest.mark.slow
def test_a_killed_sweep_blocks_no_job_and_none_runs_twice(stamps_file: Path, tmp_path: Path) -> None:
    options = ("seed=0,1", "+trainer.limit_val_batches=1.0,0")  # the latter raises an unexpected error
    folder = tmp_path / "sweeps" / "mine"
    killed = sweep(stamps_file, tmp_path, *options)
    while len(list(folder.glob("*/checkpoints/last.ckpt"))) < 2 and killed.poll() is None:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert len(list(folder.glob("*/metrics.json"))) == 1

    both = [sweep(stamps_file, tmp_path, *options) for _ in range(2)]
    said = [launcher.communicate() for launcher in both]
    assert max(launcher.returncode for launcher in both) == 1
    assert all("finished before" in out for out, _ in said)
    jobs = [job for job in folder.glob("[!.]*") if job.is_dir()]
    assert len(jobs) == 4
    for job in jobs:
        bad = "batches=0" in job.name
        assert (job / "failed.txt").exists() == bad and (job / "metrics.json").exists() != bad
        if bad:
            assert "Traceback" in (job / "failed.txt").read_text()
            assert any(f"{job.name}: RuntimeError: Early stopping conditioned" in err for _, err in said)
        else:
            assert (job / "train.log").read_text().count("report: ") == 1


def test_the_summary_has_the_latest_outcome_of_each_job(
    composed: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, config = tmp_path / "job", composed("model=preliminary_cnn")
    context = OmegaConf.merge({"hydra": OmegaConf.structured(HydraConf)}, config)
    context.hydra.runtime.output_dir, context.hydra.sweep.dir = str(folder), str(tmp_path)
    folder.mkdir()

    def damaged(_: DictConfig) -> None:
        raise InputError("stamps.pkl is damaged.")

    def works(_: DictConfig) -> None:
        with Run(folder).alone():
            pass

    def finishes(_: DictConfig) -> None:
        (folder / "metrics.json").write_text("{}")

    def outcome(job: Callable[[DictConfig], None]) -> str:
        """Return the outcome of a sweep with this single job, from its summary."""
        HydraConfig.instance().set_config(context)
        summary = sweeps.Summary()
        summary.on_multirun_start(context)
        sweeps.run(job, config)
        capsys.readouterr()
        try:
            summary.on_multirun_end(context)
        except SystemExit as end:
            assert end.code == 1
            return capsys.readouterr().err.splitlines()[-1]
        return capsys.readouterr().out.splitlines()[0].rpartition("jobs, ")[2]

    try:
        assert outcome(damaged) == "  job: stamps.pkl is damaged."
        assert (folder / "failed.txt").read_text() == "stamps.pkl is damaged.\n"
        assert outcome(damaged) == "  job: stamps.pkl is damaged."  # it failed again
        with Run(folder).alone():  # another process retries it
            assert outcome(works) == "1 not finished"
        assert outcome(finishes) == "1 finished" and not (folder / "failed.txt").exists()
        assert outcome(works) == "1 finished before"
        with Run(folder).alone():  # another sweep may check a finished job
            assert outcome(works) == "1 finished before"
    finally:
        HydraConfig.instance().cfg = None


@pytest.mark.slow
def test_the_summary_includes_submitted_jobs(stamps_file: Path, tmp_path: Path) -> None:
    launcher = sweep(stamps_file, tmp_path, "hydra/launcher=submitit_local", "data.sampling=as_is,fair")
    out, err = launcher.communicate()
    assert launcher.returncode == 1
    assert "2 jobs, 1 finished, 1 failed" in out and "data.sampling=fair: " in err
    assert len(list((tmp_path / "sweeps" / "mine").glob("*/metrics.json"))) == 1


@pytest.mark.slow
def test_the_local_launcher_runs_jobs_in_parallel(stamps_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "alerce_early.train", "-m", *SMALL, "seed=0,1", "hydra/launcher=local"]
    options = ("hydra.launcher.n_jobs=2", f"data.path={stamps_file}", f"outputs={tmp_path}")
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0 and "2 jobs, 2 finished" in done.stdout, done.stderr
    folders = sorted((tmp_path / "sweeps" / "mine").glob("*/metrics.json"))
    begun, ended = zip(*((f.with_name("config.yaml").stat().st_mtime, f.stat().st_mtime) for f in folders), strict=True)
    assert max(begun) < min(ended), "one after the other"
