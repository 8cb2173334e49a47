"""Names that come from files: object ids and classes continue into tables, file names, pages, figures and logs."""

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from alerce_early.errors import InputError
from alerce_early.files import JOINED

MAX_NAME_LENGTH = 100  # characters; no survey's ids have half of it
# Spreadsheets run cells that begin so, and figures set text between $ as formulae; no object is called that.
FORMULA = re.compile(r"[=@]|[+-](?![\w.+-]*$)|[^$]*\$")


# Ids that say nothing of the sky: numbers of rows, and those of simulated objects, which every simulation has.
NO_OBJECT = re.compile(r"(\w+/)?row\d+|SIM\d+", re.ASCII)
DIGITS = 12  # of an object's hash: of 40,000 objects and a million rows two share one by chance once in 7,000 times


def sound(name: str) -> bool:
    """Is this a name that may go anywhere: not long, printable on one line, and no formula?"""
    return len(name) <= MAX_NAME_LENGTH and name.isprintable() and not FORMULA.match(name)


def to_printable(path: str) -> str:
    """Return a path from elsewhere as one printable line."""
    return path if path.isprintable() else ascii(path)[1:-1]


def check_names(values: Any, what: str, origin: str) -> np.ndarray:
    """(N,) str from a list or array of names or whole numbers.

    what: what they name, for messages. Raises InputError for values that are neither, for NaN, and for names that are
    too long, cannot be printed on one line, or that a spreadsheet would run.
    """
    listed = values.ravel().tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(listed, Sequence) or isinstance(listed, str | bytes):
        raise InputError(f"{origin}: {what} are a {type(values).__name__}. Give a list of names.")
    names = [name if isinstance(name, str) else _text(name, what, origin) for name in listed]
    for name in set(names):
        if not sound(name):
            raise InputError(
                f"{origin}: {what} include {name[:MAX_NAME_LENGTH]!r}. Give names of at most {MAX_NAME_LENGTH} printable characters, "
                "without $ and no formulae."
            )
    return np.array(names, dtype=str)


def hash_objects(ids: Iterable[str], *others: str) -> str:
    """Return the hashes of these objects, `DIGITS` hexadecimal digits each, sorted; others: more of the same to add.

    By them a file can tell whether it knows an object, without listing its objects. Ids of no object are left out.
    """
    known = {text[i : i + DIGITS] for text in others for i in range(0, len(text), DIGITS)}
    return "".join(sorted(known | {_hash(name) for name in set(ids) if not NO_OBJECT.fullmatch(name)}))


def is_hashed(ids: np.ndarray, hashes: str) -> np.ndarray:
    """Return whether each of the objects (N,) str is among those of `hash_objects`, (N,) bool."""
    known = {hashes[i : i + DIGITS] for i in range(0, len(hashes), DIGITS)}
    return np.array([_hash(name) in known for name in ids.tolist()], dtype=bool)


def _hash(name: str) -> str:
    return blake2b(name.encode(), digest_size=DIGITS // 2).hexdigest()


def check_classes(classes: Sequence[str]) -> None:
    """Raise InputError for class names that could not be told apart in a set of classes."""
    if joined := [name for name in classes if JOINED in name]:
        raise InputError(f"class {joined[0][:MAX_NAME_LENGTH]!r} has a {JOINED}, which stands between the classes of a set.")


def _text(name: Any, what: str, origin: str) -> str:
    if isinstance(name, bytes):
        return name.decode("latin1")
    if isinstance(name, int | float | np.number) and name == name:
        return str(name)
    strange = "NaN" if name != name else f"a {type(name).__name__}"
    raise InputError(f"{origin}: {what} include {strange}. Give names.")
