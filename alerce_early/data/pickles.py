"""Reading pickles without trusting them.

A pickle is a program: it may name any callable of any installed module and have it called, and it may ask for
memory it never fills. Files of stamps need numpy arrays and plain containers, so those few steps and names are
allowed, and none of them is the callable the file asks for where a harmless stand-in does. The steps are those of
the standard library's unpickler in Python: the one in C takes gigabytes for a memo of one entry. What makes them
quick is that the data of an array stay where they are, in the mapped file, and are jumped over.
"""

import codecs
import math
import mmap
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data import bounds
from alerce_early.errors import InputError, one_line

STEPS = 1 << 18  # of any file; one more for each 8 bytes, which what holds data exceeds by far
BYTES_A_STEP = 8
SHORT = 1000  # bytes up to which they are copied rather than viewed
DTYPE = re.compile(r"[?biufcSUO]\d{0,9}")  # numbers, text and objects; nothing structured


class _Hollow:
    """Stand-in for an array that numpy's `_reconstruct` makes, until the state that follows gives it its data.

    Numpy always asks for shape (0,) here; anything else is an attempt to allocate memory.
    """

    __slots__ = ("array",)

    def __init__(self, _subtype: object, shape: tuple[int, ...], _typecode: object):
        if shape != (0,):
            raise pickle.UnpicklingError(f"an array of shape {shape} is asked for before its data")
        self.array: np.ndarray | None = None


def _dtype(name: str, _align: object = False, _copy: object = True) -> np.dtype:
    """Stand-in for numpy's `dtype`: plain types alone, and always a copy, since a state may follow."""
    if not isinstance(name, str) or not DTYPE.fullmatch(name):
        raise pickle.UnpicklingError(f"arrays of {str(name)[:40]!r} are not read, only of numbers and text")
    return np.dtype(name, False, True)  # type: ignore[call-overload]


def _scalar(dtype: np.dtype, data: bytes | str | None = None) -> Any:
    """Stand-in for numpy's `scalar`: one number of a fixed-size dtype from its bytes."""
    if dtype.hasobject or data is None:
        raise pickle.UnpicklingError(f"a numpy scalar of dtype {dtype} is not a number")
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype=dtype, count=1)[0]


