"""Read files of arrays: pickled dicts, npz, HDF5 and npy, optionally gzipped, without executing code from them.

From npz and HDF5 files only the requested entries are read, and only if their declared sizes are plausible for the
size of the file: both formats compress, and a small file can declare any number of zeros.
"""

import gzip
import io
import math
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data import raw_files
from alerce_early.data.raw_files import GZIP
from alerce_early.data.readers import formats
from alerce_early.data.readers.packets.compression import open_gzip
from alerce_early.errors import InputError, one_line, require_extra

HDF5 = (".h5", ".hdf5")
KINDS = ("pickle", "npz", "hdf5")  # keys of the formats with named arrays
ENDS = (".pkl", ".pickle", ".pkl.gz", ".pickle.gz", ".npz", *HDF5)
TEXT_BATCH = 16  # texts read at once: each may be as long as the file


def load(path: str | Path, names: Collection[str]) -> Any:
    """Load the arrays of a file.

    The content determines the format; if it is ambiguous, the suffix does.

    Parameters
    ----------
    path : path
        A pickle, npz, npy or HDF5 file, optionally gzipped.
    names : collection of str
        Names of the entries to read, in lower case; in npz and HDF5 files all others are None.

    Returns
    -------
    dict or ndarray
        Arrays by name, nested as in the pickle or in the groups of HDF5; a single array for npy.

    Raises
    ------
    InputError
        If the file is missing or damaged, declares an implausible size, if a pickle has other objects than arrays and
        plain containers, or if an HDF5 file refers to data in other files.
    """
    path = Path(path)
    form, _ = formats.look(path)
    suffix = path.suffix.lower()
    named = {".npz": "npz", ".npy": "npy", **dict.fromkeys(HDF5, "hdf5")}.get(suffix, "pickle")
    key = form.key if form.reader == "arrays" else named
    if key == "pickle":
        if form.reader == "packets" and suffix not in (".pkl", ".pickle", ".gz"):
            seen = formats.look(path, describe=True)[1]
            raise InputError(f"{path}: is {seen}, not a file of arrays. Use data=alerts, or data=rubin for Rubin's.")
        return load_pickle(path)
    try:
        most = raw_files.most_bytes(path.stat().st_size)
        with path.open("rb") as raw, open_gzip(raw) if raw.peek(2)[:2] == GZIP else raw as opened:
            return _load(opened, key, names, most, path)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} cannot be read: no such file. Check the path.") from None
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise InputError(f"{path} is damaged: {one_line(error)}. Copy it again.") from None
        raise InputError(f"{path} has arrays of objects. Save stamps of several shapes as a pickled list.") from None
    except Exception as error:  # a damaged file can raise almost anything
        raise InputError(f"{path} is not a file of arrays ({key}), or is damaged: {one_line(error)}.") from None


def _load(file: Any, key: str, names: Collection[str], most: int, path: Path) -> Any:
    """Load an open npy, npz or HDF5 file whose entries declare at most `most` bytes."""
    if key == "npy":
        shape, _, dtype = formats.read_npy_header(file)
        _check_size([math.prod(shape) * dtype.itemsize], most, path)
        file.seek(0)
        plain = isinstance(file, io.BufferedReader)  # not gzipped: memory-mapped, rows are read on access
        return np.load(path if plain else file, mmap_mode="r" if plain else None, allow_pickle=False)
    if key == "npz":
        with np.load(file, allow_pickle=False) as archive:
            members = [(held.filename.removesuffix(".npy"), held.file_size) for held in archive.zip.infolist()]
            _check_distinct((name for name, _ in members), str(path))
            _check_size((size for name, size in members if name.lower() in names), most, path)
            return {name: archive[name] if name.lower() in names else None for name in archive.files}
    with require_extra(f"{path}", "hdf5"):
        import h5py
    with h5py.File(file, "r") as held:
        found = _find_datasets(held, names, path)
        parts = (part.values() if isinstance(part, dict) else [part] for part in found.values())
        _check_size((one.nbytes for part in parts for one in part if one is not None), most, path)
        return _to_arrays(found, most)


