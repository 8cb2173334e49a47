"""Files as they arrive in a folder, each when it is whole."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from alerce_early.errors import InputError

PAUSE = 1.0  # seconds between two looks


def arrivals(folder: Path, ends: tuple[str, ...], known: Callable[[Path], bool]) -> Iterator[Path]:
    """The files of a folder whose names end in one of `ends`, for ever: the oldest first, each once.

    A file is whole when its size and time have not changed from one look to the next, `PAUSE` seconds later; one
    that is written under a name with another ending, or a leading dot, and then renamed cannot be met too early.
    known: whether a file need not be given, asked once. Raises InputError if there is no such folder.
    """
    given: set[str] = set()
    last: dict[str, tuple[int, int]] = {}
    while True:
        try:
            there = [file for file in folder.iterdir() if file.name.endswith(ends) and not file.name.startswith(".")]
        except OSError as error:
            raise InputError(f"--watch {folder} cannot be read: {error.strerror}.") from None
        looks: dict[str, tuple[int, int]] = {}
        for file in there:
            if file.name in given:
                continue
            try:
                facts = file.stat()
            except FileNotFoundError:  # gone again
                continue
            looks[file.name] = (facts.st_mtime_ns, facts.st_size)
        whole = [name for name in sorted(looks, key=lambda name: (looks[name], name)) if last.get(name) == looks[name]]
        for name in whole:
            given.add(name)
            if not known(folder / name):
                yield folder / name
        last = {name: look for name, look in looks.items() if name not in given}
        if not whole:
            time.sleep(PAUSE)
