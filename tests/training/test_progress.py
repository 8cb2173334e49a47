"""Progress bar and log during training."""

import importlib
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest


def test_a_terminal_shows_a_progress_bar(stamps_file: Path, tmp_path: Path) -> None:
    terminals = pytest.importorskip("pty").openpty()
    importlib.import_module("termios").tcsetwinsize(terminals[1], (30, 120))
    options = ("data=alerce", f"data.path={stamps_file}", f"outputs={tmp_path}", "model=preliminary_cnn")
    command = [sys.executable, "-m", "alerce_early.train", *options, "trainer.max_epochs=2"]
    more = ("data.batches_per_epoch=40", "data.batch_size=8")
    process = subprocess.Popen([*command, *more], stdin=subprocess.DEVNULL, stdout=terminals[1], stderr=terminals[1])
    os.close(terminals[1])
    shown = b""
    with suppress(OSError):  # raised by Linux when the terminal is closed
        while part := os.read(terminals[0], 1 << 16):
            shown += part
    assert process.wait(60) == 0, shown[-500:]
    steps = re.findall(rb"(\d+)/40 [^\r]*loss=([\d.]+), stamps/s=([\d,]+)", shown)
    assert {b"10", b"20", b"30"} <= {step for step, *_ in steps}
    assert all(float(loss) > 0 and int(rate.replace(b",", b"")) > 0 for _, loss, rate in steps)
    assert len(re.findall(rb"\repoch   [12]/2", shown)) == 2  # on separate lines
