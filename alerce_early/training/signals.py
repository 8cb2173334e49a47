"""Stopping: SIGTERM of a scheduler and Ctrl-C end a command with one line and no traceback.

Nothing is saved at that moment, because everything is already: a run continues from the end of its last epoch,
where alone it can continue as if it had never stopped.

The handler raises `Stopped` in the main thread, which may be anywhere: in a callback that swallows the exception, in a
library that is about to release a lock. So a second thread, which the signal wakes, ends the process if the first has
not done so after some seconds.
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

PATIENCE = 5.0  # seconds that the main thread may take to end after a signal


class Stopped(SystemExit):
    """Ends the process with the status that shells give a process ended by this signal, 143 or 130.

    how: what to type to continue.
    """

    how = ""

    def __init__(self, number: int):
        self.status = 128 + number
        super().__init__(self.status)
        self.name = signal.Signals(number).name
        self.how = Stopped.how or "the same command continues"  # as of now: it is printed when `resumed_by` has ended

    def __str__(self) -> str:
        return f"stopped by {self.name}; {self.how}"


_came: list[Stopped] = []  # by the first signal
_said = threading.Lock()  # held from the moment that the line is printed
_to_end: list[Callable[[], object]] = []  # ends what this process started and multiprocessing does not know


@contextmanager
def resumed_by(command: str) -> Iterator[None]:
    """Name, within, this command in the line of a stop, unless one around it is named."""
    before, Stopped.how = Stopped.how, Stopped.how or f"continue with: {command}"
    try:
        yield
    finally:
        Stopped.how = before


@contextmanager
def listen(speaks: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Within, a signal ends the command: the first raises `Stopped` in the main thread, the others nothing.

    Whatever the main thread makes of that, what leaves the block is `Stopped`, and its line is printed.

    Parameters
    ----------
    speaks : callable
        Returns whether this process, of several, prints the line.
    """
    handlers = {number: signal.signal(number, _stop) for number in STOPS}
    waker, hook = _wake(PATIENCE, speaks), sys.unraisablehook

    def end_where_lost(lost: Any) -> None:
        if lost.exc_value in _came:  # in a callback of a weak reference, for example
            _leave(_came[0], speaks)
        hook(lost)

    sys.unraisablehook = end_where_lost
    try:
        with unwinding():
            yield
    except Stopped as stopped:
        _say(stopped, speaks)
        raise
    finally:
        if not _came:  # else the process is ending, for which its handlers and the thread stay
            sys.unraisablehook = hook
            os.close(signal.set_wakeup_fd(waker))
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextmanager
def unwinding() -> Iterator[None]:
    """After a signal, let nothing but `Stopped` leave the block: not the error of a library that it interrupted."""
    try:
        yield
    except BaseException:
        if _came:
            raise _came[0] from None
        raise


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Within, the first signal raises nothing; the function that is yielded tells whether it came. A second raises."""
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


def end_at_once(speaks: bool, *end_others: Callable[[], object]) -> None:
    """From now on, the signals end this process from a thread of its own: one of several that train together.

    Its main thread may be waiting inside a collective operation for a process that is gone; there it would raise
    nothing, and Lightning's own handler would begin another such operation. speaks: print the line. end_others: end
    the processes that this one started.
    """
    _to_end.extend(end_others)
    for number in STOPS:
        signal.signal(number, lambda *_: None)  # Python writes to the socket before it calls any handler
    _wake(0.0, lambda: speaks)


@contextmanager
def ending(*programs: "Popen[Any]") -> Iterator[None]:
    """End these programs when an exception leaves the block, or this process is stopped within."""
    ends = [program.terminate for program in programs]
    _to_end.extend(ends)
    try:
        yield
    except BaseException:
        for end in ends:
            end()
        raise
    finally:
        for end in ends:
            _to_end.remove(end)


def _stop(number: int, frame: FrameType | None) -> None:
    if not _came:
        _came.append(Stopped(number))
        raise _came[0]


def _wake(patience: float, speaks: Callable[[], bool]) -> int:
    """Start the thread that ends this process so many seconds after a signal; return the wake-up fd of before."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def wait() -> None:
        while byte := reader.recv(1):
            if byte[0] in STOPS:
                time.sleep(patience)
                _leave(_came[0] if _came else Stopped(byte[0]), speaks)

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)


def _leave(stopped: Stopped, speaks: Callable[[], bool]) -> None:
    """End this process and those that it started; needs no lock that the main thread may hold."""
    for end in [*_to_end, *(child.kill for child in active_children())]:
        with suppress(Exception):
            end()
    _say(stopped, speaks)
    os._exit(stopped.status)


def _say(stopped: Stopped, speaks: Callable[[], bool]) -> None:
    if speaks() and _said.acquire(blocking=False):
        with suppress(OSError):
            os.write(2, f"{stopped}\n".encode())  # sys.stderr has a lock
