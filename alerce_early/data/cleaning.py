"""Cleaning: apply the recipe to raw records and write the arrays of a store, in chunks on all cores."""

import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from alerce_early import files
from alerce_early.data import features as columns
from alerce_early.data.normalised import RECIPES, find_normalised
from alerce_early.data.recipe import Recipe, centre_crop
from alerce_early.data.records import MAX_PIXEL_VALUE, Records, has_data
from alerce_early.errors import InputError

CLEANING_VERSION = 3  # increased when a reader, simulation or recipe changes the content of stores
CHUNK = 32  # stamps cleaned at once: 1.5 MB of raw float32, which fits into the cache of a processor


def write(folder: Path, records: Records, recipe: Recipe, min_share: float = 0.0) -> tuple[dict[str, Any], np.ndarray]:
    """Clean all records and write the arrays of a store.

    Parameters
    ----------
    folder : Path
        Existing folder of the store.
    records : Records
        Raw records. Rows whose shape is not the most common one are dropped.
    recipe : Recipe
        Cleaning recipe.
    min_share : float
        Required fraction of valid central pixels, in [0, 1]; other rows are dropped.

    Returns
    -------
    counts : dict
        Summary for meta.json as plain values, including the counts of the 2020 report.
    kept : ndarray
        (n,) int64: indices of the records that were kept.

    Raises
    ------
    InputError
        If the recipe does not fit the records, stamps are already normalised, or no row remains.
    """
    shapes = [image.shape for image in records.images]
    usual = _usual_shape(shapes, records)
    fits = np.array([shape == usual for shape in shapes])
    try:
        finished = recipe(torch.zeros(1, usual[-1], *usual[:-1])).shape[1:]
    except (IndexError, RuntimeError):  # a step expects another number of axes
        raise InputError(f"{records.origin}: this recipe is not for {records.kind} of shape {usual}.") from None

    kept, counts = _write_images(folder / "images.npy", records, np.flatnonzero(fits), recipe, finished[-1], min_share)
    if not len(kept):
        raise InputError(
            f"{records.origin}: no stamp has {min_share:.0%} valid central pixels. Lower recipe.min_share."
        )
    counts += sum((_count_missing(records.images[i]) for i in np.flatnonzero(~fits).tolist()), Counter())
    lacking = fits.copy()
    lacking[kept] = False
    np.save(folder / "labels.npy", records.labels[kept])
    np.save(folder / "ids.npy", records.ids[kept])
    np.save(folder / "features.npy", columns.clip(records.features[kept], records.feature_names))
    for name in ("part", "night"):
        if (column := getattr(records, name)) is not None:
            np.save(folder / f"{name}.npy", column[kept])

    groups = {
        "raw_by_class": records.labels,
        "dropped_by_class": records.labels[~fits],
        "lacking_by_class": records.labels[lacking],
        "kept_by_class": records.labels[kept],
    }

    def by_class(labels: np.ndarray) -> list[int]:
        return np.bincount(labels[labels >= 0], minlength=len(records.classes)).tolist()

    return {
        "kind": records.kind,
        "origin": records.origin,
        "classes": list(records.classes),
        "features": list(records.feature_names),
        "channels": list(records.channels),
        "survey": records.survey,
        "shape": list(finished),
        "images": len(records),
        "labels": int((records.labels >= 0).sum()),
        "unmatched_labels": records.unmatched_labels,
        "metadata": len(records.features),
        "without_metadata": int(np.isnan(records.features).all(1).sum()) if records.feature_names else 0,
        "set_aside": dict(records.set_aside),
        **{name: by_class(labels) for name, labels in groups.items()},
        "unlabelled": {name: int((labels < 0).sum()) for name, labels in groups.items()},
        "raw_shape": list(usual),
        **{name: counts[name] for name in ("nan_values", "odd_values", "kept_with_nan_after_crop")},
    }, kept


def _usual_shape(shapes: Sequence[tuple[int, ...]], records: Records) -> tuple[int, ...]:
    """Return the most common shape, (H, W, C) or (L, C); a stamp must be square."""
    counted = Counter(shape for shape in shapes if records.kind != "stamps" or shape[0] == shape[1])
    if not counted:
        raise InputError(
            f"{records.origin}: no stamp is square; most have shape {Counter(shapes).most_common(1)[0][0]}."
        )
    return counted.most_common(1)[0][0]


def _count_missing(image: np.ndarray) -> Counter[str]:
    """Count the NaN and the other invalid values of raw images."""
    nan = int(np.isnan(image).sum())
    return Counter(nan_values=nan, odd_values=int((~(np.abs(image) < MAX_PIXEL_VALUE)).sum()) - nan)


def _write_images(
    file: Path,
    records: Records,
    rows: np.ndarray,
    recipe: Recipe,
    size: int,
    min_share: float,
) -> tuple[np.ndarray, Counter[str]]:
    """Apply `Recipe.prepare` to these rows and write those with enough valid central pixels to a npy file.

    The file is not a memory map, for which a full disk would be a crash instead of an error. Returns the rows that were
    written, and counts of invalid values and of stamps with NaN in their central `size` x `size` pixels. Raises
    InputError for stamps that were normalised before in a way that the recipe does not allow.
    """

    def clean(start: int) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
        raw = np.stack([records.images[i] for i in rows[start : start + CHUNK]]).astype(np.float32, copy=False)
        if (found := find_normalised(raw, recipe.steps)).any():
            first = int(np.flatnonzero(found)[0])
            raise InputError(
                f"{records.origin}: stamp {rows[start + first]} was normalised before: {found[first]}. "
                f"Choose recipe={RECIPES[found[first]]}, which accepts raw stamps, too."
            )
        stamps = torch.from_numpy(raw).movedim(-1, 1).contiguous()
        # a sum is faster than a mask of all pixels
        odd = np.flatnonzero(~(stamps.flatten(1).sum(1).abs() < MAX_PIXEL_VALUE))
        enough = np.ones(len(raw), dtype=bool)
        enough[odd] = has_data(raw[odd], size, min_share)
        counts = _count_missing(raw[odd])
        nan = stamps[odd[enough[odd]]].isnan()
        centre = centre_crop(nan, size) if nan.ndim == 4 else nan
        counts["kept_with_nan_after_crop"] = int(centre.flatten(1).any(1).sum())
        return recipe.prepare(stamps).numpy()[enough], enough, counts

    def write_header(n: int, shape: tuple[int, ...]) -> None:
        # has the same length for every n, since numpy reserves space for the first axis to grow
        np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": (n, *shape)})

    starts = range(0, len(rows), CHUNK)
    kept: list[np.ndarray] = []
    totals: Counter[str] = Counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # parallel chunks are faster than parallel loops within one
    pool = ThreadPoolExecutor(threads)
    try:
        with file.open("wb") as out:
            bar = tqdm(total=len(rows), desc="cleaning", unit=" stamps", disable=None)
            for start, (stored, enough, counts) in zip(starts, pool.map(clean, starts), strict=True):
                if start == 0:
                    shape = stored.shape[1:]
                    files.room(file, len(rows) * math.prod(shape) * stored.itemsize)
                    write_header(len(rows), shape)
                out.write(np.ascontiguousarray(stored, dtype="<f4").data)
                kept.append(rows[start : start + CHUNK][enough])
                totals.update(counts)
                bar.update(len(enough))
            bar.close()
            out.seek(0)
            write_header(sum(map(len, kept)), shape)
    finally:
        pool.shutdown(cancel_futures=True)  # do not clean the rest after an error or a signal
        torch.set_num_threads(threads)
    return np.concatenate(kept), totals
