"""The files of the HiTS course: 21 x 21 stamps of real transients and of artefacts.

A pickled dict of `temp_images`, `sci_images`, `diff_images`, `SNR_images`, each (N, 441), with `labels` (1 real,
0 artefact; absent or None in a blind test file) and `ID`, in any capitalisation.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data.readers import array_files
from alerce_early.data.records import UNLABELLED, Records, join, number_rows, take, to_numbers, with_extra
from alerce_early.errors import InputError

CLASSES = ("artefact", "real")
CHANNELS = ("temp", "sci", "diff", "SNR")  # the order of Deep-HiTS (Cabrera-Vives et al. 2017)
KEYS = {name: (name.lower(),) for name in (*(f"{channel}_images" for channel in CHANNELS), "labels", "ID")}
ENTRIES = {name for names in KEYS.values() for name in names}  # all that is read of a file


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
    if not channels or not set(channels) <= set(CHANNELS):
        raise InputError(
            f"data.channels={list(channels)}: not channels of this file. Give some of {', '.join(CHANNELS)}."
        )
    layers = list(map(_key, channels))
    entries = array_files.find_entries(raw, KEYS, layers, origin)
    images = [_square(entries, name, origin) for name in layers]
    if len({image.shape for image in images}) > 1:
        raise InputError(f"{origin}: its images differ in shape: {', '.join(str(image.shape) for image in images)}.")
    n = len(images[0])
    return Records(
        images=np.stack(images, -1),
        labels=take(entries, "labels", (n,), origin, CLASSES, UNLABELLED),
        ids=take(entries, "ID", (n,), origin, str, number_rows(n)),
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


def _square(entries: Mapping[str, Any], name: str, origin: str) -> np.ndarray:
    """Flattened stamps (N, S * S) to float32 (N, S, S)."""
    flat = to_numbers(entries[name], name, origin).astype(np.float32)
    side = math.isqrt(flat[0].size) if flat.ndim > 1 and len(flat) else 0
    if not side or side**2 != flat[0].size:
        raise InputError(f"{origin}: {name} has shape {flat.shape}. Give (N, 441), square stamps laid flat.")
    return flat.reshape(-1, side, side)
