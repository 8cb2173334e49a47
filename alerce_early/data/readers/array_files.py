"""Files of arrays: pickled dicts, npz and HDF5 of arrays by name, and npy of one, also gzipped. Nothing in them runs.

Of an npz or HDF5 file only the entries that a reader asks for are read, and only if the sizes that the file declares
fit its own: both compress, and a small file may declare any amount of zeros.
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
from alerce_early.data.readers.packets.compression import unzipped
from alerce_early.errors import InputError, one_line, require_extra

HDF5 = (".h5", ".hdf5")
KINDS = ("pickle", "npz", "hdf5")  # keys of the formats of arrays by name
ENDS = (".pkl", ".pickle", ".pkl.gz", ".pickle.gz", ".npz", *HDF5)
N_TEXTS = 16  # texts of any length read at once: each may be as long as the file


def load(path: str | Path, wanted: Collection[str]) -> Any:
    """Return the arrays of a file by name, nested where a pickle or the groups of HDF5 are; one array of npy.

    The content decides on the format, or else the ending of the name.

    wanted: names of the entries to read, in lower case; of npz and HDF5 all others are None.
    Raises InputError if it cannot be read, is damaged, declares much more than its size, if a pickle names more than
    arrays and plain containers, or if data of an HDF5 file are not in the file itself.
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
        with path.open("rb") as raw, unzipped(raw) if raw.peek(2)[:2] == GZIP else raw as opened:
            return _load(opened, key, wanted, most, path)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} cannot be read: no such file.") from None
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise InputError(f"{path} is damaged: {one_line(error)}.") from None
        raise InputError(f"{path} has arrays of objects; stamps of several shapes go into a pickled list.") from None
    except Exception as error:  # a damaged file may raise nearly anything
        raise InputError(f"{path} is no {key} file of arrays, or is damaged: {one_line(error)}.") from None


def _load(file: Any, key: str, wanted: Collection[str], most: int, path: Path) -> Any:
    if key == "npy":
        shape, _, dtype = formats.read_npy_header(file)
        _check_size([math.prod(shape) * dtype.itemsize], most, path)
        file.seek(0)
        plain = isinstance(file, io.BufferedReader)  # and not gzipped: rows are read when they are wanted
        return np.load(path if plain else file, mmap_mode="r" if plain else None, allow_pickle=False)
    if key == "npz":
        with np.load(file, allow_pickle=False) as archive:
            members = [(held.filename.removesuffix(".npy"), held.file_size) for held in archive.zip.infolist()]
            _check_distinct((name for name, _ in members), str(path))
            _check_size((size for name, size in members if name.lower() in wanted), most, path)
            return {name: archive[name] if name.lower() in wanted else None for name in archive.files}
    with require_extra(f"{path}", "hdf5"):
        import h5py
    with h5py.File(file, "r") as held:
        found = _find(held, wanted, path)
        parts = (part.values() if isinstance(part, dict) else [part] for part in found.values())
        _check_size((one.nbytes for part in parts for one in part if one is not None), most, path)
        return _plain(found, most)


def find_entries(raw: Any, keys: Mapping[str, Sequence[str]], required: Collection[str], origin: str) -> dict[str, Any]:
    """Return what a file holds by the names that a reader has for it, without what is None.

    keys: by each of these names those in the file, in lower case. Raises InputError for what is no dict, for two
    entries of one name, and if one of the required is not there.
    """
    if not isinstance(raw, Mapping):
        raise InputError(f"{origin}: holds a {type(raw).__name__}. Give a dict of {', '.join(keys)}.")
    _check_distinct(raw, origin)
    held = {str(key).lower(): value for key, value in raw.items() if value is not None}
    found = {name: next((held[key] for key in seen if key in held), None) for name, seen in keys.items()}
    if absent := [name for name in required if found[name] is None]:
        there = ", ".join(str(name)[:20] for name in list(raw)[:9])
        raise InputError(f"{origin}: has no {', '.join(absent)}; it has {there}. Give a dict of {', '.join(keys)}.")
    return {name: entry for name, entry in found.items() if entry is not None}


def _check_distinct(names: Iterable[Any], origin: str) -> None:
    counts = Counter(str(name).lower() for name in names)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise InputError(f"{origin}: has the entry {twice[0][:20]} twice, whatever its capitals. Keep one of them.")


def _check_size(declared: Iterable[int], most: int, path: Path) -> None:
    if (total := sum(declared)) > most:
        raise InputError(
            f"{path}: its entries declare {total >> 20:,} MiB, more than a file of its size may hold "
            f"({most >> 20:,} MiB). Write it without compression."
        )


def _find(group: Any, wanted: Collection[str], path: Path, inside: bool = False) -> dict[str, Any]:
    """Return the data sets of a group by name, unread, and of the groups in it; None for what is not wanted."""
    import h5py

    found: dict[str, Any] = {}
    for name in group:
        if name.lower() not in wanted:
            found[name] = None
            continue
        held = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
        if isinstance(held, h5py.Group) and not inside:
            found[name] = _find(held, wanted, path, inside=True)
        elif isinstance(held, h5py.Dataset) and not (held.external or held.is_virtual):
            found[name] = held
        else:  # what it names may be any file of whoever reads it
            raise InputError(f"{path}: the data of {name} are not in the file itself. Copy them into it.")
    return found


def _plain(held: Any, most: int) -> Any:
    """Return data sets as arrays, of text as str; most: characters of text whose length is not declared."""
    if held is None or isinstance(held, dict):
        return held and {name: _plain(inner, most) for name, inner in held.items()}
    if held.dtype.kind not in "biufcSO" or (held.dtype.kind == "O" and held.ndim != 1):
        raise ValueError(f"{held.name} holds neither numbers nor one text per row")
    if held.dtype.kind != "O":
        return held.asstr()[()] if held.dtype.kind == "S" else held[()]
    texts: list[str] = []
    for start in range(0, len(held), N_TEXTS):
        texts += held.asstr()[start : start + N_TEXTS].tolist()
        if (most := most - sum(map(len, texts[start:]))) < 0:
            raise ValueError(f"{held.name} repeats a long text")
    return np.array(texts, dtype=object)


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


def load_pickle(path: str | Path) -> Any:
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
