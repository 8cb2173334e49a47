"""Read HiTS files: 21 x 21 stamps of real transients and of artefacts.

A pickled dict of `temp_images`, `sci_images`, `diff_images`, `SNR_images`, each (N, 441), with `labels` (1 real,
0 artefact; absent or None in an unlabelled test file) and `ID`. Names are case-insensitive.
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
CHANNELS = ("temp", "sci", "diff", "SNR")  # order of Deep-HiTS, Cabrera-Vives et al. 2017, ApJ 836, 97
KEYS = {name: (name.lower(),) for name in (*(f"{channel}_images" for channel in CHANNELS), "labels", "ID")}
ENTRIES = {name for names in KEYS.values() for name in names}  # all entries that are read


def read(
    path: str | Path | None,
    test_path: str | Path | None = None,
    channels: Sequence[str] = CHANNELS,
    extra_path: str | Path | None = None,
) -> Records:
    """Read a training file, optionally with a test file.

    Parameters
    ----------
    path : path
        Training file.
    test_path : path, optional
        Test file; by default rows of the training file are held out.
    channels : sequence of str
        Channels to stack, in order: temp, sci, diff, SNR.
    extra_path : path, optional
        Another file for training only.

    Returns
    -------
    Records
        Stamps (N, 21, 21, C) float32 and labels, without metadata.

    Raises
    ------
    InputError
        If a file is missing, not a HiTS file, or lacks an entry.
    """
    if path is None:
        raise InputError(
            "data.path is not set. Give a HiTS training file with data.path=FILE, or use data=hits_simulated."
        )
    files = {"train": path, **({"test": test_path} if test_path else {})}
    parts = {
        name: from_raw(array_files.load(file, ENTRIES), f"file {Path(file).name}", channels)
        for name, file in files.items()
    }
    records = join(parts) if test_path else parts["train"]
    return with_extra(records, read(extra_path, channels=channels)) if extra_path else records


def from_raw(raw: Any, origin: str, channels: Sequence[str] = CHANNELS) -> Records:
    """Convert the raw dict of one file to records; raise InputError as `read` does."""
    if not channels or not set(channels) <= set(CHANNELS):
        raise InputError(f"data.channels={list(channels)}: expected some of {', '.join(CHANNELS)}.")
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
    """Build the raw dict of a HiTS file.

    Parameters
    ----------
    images : ndarray
        (N, S, S, 4), in the order of `CHANNELS`.
    labels : sequence of str
        Names in `CLASSES`.
    ids : sequence of str
        Names of the objects.

    Returns
    -------
    dict
        The content of a file.

    Raises
    ------
    InputError
        If there are not four channels.
    """
    if images.shape[3] != len(CHANNELS):
        raise InputError(
            f"{images.shape[3]} channels: expected the {len(CHANNELS)} of a HiTS file, {', '.join(CHANNELS)}."
        )
    layers = {_key(name): images[..., i].reshape(len(images), -1) for i, name in enumerate(CHANNELS)}
    return {**layers, "labels": np.array([CLASSES.index(label) for label in labels]), "ID": list(ids)}


def _key(channel: str) -> str:
    """Return the name of the entry of a channel."""
    return f"{channel}_images"


def _square(entries: Mapping[str, Any], name: str, origin: str) -> np.ndarray:
    """Reshape flattened stamps (N, S * S) to (N, S, S) float32."""
    flat = to_numbers(entries[name], name, origin).astype(np.float32)
    side = math.isqrt(flat[0].size) if flat.ndim > 1 and len(flat) else 0
    if not side or side**2 != flat[0].size:
        raise InputError(f"{origin}: {name} has shape {flat.shape}. Give flattened square stamps, (N, 441).")
    return flat.reshape(-1, side, side)