def _array(buffer: bytes | memoryview, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """A view of the buffer, read-only; stand-in for numpy's `_frombuffer`, which pickle protocol 5 names."""
    if not isinstance(buffer, bytes | memoryview):
        raise pickle.UnpicklingError(f"an array of {dtype} has a {type(buffer).__name__} for data")
    _check_shape(shape, dtype, len(buffer) // max(dtype.itemsize, 1))
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stand-in for `_codecs.encode`, through which protocol 2 stores bytes."""
    return codecs.encode(text, "latin1") if encoding == "latin1" else text.encode("utf-8")


def _ordered(pairs: Sequence[tuple[Any, Any]] = ()) -> OrderedDict[Any, Any]:
    _check_keys([key for key, _ in pairs])
    return OrderedDict(pairs)


def _check_shape(shape: tuple[int, ...], dtype: np.dtype, values: int) -> None:
    """An array has as many values as its data holds."""
    sides = not shape or ({*map(type, shape)} == {int} and min(shape) >= 0)
    if not sides or math.prod(shape) != values or (values and not dtype.itemsize):
        raise pickle.UnpicklingError(f"an array of shape {str(shape)[:60]} does not have {values:,} values of {dtype}")


def _check_keys(keys: Sequence[Any]) -> None:
    """Keys are names and numbers: hashing what nests deeply ends the process."""
    for key in keys:
        if not isinstance(key, str | bytes | int | float | None):
            raise pickle.UnpicklingError(f"a dict has a {type(key).__name__} for a key")


# The array type itself is only ever passed to `_Hollow`, which ignores it: a plain token will do.
_ARRAY_TYPE = "numpy.ndarray"

ALLOWED: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("numpy", "ndarray"): _ARRAY_TYPE,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _ordered,
    # numpy 2 renamed numpy.core; files name whichever version wrote them
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Hollow for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array for core in ("core", "_core")},
}


class _Refused(Exception):
    """A name outside the allow-list."""


_BASE: Any = pickle._Unpickler  # its steps are known to no type checker


class _Memo(dict[int, Any]):
    """What the file may come back to: of an array, only when it has its data."""

    def __getitem__(self, index: int) -> Any:
        held = super().__getitem__(index)
        if type(held) is not _Hollow:
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
        if type(self.stack[-1]) is _Hollow:
            self.hollow += 1

    def load_build(self) -> None:
        """Give an array or a dtype its state: the one that numpy writes, and once."""
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) is _Hollow:
            made.array = self.stack[-1] = _filled(*state)
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
        _check_keys(self.stack[::2])
        _BASE.load_dict(self)

    def load_setitem(self) -> None:
        self._into(dict, self.stack[-3])
        _check_keys(self.stack[-2:-1])
        _BASE.load_setitem(self)

    def load_setitems(self) -> None:
        self._into(dict, self.metastack[-1][-1])
        _check_keys(self.stack[::2])
        _BASE.load_setitems(self)

    def load_binbytes(self) -> None:
        self._view(4)

    def load_binbytes8(self) -> None:
        self._view(8)

    load_bytearray8 = load_binbytes8

    def _view(self, digits: int) -> None:
        """Bytes of which an array may be made without a copy."""
        size, start = int.from_bytes(self.read(digits), "little"), self.file.tell()
        self.file.seek(size, os.SEEK_CUR)  # fails beyond the end
        held = self.view[start : start + size]
        self.append(held if size > SHORT else held.tobytes())

    def _into(self, kind: type, there: object) -> None:
        if not isinstance(there, kind):
            raise pickle.UnpicklingError(f"a {type(there).__name__} is filled like a {kind.__name__}")


def _filled(_version: int, shape: tuple[int, ...], dtype: np.dtype, fortran: bool, data: Any) -> np.ndarray:
    """The array of a state: of numbers or text a view of its data."""
    if not dtype.hasobject:
        data = data.encode("latin1") if isinstance(data, str) else data
        return _array(data, dtype, shape, "F" if fortran else "C")
    if not isinstance(data, list):
        raise pickle.UnpicklingError(f"an array of {dtype} has a {type(data).__name__} for data")
    # arrays of objects within each other, of any depth, are freed one within the other
    if any(isinstance(x, np.ndarray) and x.dtype.hasobject for x in data):
        raise pickle.UnpicklingError("arrays of objects hold arrays of objects")
    _check_shape(shape, dtype, len(data))
    made = np.ndarray((0,), "b")
    made.__setstate__((1, shape, dtype, False, data))
    return made


def _refuse(unpickler: _PlainUnpickler) -> None:
    unpickler.file.seek(-1, os.SEEK_CUR)
    raise pickle.UnpicklingError(f"{unpickler.read(1)!r} is no step that data needs")


_NAMES = (
    *("PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "GLOBAL", "STACK_GLOBAL"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "EMPTY_LIST", "LIST", "EMPTY_DICT", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
)
_GUARDED_NAMES = (
    *("FRAME", "REDUCE", "BUILD", "APPEND", "APPENDS", "DICT", "SETITEM", "SETITEMS"),
    *("BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_PLAIN = {getattr(pickle, name)[0]: _BASE.dispatch[getattr(pickle, name)[0]] for name in _NAMES}
_GUARDED = {getattr(pickle, name)[0]: getattr(_PlainUnpickler, f"load_{name.lower()}") for name in _GUARDED_NAMES}
DISPATCH = [(_PLAIN | _GUARDED).get(code, _refuse) for code in range(256)]  # what each code does


def load(path: str | Path) -> Any:
    """Unpickle a file that may hold numpy arrays and plain containers, and nothing else.

    Returns whatever the file holds: numbers of at most 64 bits, text, bytes, lists, tuples, dicts (of plain keys)
    and arrays of plain dtypes, at most `bounds.DEEPEST` within each other. Takes less memory than 128 MiB plus 30
    times the file's size; of a file of arrays, twice its size. Raises `InputError` if the file cannot be read, is
    not a pickle, is cut short, holds anything else, or names a callable outside the allow-list; the latter is
    refused before any of it runs.
    """
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
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
