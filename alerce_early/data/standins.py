"""What the names in a pickle of arrays stand for: the few that are allowed, and something harmless for each.

Numpy's own functions would take whatever they are given; these make what the data are enough for.
"""

import codecs
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

DTYPE = re.compile(r"[?biufcSUO]\d{0,9}")  # numbers, text and objects; nothing structured


class Hollow:
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


def _scalar(dtype: np.dtype, data: Any = None) -> Any:
    """Stand-in for numpy's `scalar`: one number of a fixed-size dtype from its bytes."""
    return np.frombuffer(_bytes(data), dtype=dtype, count=1)[0]  # which refuses objects


def _array(data: Any, dtype: np.dtype, shape: tuple[int, ...], order: str, axes: Any = None) -> np.ndarray:
    """A view of the data, read-only; stand-in for numpy's `_frombuffer`, which pickle protocol 5 names."""
    data = _bytes(data)
    _check_shape(shape, dtype, len(data) // max(dtype.itemsize, 1))
    made = np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")
    return made.transpose(axes) if order == "K" else made


def filled(version: int, shape: tuple[int, ...], dtype: np.dtype, fortran: bool, data: Any) -> np.ndarray:
    """The array of which numpy wrote this state; of numbers or text it is a view of the data."""
    if version != 1:
        raise pickle.UnpicklingError(f"an array has a state of version {str(version)[:20]}")
    if not dtype.hasobject:
        return _array(data, dtype, shape, "CF"[fortran])
    if not isinstance(data, list):
        raise pickle.UnpicklingError(f"an array of {dtype} has a {type(data).__name__} for data")
    # arrays of objects within each other, of any depth, are freed one within the other
    if any(isinstance(x, np.ndarray) and x.dtype.hasobject for x in data):
        raise pickle.UnpicklingError("arrays of objects hold arrays of objects")
    _check_shape(shape, dtype, len(data))
    made = np.ndarray((0,), dtype="b")
    made.__setstate__((version, shape, dtype, False, data))  # type: ignore[arg-type]
    return made


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stand-in for `_codecs.encode`, through which protocol 2 stores bytes."""
    return codecs.encode(text, "latin1") if encoding == "latin1" else text.encode("utf-8")


def _ordered(pairs: Sequence[tuple[Any, Any]] = ()) -> OrderedDict[Any, Any]:
    check_keys([key for key, _ in pairs])
    return OrderedDict(pairs)


def _bytes(data: Any) -> bytes | memoryview:
    """What arrays are made of; text is how Python 2 stored it."""
    if not isinstance(data, str | bytes | memoryview):
        raise pickle.UnpicklingError(f"a {type(data).__name__} is given for the data of an array")
    return data.encode("latin1") if isinstance(data, str) else data


def _check_shape(shape: tuple[int, ...], dtype: np.dtype, values: int) -> None:
    """An array has as many values as its data holds."""
    sides = isinstance(shape, tuple) and {*map(type, shape)} <= {int} and min(shape, default=0) >= 0
    if not sides or math.prod(shape) != values or (values and not dtype.itemsize):
        raise pickle.UnpicklingError(f"an array of shape {str(shape)[:60]} does not have {values:,} values of {dtype}")


def check_keys(keys: Sequence[Any]) -> None:
    """Keys are names and numbers: hashing what nests deeply ends the process."""
    for key in keys:
        if not isinstance(key, str | bytes | int | float | None):
            raise pickle.UnpicklingError(f"a dict has a {type(key).__name__} for a key")


# The array type itself is only ever passed to `Hollow`, which ignores it: a plain token will do.
_ARRAY_TYPE = "numpy.ndarray"

ALLOWED: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("numpy", "ndarray"): _ARRAY_TYPE,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _ordered,
    # numpy 2 renamed numpy.core; files name whichever version wrote them
    **{(f"numpy.{core}.multiarray", "_reconstruct"): Hollow for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array for core in ("core", "_core")},
}
