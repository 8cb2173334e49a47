"""What an alert packet carries of the past: lists of up to a thousand detections that nobody reads here.

To reach what follows them fastavro walks through every field, 20 us per detection and most of a night's time. A list
whose records have no lists in them is passed by a regular expression made of their schema, ten times as fast; what that
does not match, such as a long text, is left to fastavro.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

LONGEST = 1 << 14  # bytes of an expression: a schema may name a type often
TEXT = 64  # bytes of a text from which on it is fastavro's: its length takes more than a byte
VARINT = rb"[\x80-\xff]{0,9}+[\0-\x7f]"
KINDS = {"null": b"", "boolean": b"[\0\1]", "int": VARINT, "long": VARINT, "float": b".{4}", "double": b".{8}"}


def may_be_passed(kind: Any) -> bool:
    """Tell whether this Avro type of a field is a list, or a list or null."""
    branches = kind if isinstance(kind, list) else [kind]
    lists = [branch for branch in branches if _is_list(branch)]
    return len(lists) == 1 and all(branch == "null" for branch in branches if branch not in lists)


class Passed:
    """How a list is passed, by the Avro type of its field; named: the records that it may name."""

    def __init__(self, kind: Any, named: Mapping[str, Any]):
        branches = kind if isinstance(kind, list) else [kind]
        self._is_union = isinstance(kind, list)
        self._lists = [_is_list(branch) for branch in branches]
        self._item = None
        with suppress(NotImplementedError):  # a list of what no regular expression describes
            self._item = re.compile(_expression(branches[self._lists.index(True)]["items"], named), re.DOTALL)

    def end(self, data: bytes, at: int) -> int | None:
        """Return where the list that begins here ends, None if that cannot be told."""
        if self._item is None:
            return None
        try:
            if self._is_union:
                branch, at = _long(data, at)
                if branch < 0:
                    return None
                if not self._lists[branch]:
                    return at
            while True:
                count, at = _long(data, at)
                if not count:
                    return at
                if count < 0:  # the bytes of all of them follow
                    size, at = _long(data, at)
                    at += size
                    if size < 0 or at > len(data):
                        return None
                for _ in range(count):  # of none, where it is negative
                    found = self._item.match(data, at)
                    if not found:
                        return None
                    at = found.end()
        except IndexError:
            return None


def _long(data: bytes, at: int) -> tuple[int, int]:
    """Return an Avro long and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80 or shift > 63:
            return (value >> 1) ^ -(value & 1), at


def _is_list(kind: Any) -> bool:
    return isinstance(kind, dict) and kind["type"] == "array"


def _expression(kind: Any, named: Mapping[str, Any]) -> bytes:
    """Return what matches the bytes of one value, and gives none of them back."""
    if isinstance(kind, str) and kind in named:
        kind = named[kind]
    if isinstance(kind, list):
        return _either(_expression(branch, named) for branch in kind)
    of = kind["type"] if isinstance(kind, dict) else kind
    if isinstance(of, dict | list):
        return _expression(of, named)
    if of in ("string", "bytes"):
        return _either(b".{%d}" % length for length in range(TEXT))
    if of != "record":
        return _bounded(KINDS.get(of))
    made = b""
    for field in kind["fields"]:
        made = _bounded(made + _expression(field["type"], named))
    return made


def _bounded(made: bytes | None) -> bytes:
    if made is None or len(made) > LONGEST:
        raise NotImplementedError
    return made


def _either(branches: Iterable[bytes]) -> bytes:
    """Return what matches a number, of one byte, and that one of these branches."""
    made = [re.escape(_short(number)) + branch for number, branch in enumerate(branches)]
    return _bounded(b"(?>" + b"|".join(made) + b")")


def _short(number: int) -> bytes:
    """Return an Avro long of one byte."""
    if number >= TEXT:
        raise NotImplementedError
    return bytes([2 * number])