def find_entries(raw: Any, keys: Mapping[str, Sequence[str]], required: Collection[str], origin: str) -> dict[str, Any]:
    """Find the entries of a raw dict under any of their known names.

    Parameters
    ----------
    raw : mapping
        Content of a file; names are case-insensitive.
    keys : mapping of str to sequence of str
        Possible names in the file, in lower case, by entry.
    required : collection of str
        Entries that must be present.
    origin : str
        Name of the file in messages.

    Returns
    -------
    dict
        Values by entry, without missing ones and None.

    Raises
    ------
    InputError
        If `raw` is not a mapping, has a name twice, or lacks a required entry.
    """
    if not isinstance(raw, Mapping):
        raise InputError(f"{origin}: contains a {type(raw).__name__}. Give a dict of {', '.join(keys)}.")
    _check_distinct(raw, origin)
    held = {str(key).lower(): value for key, value in raw.items() if value is not None}
    found = {name: next((held[key] for key in seen if key in held), None) for name, seen in keys.items()}
    if absent := [name for name in required if found[name] is None]:
        there = ", ".join(str(name)[:20] for name in list(raw)[:9])
        raise InputError(f"{origin}: has no {', '.join(absent)}; it has {there}. Give a dict of {', '.join(keys)}.")
    return {name: entry for name, entry in found.items() if entry is not None}


def _check_distinct(names: Iterable[Any], origin: str) -> None:
    """Raise InputError if two names differ only in case."""
    counts = Counter(str(name).lower() for name in names)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise InputError(
            f"{origin}: has the entry {twice[0][:20]} twice (names are case-insensitive). Keep one of them."
        )


def _check_size(declared: Iterable[int], most: int, path: Path) -> None:
    """Raise InputError if the declared sizes add up to more than `most` bytes."""
    if (total := sum(declared)) > most:
        raise InputError(
            f"{path}: its entries declare {total >> 20:,} MiB, more than the {most >> 20:,} MiB allowed for its size. "
            "Write it without compression."
        )


def _find_datasets(group: Any, names: Collection[str], path: Path, inside: bool = False) -> dict[str, Any]:
    """Return the unread data sets of a group and its groups by name; None for all other names."""
    import h5py

    found: dict[str, Any] = {}
    for name in group:
        if name.lower() not in names:
            found[name] = None
            continue
        held = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
        if isinstance(held, h5py.Group) and not inside:
            found[name] = _find_datasets(held, names, path, inside=True)
        elif isinstance(held, h5py.Dataset) and not (held.external or held.is_virtual):
            found[name] = held
        else:  # a link could name any file that the user can read
            raise InputError(f"{path}: the data of {name} are in another file. Copy them into this one.")
    return found


def _to_arrays(held: Any, most: int) -> Any:
    """Read data sets as arrays, text as str; `most` limits the characters of variable-length text."""
    if held is None or isinstance(held, dict):
        return held and {name: _to_arrays(inner, most) for name, inner in held.items()}
    if held.dtype.kind not in "biufcSO" or (held.dtype.kind == "O" and held.ndim != 1):
        raise ValueError(f"{held.name} has neither numbers nor one text per row")
    if held.dtype.kind != "O":
        return held.asstr()[()] if held.dtype.kind == "S" else held[()]
    texts: list[str] = []
    for start in range(0, len(held), TEXT_BATCH):
        texts += held.asstr()[start : start + TEXT_BATCH].tolist()
        if (most := most - sum(map(len, texts[start:]))) < 0:
            raise ValueError(f"{held.name} repeats a long text")
    return np.array(texts, dtype=object)


PLAIN_DTYPE = re.compile(r"[?biufcSUO]\d{0,9}")  # numbers, text and objects; no structured types


class _RefusedError(Exception):
    """A name outside the allow-list."""


