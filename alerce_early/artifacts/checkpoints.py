"""Safe reading and atomic writing of checkpoints.

A checkpoint contains `format`, the name of its `task` class, `hyper_parameters` as plain values (network, spec with
the recipe, ...) and `state_dict`. A finished run adds `calibration`, `conformal`, `operating_points`
(of `thresholds.fit_percents`) and `trained_on`, the hashes of the objects used in training or model selection (see
`text.hash_objects`); old files lack some of these. `alerce_early.tasks.restore` rebuilds the task.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch

from alerce_early import files
from alerce_early.errors import InputError, one_line

FORMAT = 1  # incremented by a change that makes older checkpoints unreadable
Checkpoint = dict[str, Any]

# The names in a checkpoint of tensors and plain values. Torch's own list includes callables that allocate memory.
ALLOWED_NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
STORAGES = {f"torch {name}Storage" for name in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool")}
LEAST_SHARE = 0.1  # of a network's parameters that init_from must provide


def read(path: str | Path) -> Checkpoint:
    """Read a checkpoint without running any code in it.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    dict
        Its content, with tensors on the CPU, memory-mapped from the file.

    Raises
    ------
    InputError
        If the file is missing or damaged, is not a checkpoint of this package, or has an unsupported format.
    """
    path = Path(path)
    try:
        _check_container(path)
        found = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    except Exception as error:  # a damaged file may raise nearly anything
        raise InputError(f"{path} is damaged or not a checkpoint: {one_line(error)}.") from None
    _check_format(found, path)
    return found


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint atomically: a reader finds the old or the new file, even after a kill."""
    content = io.BytesIO()  # torch's own writer fails without a clear error on a full disk
    torch.save(checkpoint, content)
    files.write_bytes(path, content.getbuffer())


def add(path: Path, values: Checkpoint) -> None:
    """Add plain values to a checkpoint, atomically."""
    save(read(path) | values, path)


def _check_container(path: Path) -> None:
    """Refuse compressed or overlapping parts, wrong checksums (torch ignores them) and unexpected pickled names."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError(f"{path} is not a checkpoint: its archive is compressed.")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise InputError(f"{path} is not a checkpoint: parts of its archive overlap.")
        if damaged := archive.testzip():
            raise InputError(f"{path} is damaged: the checksum of {damaged} is wrong.")
        (pickled,) = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        named = {str(arg) for op, arg, _ in pickletools.genops(archive.read(pickled)) if "GLOBAL" in op.name}
    if unexpected := named - ALLOWED_NAMES - STORAGES:
        raise InputError(
            f"{path} refers to {sorted(unexpected)[0].replace(' ', '.')!r}, which no checkpoint needs. "
            "It was refused before any code ran."
        )


def _check_format(found: Any, path: Path) -> None:
    if not isinstance(found, dict) or not {"hyper_parameters", "state_dict"} <= set(found):
        raise InputError(f"{path} is not a checkpoint of alerce_early: it has no network config or no weights.")
    if found.get("format") != FORMAT:
        raise InputError(f"{path} has format {str(found.get('format'))[:20]}; this version reads format {FORMAT}.")
    if "task" not in found:
        raise InputError(f"{path} is damaged: it does not name its task.")
