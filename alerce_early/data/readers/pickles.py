"""Reading pickles without trusting them: the standard library's unpickler, let loose on a few names alone.

A pickle is a program that may name any callable of any installed module and have it called. Files of stamps need
numpy arrays and plain containers. Numpy's own array and dtype would do for the honest ones; but a dtype takes its
state from the file, and one that claims to need no care of objects makes pointers of an array's bytes. So the two
have stand-ins here, which take from the file what a type of numbers or text can be.
"""

import gzip
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data.readers.raw_files import GZIP
from alerce_early.errors import InputError, one_line

DTYPE = re.compile(r"[?biufcSUO]\d{0,9}")  # numbers, text and objects; nothing structured


class _RefusedError(Exception):
    """A name outside the allow-list."""


class _Dtype:
    """Stand-in for numpy's dtype, of whose state the byte order alone counts."""

    def __init__(self, name: str, _align: object = False, _copy: object = True):
        if not DTYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"arrays of {name[:40]!r} are not read, only of numbers and text")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array that takes a stand-in for its dtype."""

    def __new__(cls, _subtype: object, _shape: object, _typecode: object) -> "_Array":
        return super().__new__(cls, (0,), "b")

    def __setstate__(self, state: Any) -> None:
        version, shape, stand_in, fortran, data = state
        super().__setstate__((version, shape, stand_in.dtype, fortran, data))  # type: ignore[arg-type]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(np.ndarray).__reduce_ex__(protocol)  # whoever pickles it again has an ordinary array


def _scalar(stand_in: _Dtype, data: str | bytes) -> Any:
    return np.frombuffer(_bytes(data), stand_in.dtype, count=1)[0]  # which refuses objects


def _frombuffer(data: Any, stand_in: _Dtype, shape: Any, order: str, *axes: Any) -> np.ndarray:
    made = np.frombuffer(_bytes(data), stand_in.dtype).reshape(shape, order="F" if order == "F" else "C")
    return made.transpose(*axes) if order == "K" else made


def _bytes(data: str | bytes | bytearray) -> bytes | bytearray:
    """Return what arrays are made of: not of the memory of another array, which may be freed; text is Python 2's."""
    if not isinstance(data, str | bytes | bytearray):
        raise pickle.UnpicklingError(f"a {type(data).__name__} is given for the data of an array")
    return data.encode("latin1") if isinstance(data, str) else data


ALLOWED: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("numpy", "ndarray"): "numpy.ndarray",  # only ever passed to the stand-in for `_reconstruct`
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): str.encode,  # protocols below 3 store bytes so
    ("collections", "OrderedDict"): OrderedDict,
    # numpy 2 renamed numpy.core, and Python 3 __builtin__; files name whichever version wrote them
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (bytes, complex, set)},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None


def load(path: str | Path) -> Any:
    """Unpickle a file that may hold numbers, text, bytes, containers and arrays of plain dtypes, and nothing else.

    Raises `InputError` if the file cannot be read, is not a pickle, is damaged, or names a callable outside the
    allow-list; the latter is refused before any of it runs.
    """
    try:
        with open(path, "rb") as raw, gzip.open(raw) if raw.peek(2)[:2] == GZIP else raw as file:
            # latin1 is how numpy arrays written by Python 2 are read; it changes nothing for Python 3 files
            found = _Unpickler(file, encoding="latin1").load()
            while file.read(1 << 20):  # gzip has its checksum at the end
                pass
            return found
    except _RefusedError as error:
        if str(error).startswith("pandas."):
            raise InputError(
                f"{path} holds a pandas table, which only pandas opens, and that runs what is in it. If you trust it, "
                "write arrays: import pandas; raw = pandas.read_pickle(FILE); raw['metadata'] = "
                "raw['metadata'].to_numpy(); pandas.to_pickle(raw, NEW_FILE)."
            ) from None
        raise InputError(
            f"{path} names {str(error)[:80]!r}, which a file of arrays has no use for. Refused before any of it ran; "
            "write the data as numpy arrays, lists and dicts."
        ) from None
    except gzip.BadGzipFile as error:  # an OSError without a number
        raise InputError(f"{path} is damaged: {one_line(error)}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # a damaged stream may raise nearly anything
        raise InputError(f"{path} is not a pickle, or is damaged: {one_line(error)}") from None
