"""Skip the detection history of an alert packet: lists of up to a thousand records that are not used.

To reach the fields after such a list, fastavro decodes every field in it: 20 us per detection, which dominates the
time of a night. A list whose records contain no lists is skipped with a regular expression compiled from the schema,
ten times as fast. Anything that the expression does not match, such as a long text, is left to fastavro.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

MAX_PATTERN_BYTES = 1 << 14  # of one expression: a schema may refer to a type many times
MAX_SHORT = 64  # lengths and branch numbers below this take one byte as an Avro long
VARINT = rb"[\x80-\xff]{0,9}+[\0-\x7f]"
PATTERNS = {"null": b"", "boolean": b"[\0\1]", "int": VARINT, "long": VARINT, "float": b".{4}", "double": b".{8}"}


def is_skippable_list(kind: Any) -> bool:
    """Check for an Avro type that is a list, or the union of a list and null."""
    branches = kind if isinstance(kind, list) else [kind]
    lists = [branch for branch in branches if _is_list(branch)]
    return len(lists) == 1 and all(branch == "null" for branch in branches if branch not in lists)


class ListSkipper:
    """Skipper of lists of one Avro type.

    Parameters
    ----------
    kind : str, list or dict
        The parsed Avro type of the field; `is_skippable_list` is true of it.
    named : mapping
        Parsed named types that `kind` may refer to.
    """

    def __init__(self, kind: Any, named: Mapping[str, Any]):
        branches = kind if isinstance(kind, list) else [kind]
        self._is_union = isinstance(kind, list)
        self._lists = [_is_list(branch) for branch in branches]
        self._item = None
        with suppress(NotImplementedError):  # items that no regular expression describes
            self._item = re.compile(_pattern_of(branches[self._lists.index(True)]["items"], named), re.DOTALL)

    def end(self, data: bytes, at: int) -> int | None:
        """Return the end of the list that begins at offset `at`, None if fastavro has to decode it."""
        if self._item is None:
            return None
        try:
            if self._is_union:
                branch, at = _read_long(data, at)
                if branch < 0:
                    return None
                if not self._lists[branch]:
                    return at
            while True:
                count, at = _read_long(data, at)
                if not count:
                    return at
                if count < 0:  # a block with its size in bytes
                    size, at = _read_long(data, at)
                    at += size
                    if size < 0 or at > len(data):
                        return None
                for _ in range(count):  # no iteration for a negative count
                    found = self._item.match(data, at)
                    if not found:
                        return None
                    at = found.end()
        except IndexError:
            return None


def _read_long(data: bytes, at: int) -> tuple[int, int]:
    """Decode an Avro long; return it and the offset of its end."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80 or shift > 63:
            return (value >> 1) ^ -(value & 1), at


def _is_list(kind: Any) -> bool:
    """Check for an Avro array."""
    return isinstance(kind, dict) and kind["type"] == "array"


def _pattern_of(kind: Any, named: Mapping[str, Any]) -> bytes:
    """Return a pattern for the bytes of one value, without backtracking."""
    if isinstance(kind, str) and kind in named:
        kind = named[kind]
    if isinstance(kind, list):
        return _any_of(_pattern_of(branch, named) for branch in kind)
    of = kind["type"] if isinstance(kind, dict) else kind
    if isinstance(of, dict | list):
        return _pattern_of(of, named)
    if of in ("string", "bytes"):
        return _any_of(b".{%d}" % length for length in range(MAX_SHORT))
    if of != "record":
        return _limit(PATTERNS.get(of))
    made = b""
    for field in kind["fields"]:
        made = _limit(made + _pattern_of(field["type"], named))
    return made


def _limit(made: bytes | None) -> bytes:
    """Return a pattern; raise NotImplementedError if there is none or it is too long."""
    if made is None or len(made) > MAX_PATTERN_BYTES:
        raise NotImplementedError
    return made


def _any_of(branches: Iterable[bytes]) -> bytes:
    """Return a pattern for a one-byte number followed by the branch that it selects."""
    made = [re.escape(_one_byte_long(number)) + branch for number, branch in enumerate(branches)]
    return _limit(b"(?>" + b"|".join(made) + b")")


def _one_byte_long(number: int) -> bytes:
    """Encode a number below `MAX_SHORT` as an Avro long."""
    if number >= MAX_SHORT:
        raise NotImplementedError
    return bytes([2 * number])
