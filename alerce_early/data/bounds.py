"""What plain values from a file may be: no deeper, larger or stranger than what they are read for.

A file may name one of its parts many times. Such references cost nothing until something follows them all, as
numpy does; so values are weighed as if each were written out.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

DEEPEST = 32  # containers within containers
LARGEST = 1 << 64  # of whole numbers; beyond it Python's own text of them fails
FREE = 64 << 20  # bytes any file may make of itself, however small it is
GROWTH = 20  # bytes in memory that a byte of a file may become


class TooMuchError(ValueError):
    """Values that no file of arrays needs; says which."""


def check(value: Any, size: int) -> None:
    """Refuse values, of a file of `size` bytes, that written out are larger than `FREE` + `GROWTH` x size.

    Raises `TooMuchError` for that, for containers nested deeper than `DEEPEST` or within themselves, whole numbers
    of more than 64 bits, and text that is not Unicode.
    """
    most = FREE + GROWTH * size
    if _weight(value, most, 0, {})[0] > most:
        raise TooMuchError(_too_heavy(most))


def _too_heavy(most: int) -> str:
    return f"its references, written out, are more than {most >> 20:,} MiB"


def _weight(value: Any, most: int, depth: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Bytes of a value with all it refers to, written out, and how deep it nests.

    known: of the containers already seen, by id.
    """
    if isinstance(value, int):
        if abs(value) > LARGEST:
            raise TooMuchError("it holds a whole number of more than 64 bits")
        return 8, 0
    if isinstance(value, str):
        try:
            return 8 + (len(value) if value.isascii() else len(value.encode())), 0
        except UnicodeEncodeError:
            raise TooMuchError("it holds text that is not Unicode") from None
    if isinstance(value, bytes | bytearray):
        return 8 + len(value), 0
    nbytes = getattr(value, "nbytes", None)  # of arrays, tensors and numpy's numbers
    objects = nbytes is not None and getattr(value, "dtype", None) == np.dtype(object)
    if not (objects or isinstance(value, Mapping | list | tuple)):
        sides = getattr(value, "shape", ())  # one side of an empty array may be of any length
        return 8 + (nbytes or 8 * max(sides, default=0)), 0
    if id(value) not in known:
        if depth > DEEPEST:  # also what holds itself ends here
            raise TooMuchError(f"it nests containers more than {DEEPEST} deep")
        weight, height = 8, 0
        for part in chain(value, value.values()) if isinstance(value, Mapping) else value.ravel() if objects else value:
            inner, below = _weight(part, most, depth + 1, known)
            weight, height = weight + inner, max(height, below + 1)
            if weight > most:
                raise TooMuchError(_too_heavy(most))
        known[id(value)] = weight, height
    if depth + known[id(value)][1] > DEEPEST:
        raise TooMuchError(f"it nests containers more than {DEEPEST} deep")
    return known[id(value)]
