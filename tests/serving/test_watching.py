"""Watched folders: files are read once they are complete, and an unusable file does not end the program."""

import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import alerce_early
from alerce_early.artifacts import predictions
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError
from alerce_early.serving import watch
from alerce_early.simulation import packets
from tests.helpers.command import Command
from tests.helpers.networks import constant, table_of, wait_for

ENDS = (".avro",)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PAUSE", 0.3)


def test_a_growing_file_is_read_once_it_is_complete(tmp_path: Path) -> None:
    (tmp_path / "done.avro").write_bytes(b"x")
    (tmp_path / "big.avro").write_bytes(b"")
    written = threading.Event()

    def grow() -> None:
        with (tmp_path / "big.avro").open("ab") as file:
            for _ in range(12):
                file.write(b"x" * 1000)
                file.flush()
                time.sleep(0.05)
        written.set()

    writer = threading.Thread(target=grow)
    writer.start()
    found = watch.arrivals(tmp_path, ENDS, lambda path: False)
    assert next(found).name == "done.avro" and not written.is_set()  # the growing file does not delay it
    big = next(found)
    assert written.is_set() and big.stat().st_size == 12_000
    writer.join()


def test_complete_files_follow_each_other_without_a_pause(tmp_path: Path) -> None:
    for name in ("a.avro", "b.avro", "c.txt", ".d.avro"):
        (tmp_path / name).write_bytes(b"x")
    found = watch.arrivals(tmp_path, ENDS, lambda path: False)
    assert next(found).name == "a.avro"
    started = time.monotonic()
    assert next(found).name == "b.avro" and time.monotonic() - started < watch.PAUSE / 2


def test_broken_links_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "loop.avro").symlink_to("loop.avro")
    (tmp_path / "nothing.avro").symlink_to("gone")
    (tmp_path / "whole.avro").write_bytes(b"x")
    assert next(watch.arrivals(tmp_path, ENDS, lambda path: False)).name == "whole.avro"


def test_unusable_results_and_folders_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file cannot be written: .*--out"):
        watch.watch(constant("SN", "rest"), tmp_path, tmp_path / "file")
    predictions.write(tmp_path / "done" / "mine.parquet", {"x": np.zeros(2)})
    predictions.write(tmp_path / "done" / "numbers.parquet", {"candid": np.arange(2)})
    with pytest.raises(InputError, match="nowhere cannot be watched"):  # after the results were read
        watch.watch(constant("SN", "rest"), tmp_path / "nowhere", tmp_path / "done")
    assert (err := capsys.readouterr().err).startswith("warning: ") and "mine.parquet" in err
    assert err.count("\n") == 1


def test_a_missing_folder_or_extra_ends_the_program(finished_run: Run, tmp_path: Path) -> None:
    """The folder is checked first; without fastavro the first of two files of packets ends the program."""
    missing = Command("alerce_early.serve", finished_run.path, "nowhere", "--out", "done", cwd=tmp_path)
    assert missing.wait() == 2 and not missing.stdout and "nowhere" in missing.stderr
    (tmp_path / "in").mkdir()
    ((packet, _),) = packets.alerts(1)
    for name in ("a.avro", "b.avro"):
        (tmp_path / "in" / name).write_bytes(packets.encode(packet))
    forget = (
        "[sys.modules.pop(name) for name in [*sys.modules] if name.startswith('alerce_early.data.readers.packets')]"
    )
    before = f"import sys; {forget}; sys.modules['fastavro'] = None"
    without = Command("alerce_early.serve", finished_run.path, "in", "--out", "done", cwd=tmp_path, before=before)
    assert without.wait() == 2 and without.stderr.count("\n") == 1 and "[alerts]" in without.stderr


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".watch")  # the lock


def test_watch_classifies_each_arriving_row_once(finished_run: Run, tmp_path: Path) -> None:
    night, done = tmp_path / "night", tmp_path / "done"
    for folder in (night, done, tmp_path / "in"):
        folder.mkdir()
    for i, (packet, _) in enumerate(packets.alerts(2, seed=3)):
        (night / f"{i:02}.avro").write_bytes(packets.encode(packet))
    # the result of an earlier process, and another file with the same packet
    before = table_of(alerce_early.load(finished_run.path), night / "00.avro", done / "00.avro.parquet")
    asked = (finished_run.path, "in", "--out", "done")
    with Command("alerce_early.serve", *asked, cwd=tmp_path) as process:
        shutil.copy(night / "00.avro", tmp_path / "in")
        shutil.copy(night / "00.avro", tmp_path / "in" / "again.avro")
        shutil.copy(night / "01.avro", tmp_path / "in" / "01.avro.coming")
        (tmp_path / "in" / "01.avro.coming").rename(tmp_path / "in" / "01.avro")
        wanted = ["00.avro.parquet", "01.avro.parquet", "again.avro.rejected.csv"]
        wait_for(lambda: names_in(done) == wanted)  # the folders of their parts have been removed
        message = "--out .*done"
        with pytest.raises(InputError, match=message), watch.lock_results(done):
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert names_in(done) == wanted
    assert "duplicate" in (done / "again.avro.rejected.csv").read_text()
    assert predictions.read(done / "00.avro.parquet")["candid"].tolist() == before["candid"].tolist()
