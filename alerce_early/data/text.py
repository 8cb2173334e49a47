"""Checks of names from files: object ids and classes end up in tables, file names, pages, figures and logs."""

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from alerce_early.errors import InputError
from alerce_early.files import JOINED

MAX_NAME_LENGTH = 100  # characters; ids of surveys are less than half as long
# Text that spreadsheets would execute, or figures would typeset as a formula between $.
FORMULA = re.compile(r"[=@]|[+-](?![\w.+-]*$)|[^$]*\$")
# Ids that do not identify an object on the sky: row numbers, and simulated objects, which recur in every simulation.
NO_OBJECT = re.compile(r"(\w+/)?row\d+|SIM\d+", re.ASCII)
# Hexadecimal digits of a hash. Between 40,000 objects and a million rows, collisions have a chance of 1/7,000.
HASH_DIGITS = 12


def is_safe_name(name: str) -> bool:
    """Return whether a name is short, printable on one line, and not a formula."""
    return len(name) <= MAX_NAME_LENGTH and name.isprintable() and not FORMULA.match(name)


def to_printable(path: str) -> str:
    """Return a path as one printable line, with other characters escaped."""
    return path if path.isprintable() else ascii(path)[1:-1]


def check_names(values: Any, what: str, origin: str) -> np.ndarray:
    """Convert a list or array of names or numbers to an array of safe names.

    Parameters
    ----------
    values : array_like
        N values: str, bytes or numbers.
    what : str
        Plural noun for the named things, for messages.
    origin : str
        Source of the names, for messages.

    Returns
    -------
    ndarray
        (N,) str.

    Raises
    ------
    InputError
        If a value is NaN, of another type, or not a safe name (see `is_safe_name`).
    """
    listed = values.ravel().tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(listed, Sequence) or isinstance(listed, str | bytes):
        raise InputError(f"{origin}: {what} are a {type(values).__name__}. Give a list of names.")
    names = [name if isinstance(name, str) else _text(name, what, origin) for name in listed]
    for name in set(names):
        if not is_safe_name(name):
            raise InputError(
                f"{origin}: {what} include {name[:MAX_NAME_LENGTH]!r}. Give names of at most {MAX_NAME_LENGTH} "
                "printable characters, without $, that are not formulae."
            )
    return np.array(names, dtype=str)


def hash_objects(ids: Iterable[str], *others: str) -> str:
    """Return the hashes of objects, so that a checkpoint can recognise its training objects without listing them.

    Parameters
    ----------
    ids : iterable of str
        Object ids; row numbers and ids of simulated objects are ignored.
    *others : str
        Results of earlier calls, which are merged.

    Returns
    -------
    str
        Sorted hashes, concatenated, of `HASH_DIGITS` hexadecimal digits each.
    """
    known = {text[i : i + HASH_DIGITS] for text in others for i in range(0, len(text), HASH_DIGITS)}
    return "".join(sorted(known | {_hash(name) for name in set(ids) if not NO_OBJECT.fullmatch(name)}))


def is_hashed(ids: np.ndarray, hashes: str) -> np.ndarray:
    """Return a mask (N,) bool of the objects `ids` (N,) str whose hash is in the result of `hash_objects`."""
    known = {hashes[i : i + HASH_DIGITS] for i in range(0, len(hashes), HASH_DIGITS)}
    return np.array([_hash(name) in known for name in ids.tolist()], dtype=bool)


def _hash(name: str) -> str:
    """Return the hash of one object."""
    return blake2b(name.encode(), digest_size=HASH_DIGITS // 2).hexdigest()


def check_classes(classes: Sequence[str]) -> None:
    """Raise InputError for class names with the separator of prediction sets."""
    if joined := [name for name in classes if JOINED in name]:
        raise InputError(
            f"class {joined[0][:MAX_NAME_LENGTH]!r}: {JOINED} separates the classes of a prediction set. "
            "Rename the class."
        )


def _text(name: Any, what: str, origin: str) -> str:
    """Convert bytes or a number to str; raise InputError for other values."""
    if isinstance(name, bytes):
        return name.decode("latin1")
    if isinstance(name, int | float | np.number) and name == name:
        return str(name)
    strange = "NaN" if name != name else f"a {type(name).__name__}"
    raise InputError(f"{origin}: {what} include {strange}. Give names.")
