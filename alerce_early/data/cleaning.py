"""Raw records through the recipe into the arrays of a store, chunk by chunk on all cores."""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from alerce_early import disk
from alerce_early.data import features as columns
from alerce_early.data.recipe import Recipe, centre_crop
from alerce_early.data.records import Records
from alerce_early.errors import InputError

CHUNK = 32  # stamps cleaned at once: 1.5 MB of raw float32, which stays in the processor's cache


def write(folder: Path, records: Records, recipe: Recipe) -> dict[str, Any]:
    """Clean all records into the arrays of a store; returns the counts of the course report, plain values."""
    shapes = [image.shape for image in records.images]
    usual = _usual_shape(shapes, records)
    kept = np.flatnonzero([shape == usual for shape in shapes])
    dropped = np.setdiff1d(np.arange(len(records)), kept)
    try:
        finished = recipe(torch.zeros(1, usual[-1], *usual[:-1])).shape[1:]
    except (IndexError, RuntimeError):  # a step that counts on another number of axes
        raise InputError(f"this recipe is not for {records.kind} of shape {usual}: {records.origin}.") from None

    nan_dropped = sum(int(np.count_nonzero(np.isnan(records.images[i]))) for i in dropped)
    nan_kept, nan_cropped = _write_images(folder / "images.npy", records.images, kept, recipe, finished[-1])
    np.save(folder / "labels.npy", records.labels[kept])
    np.save(folder / "ids.npy", records.ids[kept])
    np.save(folder / "features.npy", columns.clip(records.features[kept], records.feature_names))
    if records.part is not None:
        np.save(folder / "part.npy", records.part[kept])

    def by_class(labels: np.ndarray) -> list[int]:
        return np.bincount(labels[labels >= 0], minlength=len(records.classes)).tolist()

    return {
        "kind": records.kind,
        "origin": records.origin,
        "classes": list(records.classes),
        "features": list(records.feature_names),
        "channels": list(records.channels),
        "shape": list(finished),
        "images": len(records),
        "labels": len(records.labels),
        "metadata": len(records.features),
        "without_metadata": int(np.isnan(records.features).all(1).sum()) if records.feature_names else 0,
        "set_aside": dict(records.set_aside),
        "raw_by_class": by_class(records.labels),
        "dropped_by_class": by_class(records.labels[dropped]),
        "kept_by_class": by_class(records.labels[kept]),
        "raw_shape": list(usual),
        "nan_values": nan_dropped + nan_kept,
        "kept_with_nan_after_crop": nan_cropped,
    }


def _usual_shape(shapes: Sequence[tuple[int, ...]], records: Records) -> tuple[int, ...]:
    """The most common shape, (H, W, C) or (L, C); a stamp must be square."""
    counted = Counter(shape for shape in shapes if records.kind != "stamps" or shape[0] == shape[1])
    if not counted:
        raise InputError(f"{records.origin}: not one stamp is square; most are {Counter(shapes).most_common(1)[0][0]}.")
    return counted.most_common(1)[0][0]


def _write_images(
    file: Path, images: Sequence[np.ndarray] | np.ndarray, kept: np.ndarray, recipe: Recipe, size: int
) -> tuple[int, int]:
    """Run `Recipe.prepare` over the kept stamps, chunk by chunk on all cores, into one npy file.

    Ordinary writes rather than a memory map: a full disk then is an error and not a crash.
    Returns the number of NaN values, and of stamps that still hold one in their central size x size pixels.
    """

    def clean(start: int) -> tuple[np.ndarray, int, int]:
        raw = np.stack([images[i] for i in kept[start : start + CHUNK]])
        stamps = torch.from_numpy(raw.astype(np.float32, copy=False)).movedim(-1, 1).contiguous()
        suspects = stamps[~stamps.flatten(1).sum(1).isfinite()]  # a sum is quicker than a mask of every pixel
        missing = suspects.isnan()
        centre = centre_crop(missing, size) if missing.ndim == 4 else missing
        return recipe.prepare(stamps).numpy(), int(missing.sum()), int(centre.flatten(1).any(1).sum())

    starts = range(0, len(kept), CHUNK)
    nan_values = nan_stamps = 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # whole chunks in parallel beat parallel loops within one
    pool = ThreadPoolExecutor(threads)
    try:
        with file.open("wb") as out:
            bar = tqdm(total=len(kept), desc="cleaning", unit=" stamps", disable=None)
            for start, (stored, n_values, n_stamps) in zip(starts, pool.map(clean, starts), strict=True):
                if start == 0:
                    disk.room(file, len(kept) * stored[0].nbytes)
                    header = {"descr": "<f4", "fortran_order": False, "shape": (len(kept), *stored.shape[1:])}
                    np.lib.format.write_array_header_1_0(out, header)
                out.write(np.ascontiguousarray(stored, dtype="<f4").data)
                nan_values, nan_stamps = nan_values + n_values, nan_stamps + n_stamps
                bar.update(len(stored))
            bar.close()
            out.flush()
            os.fsync(out.fileno())
    finally:
        pool.shutdown(cancel_futures=True)  # on a full disk or a signal there is no use in cleaning the rest
        torch.set_num_threads(threads)
    return nan_values, nan_stamps
