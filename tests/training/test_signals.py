"""Signals end every command with one line, at any point of the main thread and with any lock held."""

import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from alerce_early.machine import map_in_processes
from tests.helpers.command import Command, running

# raises SIGTERM in the main thread of a command with a signal handler, at the first event in a function of a file for
# which a condition is true
INJECT = """
import linecache, signal, sys
file, function, happens, condition = {place!r}

def within(frame, function):
    return frame and (frame.f_code.co_name == function or within(frame.f_back, function))

def line(frame):
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()

def trace(frame, event, _):
    if frame.f_code.co_name != function or not frame.f_code.co_filename.endswith(file):
        return None

    def at(frame, event, _):
        if event == happens and callable(signal.getsignal(signal.SIGTERM)) and eval(condition):
            sys.settrace(None)
            print("raised there", flush=True)
            signal.raise_signal(signal.SIGTERM)
        return at

    return at(frame, event, _)

sys.settrace(trace)
"""
LOGGING = "logging/__init__.py"
TENSORBOARD = "within(frame, 'add_scalar') and {queue}.not_empty._waiters"  # its thread waits for something to write
PLACES = {
    "in a callback of a weak reference, after an import": ("importlib._bootstrap>", "cb", "call", "True"),
    "in TensorBoard's queue, before its thread is notified": (
        *("/queue.py", "put", "line"),
        "line(frame) == 'self.not_empty.notify()' and " + TENSORBOARD.format(queue="frame.f_locals['self']"),
    ),
    "in TensorBoard's queue, its lock held": (
        *("/threading.py", "__enter__", "return"),
        "frame.f_back.f_code.co_name == 'put' and " + TENSORBOARD.format(queue="frame.f_back.f_locals['self']"),
    ),
    "with the lock of a log's handler": (LOGGING, "acquire", "return", "True"),
    "before the lock of a log's handler is released": (LOGGING, "release", "call", "True"),
    "while Lightning sets up its loaders": ("lightning/pytorch/loops/fetchers.py", "__iter__", "call", "True"),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_signal_at_any_point_ends_with_one_line(place: tuple[str, ...], stamps_file: Path, tmp_path: Path) -> None:
    options = ("model=preliminary_cnn", "data=alerce", f"data.path={stamps_file}", f"outputs={tmp_path}")
    short = ("trainer.max_epochs=2", "data.batches_per_epoch=2", "data.batch_size=16")
    inject = INJECT.format(place=place)
    with Command("alerce_early.train", *options, *short, before=inject) as process:
        out, err = process.communicate(timeout=300)
    assert "raised there" in out
    assert process.returncode == 128 + signal.SIGTERM, err
    assert err.startswith("stopped by SIGTERM; ") and err.count("\n") == 1


def test_a_signal_ends_a_report_with_one_line(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("id,label,p_a,p_b\n1,a,.9,.1\n2,b,.2,.8\n")
    inject = INJECT.format(place=("report/run_page.py", "write_table_page", "call", "True"))
    with Command("alerce_early.report", table, before=inject) as process:
        _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert err.startswith("stopped by SIGTERM; ") and err.count("\n") == 1


# in a separate process group; results are so large that a worker is usually writing one when it is ended
POOL = """
import os
os.setsid()
from alerce_early.simulation.survey import simulate
from alerce_early import machine
from alerce_early.training import signals
with signals.listen():
    print(os.getpgrp() == os.getpid(), flush=True)
    {work}
"""
WORK = {
    "simulation": "simulate(20_000)",
    "large results": "for _ in machine.map_in_processes(bytes, [50_000_000] * 10_000, 2): pass",
}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(true: Callable[[], object]) -> None:
    until = time.monotonic() + 300
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("send", (os.kill, os.killpg), ids=("to the parent", "to all"))
@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT), ids=lambda number: number.name)
@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_a_signal_ends_a_pool_of_processes(
    work: str, number: signal.Signals, send: Callable[[int, int], None], tmp_path: Path
) -> None:
    with Command("-c", POOL.format(work=work), cwd=tmp_path) as process:
        wait_for(lambda: process.stdout or process.poll() is not None)
        wait_for(lambda: children(process.pid))
        workers = children(process.pid)
        send(process.pid, number)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert err == f"stopped by {number.name}; run the same command to continue\n"
    wait_for(lambda: not any(map(running, workers)))


def collect_garbage(_: int) -> int:
    return gc.collect()


def test_a_worker_does_not_collect_the_garbage_of_its_parent() -> None:
    """In a forked process, deleting a Kafka client would wait for threads that do not exist."""

    class Client:
        def __init__(self) -> None:
            self.itself, self.owner = self, os.getpid()

        def __del__(self) -> None:
            if os.getpid() != self.owner:
                os._exit(3)

    gc.disable()
    try:
        Client()
        assert len(list(map_in_processes(collect_garbage, range(4), 2))) == 4
    finally:
        gc.enable()
