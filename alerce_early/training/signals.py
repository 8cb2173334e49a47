"""Stopping: SIGTERM of a scheduler and Ctrl-C end a command with one line and no traceback.

Nothing is saved at that moment, because everything is already: a run continues from the end of its last epoch,
where alone it can continue as if it had never stopped.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """Ends the process with the status that shells give a process ended by this signal, 143 or 130.

    how: what to type to continue.
    """

    how = "the same command continues"

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.name = signal.Signals(number).name
        self.how = Stopped.how  # as of now: it is printed when `resumed_by` has ended

    def __str__(self) -> str:
        return f"stopped by {self.name}; {self.how}"


@contextmanager
def resumed_by(command: str) -> Iterator[None]:
    """Name, within, this command in the line of a stop."""
    before, Stopped.how = Stopped.how, f"continue with: {command}"
    try:
        yield
    finally:
        Stopped.how = before


def listen() -> None:
    """From now on, the signals raise `Stopped` in the main thread."""
    for number in SIGNALS:
        signal.signal(number, _stop)


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Within, the first signal raises nothing; the function that is yielded tells whether it came. A second raises."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            _stop(number, frame)
        came.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_at_once(speaks: bool, end_others: Callable[[int], None] = lambda _: None) -> None:
    """From now on, the signals end this process from a thread of its own: one of several that train together.

    Its main thread may be waiting inside a collective operation for a process that is gone; there it would raise
    nothing, and Lightning's own handler would begin another such operation. speaks: print the line. end_others: is
    called with a signal to end the processes that this one started.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def wait() -> None:
        number = reader.recv(1)[0]
        while number not in SIGNALS:
            number = reader.recv(1)[0]
        end_others(signal.SIGKILL)
        if speaks:
            print(Stopped(number), file=sys.stderr, flush=True)
        os._exit(128 + number)

    for number in SIGNALS:
        signal.signal(number, lambda *_: None)  # Python writes to the socket before it calls any handler
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    threading.Thread(target=wait, name="signals", daemon=True).start()


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)
