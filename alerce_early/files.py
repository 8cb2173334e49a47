"""Robust file writing: atomic writes, locks released when their holder dies, disk errors as one-line messages."""

import errno
import math
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from alerce_early.errors import InputError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
ANY = frozenset(errno.errorcode)  # where nothing is done but to write
PLACE = "outputs=FOLDER"  # how the user chooses another one, where nothing else is said
VERSION = "0.1.0"
PACKAGE = Path(__file__).parent
PRETRAINED = PACKAGE / "pretrained"  # the networks that come with the package


class BusyError(InputError):
    """Another process holds the lock."""

    status = os.EX_TEMPFAIL


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes | memoryview, place: str = PLACE) -> None:
    """Write a file that is whole or not there; place: as of `whole`. Raises InputError where the disk refuses."""
    with whole(path, place) as partial:
        partial.write_bytes(content)


def partial_of(path: Path) -> Path:
    """Return the temporary name of what becomes `path` when it is complete."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def whole(path: Path, place: str = PLACE) -> Iterator[Path]:
    """Yield a temporary name, renamed to `path` at the end: a reader sees all of the file, the old one or none.

    place: how the user chooses another place. Raises InputError where the disk refuses.
    """
    partial = partial_of(path)
    with translate_refusals(path, ANY, place):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())  # some file systems only now say that they are full
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def translate_refusals(path: Path, refusals: Collection[int] = FULL | REFUSED, place: str = PLACE) -> Iterator[None]:
    """Turn what a disk refuses at `path` into an `InputError`; any other error stays what it is."""
    try:
        yield
    except OSError as error:
        short = error.errno is None and "written" in str(error)  # numpy tells of a full disk without a number
        if not short and error.errno not in refusals:
            raise
        if short or error.errno in FULL:
            raise _full(path, f"cannot be written ({error.strerror or error})", place) from None
        what = f"{error.filename or path} cannot be written: {error.strerror}"
        raise InputError(f"{what}. Choose another place with {place}.") from None


def room(path: Path, wanted: int) -> None:
    """Raise InputError if so many bytes do not fit on the disk of `path`."""
    if wanted > _free(path):
        raise _full(path, f"wants {wanted / 1e6:,.1f} MB", PLACE)


def _free(path: Path) -> int:
    return shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.is_dir())).free


def _full(path: Path, what: str, place: str) -> InputError:
    free = f"{_free(path) / 1e6:,.1f} MB are free there"
    return InputError(f"disk full: {path} {what}, {free}. Free space, or choose another place with {place}.")


@contextmanager
def hold_lock(lock: Path, patience: float = math.inf, place: str = PLACE) -> Iterator[None]:
    """Hold a lock file; the operating system frees it when its holder ends in whatever way.

    Raises BusyError if another process still holds it after so many seconds.
    """
    made = FileLock(lock, timeout=-1 if patience == math.inf else patience)
    while not made.is_locked:
        with translate_refusals(lock, ANY, place):
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                made.acquire()
            except Timeout:
                raise BusyError(f"another process works in {lock.parent}.") from None
            except FileNotFoundError:  # its folder went with the holder before: make it again
                continue
    try:
        yield
    finally:
        made.release()


JOINED = "|"  # between the classes of a set, so no class has it in its name