class _Dtype:
    """Stand-in for numpy's dtype that restores only its byte order."""

    def __init__(self, name: str, _align: object = False, _copy: object = True):
        if not PLAIN_DTYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"arrays of {name[:40]!r} are not supported, only of numbers and text")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """Array that accepts a stand-in for its dtype when unpickled."""

    def __new__(cls, _subtype: object, _shape: object, _typecode: object) -> "_Array":
        return super().__new__(cls, (0,), "b")

    def __setstate__(self, state: Any) -> None:
        version, shape, stand_in, fortran, data = state
        super().__setstate__((version, shape, stand_in.dtype, fortran, data))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(np.ndarray).__reduce_ex__(protocol)  # pickles as an ordinary array


def _scalar(stand_in: _Dtype, data: str | bytes) -> Any:
    """Stand-in for numpy's constructor of scalars."""
    return np.frombuffer(_bytes(data), stand_in.dtype, count=1)[0]  # raises for objects


def _frombuffer(data: Any, stand_in: _Dtype, shape: Any, order: str, *axes: Any) -> np.ndarray:
    """Stand-in for numpy's constructor of arrays in protocol 5."""
    made = np.frombuffer(_bytes(data), stand_in.dtype).reshape(shape, order="F" if order == "F" else "C")
    return made.transpose(*axes) if order == "K" else made


def _bytes(data: str | bytes | bytearray) -> bytes | bytearray:
    """Return the data of an array; reject a view of another array, which could be freed. Text is from Python 2."""
    if not isinstance(data, str | bytes | bytearray):
        raise pickle.UnpicklingError(f"the data of an array are a {type(data).__name__}")
    return data.encode("latin1") if isinstance(data, str) else data


ALLOWED: dict[tuple[str, str], Callable[..., Any] | str] = {
    ("numpy", "ndarray"): "numpy.ndarray",  # only passed to the stand-in for `_reconstruct`
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): str.encode,  # how protocols below 3 store bytes
    ("collections", "OrderedDict"): OrderedDict,
    # numpy 2 renamed numpy.core, and Python 3 __builtin__; files use the names of the version that wrote them
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (bytes, complex, set)},
}


class _Unpickler(pickle.Unpickler):
    """Unpickler restricted to the names in `ALLOWED`."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None


def load_pickle(path: str | Path) -> Any:
    """Unpickle a file, optionally gzipped, through an allow-list.

    Parameters
    ----------
    path : path
        A pickle of numbers, text, bytes, plain containers and arrays of plain dtypes.

    Returns
    -------
    object
        The content.

    Raises
    ------
    InputError
        If the file cannot be read, is not a pickle, is damaged, or names anything outside the allow-list, which is
        refused before it runs.
    """
    try:
        with open(path, "rb") as raw, gzip.open(raw) if raw.peek(2)[:2] == GZIP else raw as file:
            # latin1 decodes arrays written by Python 2, and does not affect files of Python 3
            found = _Unpickler(file, encoding="latin1").load()
            while file.read(1 << 20):  # to the end, where gzip has its checksum
                pass
            return found
    except _RefusedError as error:
        if str(error).startswith("pandas."):
            raise InputError(
                f"{path} contains a pandas table, which only pandas can load, executing its code. If you trust the "
                "file, write arrays: import pandas; raw = pandas.read_pickle(FILE); raw['metadata'] = "
                "raw['metadata'].to_numpy(); pandas.to_pickle(raw, NEW_FILE)."
            ) from None
        raise InputError(
            f"{path} names {str(error)[:80]!r}, which is not allowed in a file of arrays. Refused before any code ran; "
            "write the data as numpy arrays, lists and dicts."
        ) from None
    except gzip.BadGzipFile as error:  # an OSError without a number
        raise InputError(f"{path} is damaged: {one_line(error)}. Copy it again.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Check the path.") from None
    except Exception as error:  # a damaged stream can raise almost anything
        raise InputError(f"{path} is not a pickle, or is damaged: {one_line(error)}.") from None
