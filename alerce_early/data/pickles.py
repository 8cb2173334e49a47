"""Reading pickles without trusting them.

A pickle is a program: it may name any callable of any installed module and have it called, and it may ask for
memory it never fills. Files of stamps need numpy arrays and plain containers, so those few steps and names are
allowed, and none of them is the callable the file asks for where a harmless stand-in does. The steps are those of
the standard library's unpickler in Python: the one in C takes gigabytes for a memo of one entry.
"""

import codecs
import io
import math
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
DTYPE = re.compile(r"[?biufcSUO]\d{0,9}")  # numbers, text and objects; nothing structured


def _empty_array(_subtype: object, shape: tuple[int, ...], _typecode: object) -> np.ndarray:
    """Stand-in for numpy's `_reconstruct`: the state that follows sets the real shape and dtype.

    Numpy always asks for shape (0,) here; anything else is an attempt to allocate memory.
    """
    if shape != (0,):
        raise pickle.UnpicklingError(f"an array of shape {shape} is asked for before its data")
    return np.ndarray((0,), dtype="b")


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


def _from_buffer(buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """Stand-in for numpy's `_frombuffer`, which pickle protocol 5 names for contiguous arrays."""
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
    sides = all(isinstance(side, int) and side >= 0 for side in shape)
    if not sides or math.prod(shape) != values or (values and not dtype.itemsize):
        raise pickle.UnpicklingError(f"an array of shape {str(shape)[:60]} does not have {values:,} values of {dtype}")


def _check_keys(keys: Sequence[Any]) -> None:
    """Keys are names and numbers: hashing what nests deeply ends the process."""
    for key in keys:
        if not isinstance(key, str | bytes | int | float | None):
            raise pickle.UnpicklingError(f"a dict has a {type(key).__name__} for a key")


# The array type itself is only ever passed to `_empty_array`, which ignores it: a plain token will do.
_ARRAY_TYPE = "numpy.ndarray"

ALLOWED: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("numpy", "ndarray"): _ARRAY_TYPE,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _ordered,
    # numpy 2 renamed numpy.core; files name whichever version wrote them
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _Refused(Exception):
    """A name outside the allow-list."""


class _Bounded(io.BufferedReader):
    """A file from which no more is asked for than it has."""

    def __init__(self, path: str | Path):
        super().__init__(io.FileIO(path))
        self.size = self.seek(0, io.SEEK_END)
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > self.size:
            raise EOFError("it is cut short")
        return super().read(size)


_BASE: Any = pickle._Unpickler  # its steps are known to no type checker


class _Steps(dict[int, Callable[[Any], None]]):
    """What the codes of a pickle do, as often as a file of this size may."""

    def __init__(self, steps: dict[int, Callable[[Any], None]], size: int):
        super().__init__(steps)
        self.left = STEPS + size // BYTES_A_STEP

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError("it has more steps than data")
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise pickle.UnpicklingError(f"{bytes([code])!r} is no step that data needs")


class _PlainUnpickler(_BASE):
    """Makes numbers, text, lists, tuples, dicts and arrays; the other steps of a pickle are refused."""

    def __init__(self, file: _Bounded):
        # latin1 is how numpy arrays written by Python 2 are read; it changes nothing for Python 3 files
        super().__init__(file, encoding="latin1")
        self.dispatch = _Steps(PLAIN | GUARDED, file.size)
        self.hollow: dict[int, np.ndarray] = {}  # arrays whose state has not come yet

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def load_reduce(self) -> None:
        _BASE.load_reduce(self)
        if isinstance(self.stack[-1], np.ndarray) and self.stack[-1].base is None:  # not of a buffer
            self.hollow[id(self.stack[-1])] = self.stack[-1]

    def load_build(self) -> None:
        """Give an array or a dtype its state: the one that numpy writes, and once."""
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, np.dtype):
            version, order, *rest = state
            if version != 3 or order not in ("<", ">", "|", "=") or tuple(rest) != made.__reduce__()[2][2:]:
                raise pickle.UnpicklingError(f"a dtype {made} has the state of another")
            made.__setstate__(state)  # type: ignore[attr-defined]
            return
        if self.hollow.pop(id(made), None) is None:
            raise pickle.UnpicklingError(f"a {type(made).__name__} has a state")
        _version, shape, dtype, _fortran, data = state
        if dtype.hasobject != isinstance(data, list):
            raise pickle.UnpicklingError(f"an array of {dtype} has a {type(data).__name__} for data")
        # arrays of objects within each other, of any depth, are freed one within the other
        if isinstance(data, list) and any(
            isinstance(x, np.ndarray) and (x.dtype.hasobject or id(x) in self.hollow) for x in data
        ):
            raise pickle.UnpicklingError("arrays of objects hold arrays of objects")
        _check_shape(shape, dtype, len(data) if dtype.hasobject else len(data) // max(dtype.itemsize, 1))
        made.__setstate__(state)

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

    def load_bytearray8(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def _into(self, kind: type, there: object) -> None:
        if not isinstance(there, kind):
            raise pickle.UnpicklingError(f"a {type(there).__name__} is filled like a {kind.__name__}")


_NAMES = (
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "GLOBAL", "STACK_GLOBAL"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "EMPTY_LIST", "LIST", "EMPTY_DICT"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
)
_GUARDED_NAMES = ("REDUCE", "BUILD", "APPEND", "APPENDS", "DICT", "SETITEM", "SETITEMS", "BYTEARRAY8")
PLAIN = {getattr(pickle, name)[0]: _BASE.dispatch[getattr(pickle, name)[0]] for name in _NAMES}
GUARDED = {getattr(pickle, name)[0]: getattr(_PlainUnpickler, f"load_{name.lower()}") for name in _GUARDED_NAMES}


def load(path: str | Path) -> Any:
    """Unpickle a file that may hold numpy arrays and plain containers, and nothing else.

    Returns whatever the file holds: numbers of at most 64 bits, text, bytes, lists, tuples, dicts (of plain keys)
    and arrays of plain dtypes, at most `bounds.DEEPEST` within each other. Takes less memory than 128 MiB plus 30
    times the file's size; of a file of arrays, twice its size. Raises `InputError` if the file cannot be read, is
    not a pickle, is cut short, holds anything else, or names a callable outside the allow-list; the latter is
    refused before any of it runs.
    """
    try:
        with _Bounded(path) as file:
            held = _PlainUnpickler(file).load()
            bounds.check(held, file.size)
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
