"""Signals: SIGTERM (as sent by schedulers) and SIGINT (Ctrl-C) end a command with one line and no traceback.

Nothing needs to be saved at that moment: a run resumes from its last complete epoch, where its state is known exactly.

The handler raises `Stopped` in the main thread. That thread may be in a callback that swallows the exception, or in a
library that is about to release a lock. Therefore a second thread, woken by the signal, ends the process if the main
thread has not done so within `PATIENCE` seconds.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from subprocess import Popen
from types import FrameType
from typing import Any

from alerce_early.machine import STOPS

PATIENCE = 5.0  # seconds for the main thread to end after a signal


class Stopped(SystemExit):
    """End the process with the status that shells report for this signal: 143 for SIGTERM, 130 for SIGINT.

    Parameters
    ----------
    number : int
        The signal.

    Attributes
    ----------
    advice : str
        How to continue; part of the message.
    """

    advice = ""

    def __init__(self, number: int):
        self.status = 128 + number
        super().__init__(self.status)
        self.name = signal.Signals(number).name
        # copied, because the message is printed after `set_resume_command` has ended
        self.advice = Stopped.advice or "run the same command to continue"

    def __str__(self) -> str:
        return f"stopped by {self.name}; {self.advice}"


_received: list[Stopped] = []  # by the first signal
_print_lock = threading.Lock()  # acquired once, so that the line is printed once
_terminators: list[Callable[[], object]] = []  # end child processes unknown to multiprocessing


@contextmanager
def set_resume_command(command: str) -> Iterator[None]:
    """Inside the block, name this command in the message of a stop, unless an outer block has named one."""
    before, Stopped.advice = Stopped.advice, Stopped.advice or f"continue with: {command}"
    try:
        yield
    finally:
        Stopped.advice = before


@contextmanager
def listen(prints: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Inside the block, the first signal raises `Stopped` in the main thread; further signals are ignored.

    Any exception that leaves the block after a signal is replaced by `Stopped`, and its message is printed.

    Parameters
    ----------
    prints : callable
        Returns True if this process prints the message; only one of several should.
    """
    handlers = {number: signal.signal(number, _stop) for number in STOPS}
    waker, hook = _start_thread(PATIENCE, prints), sys.unraisablehook

    def end_if_ignored(lost: Any) -> None:
        if lost.exc_value in _received:  # for example in a callback of a weak reference
            _end_process(_received[0], prints)
        hook(lost)

    sys.unraisablehook = end_if_ignored
    try:
        with reraise_stopped():
            yield
    except Stopped as stopped:
        _print(stopped, prints)
        raise
    finally:
        if not _received:  # otherwise the process is ending and still needs handlers and thread
            sys.unraisablehook = hook
            os.close(signal.set_wakeup_fd(waker))
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextmanager
def reraise_stopped() -> Iterator[None]:
    """After a signal, replace any exception that leaves the block, such as a library's own error, by `Stopped`."""
    try:
        yield
    except BaseException:
        if _received:
            raise _received[0] from None
        raise


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Inside the block, only the second signal raises `Stopped`.

    Yields
    ------
    callable
        Returns True after the first signal.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            _stop(number, frame)
        came.append(number)
        signal.set_wakeup_fd(waker)

    before = {number: signal.signal(number, note) for number in STOPS}
    waker = signal.set_wakeup_fd(-1)
    try:
        yield lambda: bool(came)
    finally:
        signal.set_wakeup_fd(waker)
        for number, handler in before.items():
            signal.signal(number, handler)


def end_at_once(prints: bool, *end_others: Callable[[], object]) -> None:
    """From now on, let a second thread end this process at once on a signal; for processes that train together.

    The main thread may be waiting in a collective operation for a process that has ended. No exception is raised
    there, and Lightning's handler would start another collective operation.

    Parameters
    ----------
    prints : bool
        Whether this process prints the message.
    *end_others : callable
        End the processes that this one started.
    """
    _terminators.extend(end_others)
    for number in STOPS:
        signal.signal(number, lambda *_: None)  # the thread is woken before any handler is called
    _start_thread(0.0, lambda: prints)


@contextmanager
def terminate_on_error(*programs: "Popen[Any]") -> Iterator[None]:
    """Terminate these programs if an exception leaves the block or this process is stopped inside it."""
    ends = [program.terminate for program in programs]
    _terminators.extend(ends)
    try:
        yield
    except BaseException:
        for end in ends:
            end()
        raise
    finally:
        for end in ends:
            _terminators.remove(end)


def _stop(number: int, frame: FrameType | None) -> None:
    """Raise `Stopped` for the first signal."""
    if not _received:
        _received.append(Stopped(number))
        raise _received[0]


def _start_thread(patience: float, prints: Callable[[], bool]) -> int:
    """Start the thread that ends this process some seconds after a signal; return the previous wake-up fd."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def wait() -> None:
        while byte := reader.recv(1):
            if byte[0] in STOPS:
                time.sleep(patience)
                _end_process(_received[0] if _received else Stopped(byte[0]), prints)

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)


def _end_process(stopped: Stopped, prints: Callable[[], bool]) -> None:
    """End this process and its children, without any lock that the main thread may hold."""
    for end in [*_terminators, *(child.kill for child in active_children())]:
        with suppress(Exception):
            end()
    _print(stopped, prints)
    os._exit(stopped.status)


def _print(stopped: Stopped, prints: Callable[[], bool]) -> None:
    """Print the message of a stop, once."""
    if prints() and _print_lock.acquire(blocking=False):
        with suppress(OSError):
            os.write(2, f"{stopped}\n".encode())  # not sys.stderr, which has a lock
