"""Files as they arrive in a folder, each when it is whole."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from alerce_early.errors import InputError

PAUSE = 1.0  # seconds between two looks


def arrivals(folder: Path, ends: tuple[str, ...], known: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield the files of a folder whose names end in one of `ends`, for ever: the oldest first, each once.

    A file is taken for whole when its size and time are those of a look at least `PAUSE` seconds before, so one whose
    writer stops for as long may be met too early; one that is written under a name with another ending, or a leading
    dot, and then renamed cannot. One that cannot be looked at is passed over until it can.
    known: whether a file need not be given, asked once. Raises InputError if there is no such folder.
    """
    given: set[str] = set()
    since: dict[str, tuple[tuple[int, int], float]] = {}  # how each file looks, and when it first looked so
    while True:
        try:
            there = [
                file for file in folder.iterdir() if file.name.lower().endswith(ends) and not file.name.startswith(".")
            ]
        except OSError as error:
            raise InputError(f"--watch {folder} cannot be read: {error.strerror}.") from None
        looks: dict[str, tuple[tuple[int, int], float]] = {}
        whole = []
        for file in there:
            if file.name in given:
                continue
            now = time.monotonic()
            try:
                facts = file.stat()
            except OSError:  # gone again, or a link to nothing
                continue
            look = (facts.st_mtime_ns, facts.st_size)
            before = since.get(file.name)
            looks[file.name] = before if before and before[0] == look else (look, now)
            if now - looks[file.name][1] >= PAUSE:
                whole.append(file.name)
        for name in sorted(whole, key=lambda name: (looks[name][0], name)):
            given.add(name)
            if not known(folder / name):
                yield folder / name
        since = {name: look for name, look in looks.items() if name not in given}
        if not whole:
            time.sleep(PAUSE)
