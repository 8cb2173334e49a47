"""Files of arrays by name: pickled dicts, also gzipped, npz and HDF5. Nothing in them runs.

Of an npz or HDF5 file only the entries that a reader asks for are read, and only if the sizes that the file declares
fit its own: both compress, and a small file may declare any amount of zeros.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data.readers import pickles, raw_files
from alerce_early.errors import InputError, one_line, require_extra

HDF5 = (".h5", ".hdf5")
ENDS = (".pkl", ".pickle", ".pkl.gz", ".pickle.gz", ".npz", *HDF5)
N_TEXTS = 16  # texts of any length read at once: each may be as long as the file


def load(path: str | Path, wanted: Collection[str]) -> Any:
    """Return what a file holds: arrays by name, nested where a pickle or the groups of HDF5 are.

    wanted: names of the entries to read, in lower case; of npz and HDF5 all others are None.
    Raises InputError if it cannot be read, is damaged, declares much more than its size, if a pickle names more than
    arrays and plain containers, or if data of an HDF5 file are not in the file itself.
    """
    path = Path(path)
    if path.suffix not in (".npz", *HDF5):
        return pickles.load(path)
    try:
        most = raw_files.FREE + raw_files.GROWTH * path.stat().st_size
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                members = [(held.filename.removesuffix(".npy"), held.file_size) for held in archive.zip.infolist()]
                _check_distinct((name for name, _ in members), str(path))
                _check_size((size for name, size in members if name.lower() in wanted), most, path)
                return {name: archive[name] if name.lower() in wanted else None for name in archive.files}
        with require_extra(f"{path}", "hdf5"):
            import h5py
        with h5py.File(path, "r") as file:
            found = _find(file, wanted, path)
            parts = (part.values() if isinstance(part, dict) else [part] for part in found.values())
            _check_size((held.nbytes for part in parts for held in part if held is not None), most, path)
            return _plain(found, most)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} cannot be read: no such file.") from None
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise InputError(f"{path} is damaged: {one_line(error)}.") from None
        raise InputError(f"{path} has arrays of objects; stamps of several shapes go into a pickled list.") from None
    except Exception as error:  # a damaged file may raise nearly anything
        raise InputError(f"{path} is no {path.suffix} file of arrays, or is damaged: {one_line(error)}.") from None


def lower_names(raw: Mapping[Any, Any], origin: str) -> dict[str, Any]:
    """Return entries by their names in lower case; raises InputError for two of the same name."""
    _check_distinct(raw, origin)
    return {str(key).lower(): value for key, value in raw.items()}


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
