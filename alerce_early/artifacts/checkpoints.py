"""Checkpoints from anyone: read whole or not at all, without running anything of theirs, and made a task again.

A checkpoint holds `format`, the name of its `task` class, `hyper_parameters` (plain: net, spec with the recipe,
...), `state_dict` and, of a finished run, `calibration`, `conformal` and `trained_on`, the hashes of the objects that
trained or chose the network (see `text.hash_objects`; files from before they were kept have none). `FORMAT` is raised
when a change makes others unreadable.
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

FORMAT = 1  # of checkpoints; raised when a change makes others unreadable
Checkpoint = dict[str, Any]

# What a checkpoint of tensors and plain values names. Torch's own list also has callables that take memory at will.
ALLOWED = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
STORAGES = {f"torch {name}Storage" for name in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool")}
LEAST_SHARE = 0.1  # of a task's parameters, that a run which starts from a checkpoint must get from it


def read(path: str | Path) -> Checkpoint:
    """Read what a checkpoint holds; tensors on the CPU, mapped from the file and not copied.

    Raises `InputError` for what is not there, damaged, no checkpoint of ours, or of another format.
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
        raise InputError(f"{path} is no checkpoint, or is damaged: {one_line(error)}.") from None
    _check_format(found, path)
    return found


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint; a reader, also after a kill in the middle, finds the new one or the one before."""
    content = io.BytesIO()  # torch's own writer dies without a clear error on a full disk
    torch.save(checkpoint, content)
    files.write_bytes(path, content.getbuffer())


def add(path: Path, values: Checkpoint) -> None:
    """Put plain values beside what a checkpoint holds; a reader sees the whole file before or after."""
    save(read(path) | values, path)


def _check_container(path: Path) -> None:
    """Refuse an archive that grows when unpacked, a part whose checksum is not that of its bytes, which torch does
    not look at, and pickled names that tensors and plain values do not need."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError(f"{path} is no checkpoint: its archive is compressed.")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise InputError(f"{path} is no checkpoint: parts of its archive overlap.")
        if damaged := archive.testzip():
            raise InputError(f"{path} is damaged: the checksum of {damaged} is not that of its bytes.")
        (pickled,) = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        named = {str(arg) for op, arg, _ in pickletools.genops(archive.read(pickled)) if "GLOBAL" in op.name}
    if strange := named - ALLOWED - STORAGES:
        raise InputError(
            f"{path} names {sorted(strange)[0].replace(' ', '.')!r}, which a checkpoint has no use for. "
            "Refused before any of it ran."
        )


def _check_format(found: Any, path: Path) -> None:
    if not isinstance(found, dict) or not {"hyper_parameters", "state_dict"} <= set(found):
        raise InputError(f"{path} is no checkpoint of alerce_early: it has no net with its weights.")
    if found.get("format") != FORMAT:
        raise InputError(f"{path} has format {str(found.get('format'))[:20]}; this version reads format {FORMAT}.")
    if "task" not in found:
        raise InputError(f"{path} is damaged: it names no task.")
