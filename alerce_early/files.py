"""File writing: atomic writes, locks that end with their process, and disk errors as one-line messages."""

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
ANY = frozenset(errno.errorcode)  # for code that only writes
PLACE = "outputs=FOLDER"  # default option for choosing another folder, for messages
VERSION = "0.1.0"
PACKAGE = Path(__file__).parent
PRETRAINED = PACKAGE / "pretrained"  # bundled networks


class BusyError(InputError):
    """Another process holds a lock."""

    status = os.EX_TEMPFAIL


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; raise InputError for a disk error."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes | memoryview, place: str = PLACE) -> None:
    """Write a binary file atomically, see `whole`; raise InputError for a disk error."""
    with whole(path, place) as partial:
        partial.write_bytes(content)


def partial_of(path: Path) -> Path:
    """Return the temporary name of a file that is renamed to `path` when it is complete."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def whole(path: Path, place: str = PLACE) -> Iterator[Path]:
    """Write a file atomically: other processes see the old file or the complete new one.

    Parameters
    ----------
    path : Path
        The file.
    place : str
        Option for choosing another folder, for messages.

    Yields
    ------
    Path
        Temporary file to write, renamed to `path` at the end.

    Raises
    ------
    InputError
        If the disk is full or not writable.
    """
    partial = partial_of(path)
    with translate_refusals(path, ANY, place):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())  # some file systems report only here that they are full
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def translate_refusals(path: Path, refusals: Collection[int] = FULL | REFUSED, place: str = PLACE) -> Iterator[None]:
    """Turn disk errors into an `InputError`; other errors are raised unchanged.

    Parameters
    ----------
    path : Path
        The file or folder that is being written.
    refusals : collection of int
        Error numbers to translate.
    place : str
        Option for choosing another folder, for messages.
    """
    try:
        yield
    except OSError as error:
        short = error.errno is None and "written" in str(error)  # numpy reports a full disk without an error number
        if not short and error.errno not in refusals:
            raise
        if short or error.errno in FULL:
            raise _full(path, f"cannot be written ({error.strerror or error})", place) from None
        what = f"{error.filename or path} cannot be written: {error.strerror}"
        raise InputError(f"{what}. Choose another place with {place}.") from None


def room(path: Path, size: int) -> None:
    """Raise InputError if a file of this size, in bytes, does not fit on the disk."""
    if size > _free(path):
        raise _full(path, f"needs {size / 1e6:,.1f} MB", PLACE)


def _free(path: Path) -> int:
    """Return the free bytes on the disk of a path."""
    return shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.is_dir())).free


def _full(path: Path, what: str, place: str) -> InputError:
    """Return the error for a full disk."""
    free = f"{_free(path) / 1e6:,.1f} MB are free there"
    return InputError(f"disk full: {path} {what}, {free}. Free space, or choose another place with {place}.")


@contextmanager
def hold_lock(lock: Path, patience: float = math.inf, place: str = PLACE) -> Iterator[None]:
    """Hold a lock file inside the block; the operating system releases it if the process is killed.

    Parameters
    ----------
    lock : Path
        The lock file.
    patience : float
        Seconds to wait for another process.
    place : str
        Option for choosing another folder, for messages.

    Raises
    ------
    BusyError
        If another process still holds the lock.
    """
    file_lock = FileLock(lock, timeout=-1 if patience == math.inf else patience)
    while not file_lock.is_locked:
        with translate_refusals(lock, ANY, place):
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                file_lock.acquire()
            except Timeout:
                raise BusyError(
                    f"{lock.parent}: in use by another process. Wait for it to end, or choose another folder."
                ) from None
            except FileNotFoundError:  # the previous holder removed the folder: create it again
                continue
    try:
        yield
    finally:
        file_lock.release()


JOINED = "|"  # separates the classes of a prediction set; not allowed in class names
