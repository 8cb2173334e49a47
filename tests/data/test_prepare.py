"""Command that prepares a store: concurrent processes, a killed process and a full disk."""

import json
import os
import signal
from pathlib import Path

import numpy as np

from tests.helpers.command import Command


def prepare(stamps_file: Path, outputs: Path, before: str = "") -> Command:
    options = ("data=alerce", f"data.path={stamps_file}", f"outputs={outputs}")
    return Command("alerce_early.prepare", *options, cwd=outputs.parent, before=before)


def finished_stores(outputs: Path) -> list[Path]:
    return [path for path in (outputs / "stores").iterdir() if not path.name.startswith(".")]


def assert_whole(store: Path) -> None:
    meta = json.loads((store / "meta.json").read_text())
    assert len(np.load(store / "images.npy")) == sum(meta["kept_by_class"]) == len(np.load(store / "labels.npy"))


def test_two_concurrent_processes_write_one_complete_store(stamps_file: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    both = [prepare(stamps_file, outputs) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "kept" in out
    (store,) = finished_stores(outputs)
    assert_whole(store)


def test_a_killed_process_leaves_no_store(stamps_file: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    # wait before the rename, so that the process is killed before the store is complete
    wait = "import pathlib, time; pathlib.Path.rename = lambda *_: (print('ready', flush=True), time.sleep(60))"
    process = prepare(stamps_file, outputs, wait)
    assert any("ready" in line for line in process.lines()), process.stderr
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert finished_stores(outputs) == []
    again = prepare(stamps_file, outputs)
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    (store,) = finished_stores(outputs)
    assert_whole(store)
    assert not list((outputs / "stores").glob(".*.partial"))


def test_a_full_disk_is_an_error_and_leaves_no_store(stamps_file: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    # limit the size of files to 100 kB, as a quota would
    process = prepare(
        stamps_file, outputs, "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2)"
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "cannot be written" in err and "outputs=FOLDER" in err and "Traceback" not in err
    assert finished_stores(outputs) == [] and not list((outputs / "stores").glob(".*.partial"))
