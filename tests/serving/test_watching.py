"""Files that arrive in a folder: none is taken while it is written, and none that is strange ends the watch."""

import threading
import time
from pathlib import Path

import pytest

from alerce_early.serving import watching

ENDS = (".avro",)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "PAUSE", 0.3)


def test_a_growing_file_beside_whole_ones_is_given_when_it_is_whole(tmp_path: Path) -> None:
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
    found = watching.arrivals(tmp_path, ENDS, lambda path: False)
    assert next(found).name == "done.avro" and not written.is_set()  # which the other does not hold up
    big = next(found)
    assert written.is_set() and big.stat().st_size == 12_000
    writer.join()


def test_a_whole_file_does_not_wait_for_the_work_on_another(tmp_path: Path) -> None:
    for name in ("a.avro", "b.avro", "c.txt", ".d.avro"):
        (tmp_path / name).write_bytes(b"x")
    found = watching.arrivals(tmp_path, ENDS, lambda path: False)
    assert next(found).name == "a.avro"
    started = time.monotonic()
    assert next(found).name == "b.avro" and time.monotonic() - started < watching.PAUSE / 2


def test_a_file_that_cannot_be_looked_at_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "loop.avro").symlink_to("loop.avro")
    (tmp_path / "nothing.avro").symlink_to("gone")
    (tmp_path / "whole.avro").write_bytes(b"x")
    assert next(watching.arrivals(tmp_path, ENDS, lambda path: False)).name == "whole.avro"
