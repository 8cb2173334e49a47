"""Files of arrays by name: pickled dicts, also gzipped, npz and HDF5. Nothing in them runs."""

from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data.readers import pickles
from alerce_early.errors import InputError, one_line, require_extra

HDF5 = (".h5", ".hdf5")
ENDS = (".pkl", ".pickle", ".pkl.gz", ".pickle.gz", ".npz", *HDF5)


def load(path: str | Path) -> Any:
    """Return what a file holds: arrays by name, nested where a pickle or the groups of HDF5 are.

    Raises InputError if it cannot be read, is damaged, or a pickle names more than arrays and plain containers.
    """
    path = Path(path)
    if path.suffix not in (".npz", *HDF5):
        return pickles.load(path)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        with require_extra(f"{path}", "hdf5"):
            import h5py
        with h5py.File(path, "r") as file:
            return _plain(file)
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


def _plain(held: Any) -> Any:
    """Return a group as a dict, and a data set as an array, of text as str."""
    if hasattr(held, "items"):
        return {name: _plain(inner) for name, inner in held.items()}
    return held.asstr()[()] if held.dtype.kind in "OS" else held[()]
