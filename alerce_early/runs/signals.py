"""Being told to stop: SIGTERM of a scheduler and Ctrl-C end a command with one line and no traceback.

Nothing is saved at that moment, because everything is already: a run goes on from the end of its last epoch,
where alone it can go on as if it had never stopped.
"""

import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """Ends the process with the status that shells give a process ended by this signal, 143 or 130.

    how: what to type to go on.
    """

    how = "the same command goes on"

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.name = signal.Signals(number).name

    def __str__(self) -> str:
        return f"stopped by {self.name}; {self.how}"


def listen() -> None:
    """From now on, the signals raise `Stopped` in the main thread."""
    for number in SIGNALS:
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)
