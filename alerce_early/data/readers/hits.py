"""The files of the HiTS course: 21 x 21 stamps of real transients and of artefacts.

A pickled dict of `temp_images`, `sci_images`, `diff_images`, `SNR_images`, each (N, 441), with `labels` (1 real,
0 artefact; absent or None in a blind test file) and `ID`, in any capitalisation.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data import text
from alerce_early.data.readers import array_files
from alerce_early.data.records import (
    UNLABELLED,
    Records,
    join,
    number_rows,
    to_label_numbers,
    to_numbers,
    with_extra,
)
from alerce_early.errors import InputError

CLASSES = ("artefact", "real")
CHANNELS = ("temp", "sci", "diff", "SNR")  # the order of Deep-HiTS (Cabrera-Vives et al. 2017)
ENTRIES = {*(f"{channel}_images".lower() for channel in CHANNELS), "labels", "id"}  # all that is read of a file


def read(
    path: str | Path | None,
    test_path: str | Path | None = None,
    channels: Sequence[str] = CHANNELS,
    extra_path: str | Path | None = None,
) -> Records:
    """Read a training file and, where there is one, the test file that goes with it.

    extra_path: another file of the format, for training only. channels: which images to stack and in which
    order. Raises `InputError` if a file is not there, not a pickle of the format, or lacks an entry.
    """
    if path is None:
        raise InputError("data=hits needs the training file: data.path=FILE; or try data=hits_simulated.")
    files = {"train": path, **({"test": test_path} if test_path else {})}
    parts = {
        name: from_raw(array_files.load(file, ENTRIES), f"file {Path(file).name}", channels)
        for name, file in files.items()
    }
    records = join(parts) if test_path else parts["train"]
    return with_extra(records, read(extra_path, channels=channels)) if extra_path else records


def from_raw(raw: Any, origin: str, channels: Sequence[str] = CHANNELS) -> Records:
    """Turn the raw dict of one file into records; the errors are those of `read`."""
    if not isinstance(raw, Mapping):
        raise InputError(f"{origin}: holds a {type(raw).__name__}; wanted a dict of {', '.join(map(_key, CHANNELS))}.")
    unknown = [name for name in channels if name not in CHANNELS]
    if unknown or not channels:
        raise InputError(f"data.channels={list(channels)}: wanted some of {', '.join(CHANNELS)}.")
    entries = array_files.lower_names(raw, origin)
    absent = [_key(name) for name in channels if _key(name).lower() not in entries]
    if absent:
        raise InputError(
            f"{origin}: has no {', '.join(absent)}; it has {', '.join(str(name)[:20] for name in list(raw)[:9])}."
        )
    images = [_square(entries[_key(name).lower()], f"{origin}, {_key(name)}") for name in channels]
    if len({image.shape for image in images}) > 1:
        raise InputError(f"{origin}: its images differ in shape: {', '.join(str(image.shape) for image in images)}.")
    n, labels, ids = len(images[0]), entries.get("labels"), entries.get("id")
    return Records(
        images=np.stack(images, -1),
        labels=np.full(n, UNLABELLED) if labels is None else to_label_numbers(labels, CLASSES, origin),
        ids=number_rows(n) if ids is None else text.check_names(ids, "ID", origin),
        features=np.empty((n, 0)),
        feature_names=(),
        classes=CLASSES,
        origin=origin,
        channels=tuple(channels),
    )


def to_raw(images: np.ndarray, labels: Sequence[str], ids: Sequence[str]) -> dict[str, Any]:
    """Return the raw dict of a file from images (N, S, S, 4), class names and object names.

    Raises `InputError` for another number of channels.
    """
    if images.shape[3] != len(CHANNELS):
        raise InputError(f"a HiTS file holds {', '.join(CHANNELS)}; these are {images.shape[3]} channels.")
    layers = {_key(name): images[..., i].reshape(len(images), -1) for i, name in enumerate(CHANNELS)}
    return {**layers, "labels": np.array([CLASSES.index(label) for label in labels]), "ID": list(ids)}


def _key(channel: str) -> str:
    return f"{channel}_images"


def _square(values: Any, origin: str) -> np.ndarray:
    """Flattened stamps (N, S * S) to float32 (N, S, S)."""
    flat = to_numbers(values, "rows", origin).astype(np.float32)
    flat = flat.reshape(len(flat), -1) if flat.ndim > 1 else flat
    side = math.isqrt(flat.shape[1]) if flat.ndim == 2 else 0
    if not side or side**2 != flat.shape[1]:
        raise InputError(f"{origin}: has shape {flat.shape}; wanted (rows, 441), square stamps laid flat.")
    return flat.reshape(-1, side, side)
