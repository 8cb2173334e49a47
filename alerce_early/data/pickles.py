"""Reading pickles without trusting them.

A pickle is a program: it may name any callable of any installed module and have it called, and it may ask for
memory it never fills. Files of stamps need numpy arrays and plain containers, so those few steps and names are
allowed, and none of them is the callable the file asks for where a harmless stand-in does. The steps are those of
the standard library's unpickler in Python: the one in C takes gigabytes for a memo of one entry. What makes them
quick is that the data of an array stay where they are, in the mapped file, and are jumped over.
"""

import gc
import mmap
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data import bounds
from alerce_early.data.standins import ALLOWED, Hollow, check_keys, filled
from alerce_early.errors import InputError, one_line

STEPS = 1 << 18  # of any file; one more for each 8 bytes, which what holds data exceeds by far
BYTES_A_STEP = 8
SHORT = 1000  # bytes up to which they are copied rather than viewed


class _Refused(Exception):
    """A name outside the allow-list."""


_BASE: Any = pickle._Unpickler  # its steps are known to no type checker


class _Memo(dict[int, Any]):
    """What the file may come back to: of an array, only when it has its data."""

    def __getitem__(self, index: int) -> Any:
        held = super().__getitem__(index)
        if type(held) is not Hollow:
            return held
        if held.array is None:
            raise pickle.UnpicklingError("an array is named before its data")
        return held.array


class _PlainUnpickler(_BASE):
    """Makes numbers, text, lists, tuples, dicts and arrays; the other steps of a pickle are refused."""

    def __init__(self, file: mmap.mmap):
        # latin1 is how numpy arrays written by Python 2 are read; it changes nothing for Python 3 files
        super().__init__(file, encoding="latin1")
        self.file, self.view = file, memoryview(file)
        self.memo = _Memo()
        self.read, self.readline = file.read, file.readline  # neither gives more than the file has
        self.hollow = 0  # arrays whose data have not come yet
        self.metastack: list[list[Any]] = []
        self.stack: list[Any] = []
        self.append = self.stack.append

    def load(self) -> Any:
        code = self.file.read_byte
        try:
            for _ in range(STEPS + len(self.file) // BYTES_A_STEP):
                DISPATCH[code()](self)
        except pickle._Stop as stop:  # type: ignore[attr-defined]
            if self.hollow:
                raise pickle.UnpicklingError("an array has no data") from None
            return stop.value
        raise pickle.UnpicklingError("it has more steps than data")

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def load_frame(self) -> None:
        """Frames help those who read a file in parts."""
        if int.from_bytes(self.read(8), "little") > len(self.file) - self.file.tell():
            raise pickle.UnpicklingError("it is cut short")

    def load_reduce(self) -> None:
        _BASE.load_reduce(self)
        if type(self.stack[-1]) is Hollow:
            self.hollow += 1

    def load_build(self) -> None:
        """Give an array or a dtype its state: the one that numpy writes, and once."""
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) is Hollow:
            made.array = self.stack[-1] = filled(*state)
            self.hollow -= 1
            return
        if not isinstance(made, np.dtype):
            raise pickle.UnpicklingError(f"a {type(made).__name__} has a state")
        version, order, *rest = state
        if version != 3 or order not in ("<", ">", "|", "=") or tuple(rest) != made.__reduce__()[2][2:]:
            raise pickle.UnpicklingError(f"a dtype {made} has the state of another")
        made.__setstate__(state)  # type: ignore[attr-defined]

    def load_append(self) -> None:
        self._into(list, self.stack[-2])
        _BASE.load_append(self)

    def load_appends(self) -> None:
        self._into(list, self.metastack[-1][-1])
        _BASE.load_appends(self)

    def load_dict(self) -> None:
        check_keys(self.stack[::2])
        _BASE.load_dict(self)

    def load_setitem(self) -> None:
        self._into(dict, self.stack[-3])
        check_keys(self.stack[-2:-1])
        _BASE.load_setitem(self)

    def load_setitems(self) -> None:
        self._into(dict, self.metastack[-1][-1])
        check_keys(self.stack[::2])
        _BASE.load_setitems(self)

    def load_binbytes(self, digits: int = 4) -> None:
        """Bytes, of which an array may be made without a copy."""
        size, start = int.from_bytes(self.read(digits), "little"), self.file.tell()
        self.file.seek(size, os.SEEK_CUR)  # fails beyond the end
        held = self.view[start : start + size]
        self.append(held if size > SHORT else held.tobytes())

    def load_binbytes8(self) -> None:
        self.load_binbytes(8)

    load_bytearray8 = load_binbytes8

    def _into(self, kind: type, there: object) -> None:
        if not isinstance(there, kind):
            raise pickle.UnpicklingError(f"a {type(there).__name__} is filled like a {kind.__name__}")


def _refuse(unpickler: _PlainUnpickler) -> None:
    unpickler.file.seek(-1, os.SEEK_CUR)
    raise pickle.UnpicklingError(f"{unpickler.read(1)!r} is no step that data needs")


_NAMES = (
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "EMPTY_LIST", "LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
)
_CODES = [getattr(pickle, name)[0] for name in _NAMES]
_STEPS = {code: getattr(_PlainUnpickler, _BASE.dispatch[code].__name__) for code in _CODES}
DISPATCH = [_STEPS.get(code, _refuse) for code in range(256)]  # what each code does


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for cycles, which takes as long as the reading: a file makes few, and keeps its values."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


def load(path: str | Path) -> Any:
    """Unpickle a file that may hold numpy arrays and plain containers, and nothing else.

    Returns whatever the file holds: numbers of at most 64 bits, text, bytes, lists, tuples, dicts (of plain keys)
    and arrays of plain dtypes, at most `bounds.DEEPEST` within each other. Arrays, and bytes of more than `SHORT`,
    are read-only views of the file, which may be replaced or removed meanwhile, but not cut short. Takes less
    memory than 128 MiB plus 30 times the file's size; of a file of arrays, its size, and three times that if they
    are written as text, as protocols below 3 do. Raises `InputError` if the file cannot be read, is not a pickle,
    is cut short, holds anything else, or names a callable outside the allow-list; the latter is refused before any
    of it runs.
    """
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with _uncollected():
            held = _PlainUnpickler(mapped).load()
        bounds.check(held, len(mapped))
        return held
    except _Refused as error:
        raise InputError(
            f"{path} names {str(error)[:80]!r}, which a file of arrays has no use for. Refused before any of it ran; "
            "write the data as numpy arrays, lists and dicts."
        ) from None
    except bounds.TooMuch as error:
        raise InputError(f"{path} is not a file of arrays: {error}.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # a damaged stream may raise nearly anything
        raise InputError(f"{path} is not a pickle, or is damaged: {one_line(error)}") from None
