"""What plain values from a file may be: no deeper, larger or stranger than what they are read for.

A file may name one of its parts many times. Such references cost nothing until something follows them all, so values
are weighed as if each were written out.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

DEEPEST = 32  # containers within containers
LARGEST = 1 << 64  # of whole numbers; beyond it Python's own text of them fails
FREE = 64 << 20  # bytes any file may make of itself, however small it is
EACH = 64  # bytes of a part of a container, while it waits to be weighed
GROWTH = 20  # bytes in memory that a byte of a file may become


class TooMuchError(ValueError):
    """Values that no file of arrays needs; says which."""


def check(value: Any, size: int) -> None:
    """Refuse values, of a file of `size` bytes, that written out are larger than `FREE` + `GROWTH` x size.

    Raises `TooMuchError` for that, for containers nested deeper than `DEEPEST` or within themselves, whole numbers
    of more than 64 bits, and text that is not Unicode.
    """
    most = FREE + GROWTH * size
    weight, waiting = 0, [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        if isinstance(one, Mapping | list | tuple):
            if depth > DEEPEST:
                raise TooMuchError(f"it nests containers more than {DEEPEST} deep")
            weight += EACH * len(one) * (2 if isinstance(one, Mapping) else 1)
            if weight <= most:  # before the parts are put on the list
                parts = chain(one, one.values()) if isinstance(one, Mapping) else one
                waiting.extend((part, depth + 1) for part in parts)
        elif isinstance(one, str):
            try:
                weight += len(one.encode())
            except UnicodeEncodeError:
                raise TooMuchError("it holds text that is not Unicode") from None
        elif isinstance(one, bytes | bytearray):
            weight += len(one)
        elif isinstance(one, int) and abs(one) > LARGEST:
            raise TooMuchError("it holds a whole number of more than 64 bits")
        else:  # one side of an empty array may be of any length
            weight += getattr(one, "nbytes", 0) or 8 * max(getattr(one, "shape", ()), default=0)
        if weight > most:
            raise TooMuchError(f"its references, written out, are more than {most >> 20:,} MiB")
