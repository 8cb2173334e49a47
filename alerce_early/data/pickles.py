"""Reading pickles without trusting them.

A pickle is a program: it may name any callable of any installed module and have it called. Files of stamps
need numpy arrays and plain containers, so those few names are allowed, and none of them is the callable the
file asks for where a harmless stand-in does.
"""

import codecs
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.errors import InputError


def _empty_array(_subtype: object, shape: tuple[int, ...], _typecode: object) -> np.ndarray:
    """Stand-in for numpy's `_reconstruct`: the state that follows sets the real shape and dtype.

    Numpy always asks for shape (0,) here; anything else is an attempt to allocate memory.
    """
    if shape != (0,):
        raise pickle.UnpicklingError(f"an array of shape {shape} is asked for before its data")
    return np.ndarray((0,), dtype="b")


def _scalar(dtype: np.dtype, data: bytes | None = None) -> Any:
    """Stand-in for numpy's `scalar`: one number of a fixed-size dtype from its bytes."""
    if dtype.hasobject or data is None:
        raise pickle.UnpicklingError(f"a numpy scalar of dtype {dtype} is not a number")
    return np.frombuffer(data, dtype=dtype, count=1)[0]


def _from_buffer(buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """Stand-in for numpy's `_frombuffer`, which pickle protocol 5 names for contiguous arrays."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stand-in for `_codecs.encode`, through which protocol 2 stores bytes."""
    return codecs.encode(text, "latin1") if encoding == "latin1" else text.encode("utf-8")


# The array type itself is only ever passed to `_empty_array`, which ignores it: a plain token will do.
_ARRAY_TYPE = "numpy.ndarray"

ALLOWED: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("numpy", "ndarray"): _ARRAY_TYPE,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    # numpy 2 renamed numpy.core; files name whichever version wrote them
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _Refused(Exception):
    """A name outside the allow-list."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def load(path: str | Path) -> Any:
    """Unpickle a file that may hold numpy arrays and plain containers, and nothing else.

    Returns whatever the file holds. Raises `InputError` if the file cannot be read, is not a pickle, is cut
    short, or names a callable outside the allow-list; the latter is refused before any of it runs.
    """
    try:
        with open(path, "rb") as file:
            # latin1 is how numpy arrays written by Python 2 are read; it changes nothing for Python 3 files
            return _PlainUnpickler(file, encoding="latin1").load()
    except _Refused as error:
        raise InputError(
            f"{path} names {error}, which a file of arrays has no use for. Refused before any of it ran; "
            "write the data as numpy arrays, lists and dicts."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # a damaged stream may raise nearly anything
        raise InputError(f"{path} is not a pickle, or is damaged: {error or type(error).__name__}") from None
