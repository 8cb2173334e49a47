"""The store: what cleaning leaves on disk, named by a fingerprint of raw file, recipe and code.

    <root>/<name>-<fingerprint>/images.npy labels.npy ids.npy features.npy [part.npy] meta.json *.png

It is written under a temporary name and renamed when complete, so a store that can be seen is whole. A lock
keeps a second process from doing the same work; the operating system frees it when its holder is killed.
"""

import hashlib
import importlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from alerce_early import disk
from alerce_early.data import features as columns
from alerce_early.data import files
from alerce_early.data.recipe import Recipe, centre_crop
from alerce_early.data.records import Records
from alerce_early.errors import InputError

CHUNK = 32  # stamps cleaned at once: 1.5 MB of raw float32, which stays in the processor's cache
SAMPLED_BLOCKS, BLOCK = 64, 1 << 16  # how much of a raw file its fingerprint reads


@dataclass(frozen=True)
class Store:
    """A finished store; arrays are memory-mapped, so opening one costs nothing.

    images: (N, C, S, S) float32, what `Recipe.prepare` returned. labels: (N,) int64. ids: (N,) str.
    features: (N, F) float64, clipped. part: (N,) str or None. meta: counts and facts, plain values.
    """

    path: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads((self.path / "meta.json").read_text())

    @cached_property
    def images(self) -> np.ndarray:
        return np.load(self.path / "images.npy", mmap_mode="r")

    @cached_property
    def labels(self) -> np.ndarray:
        return np.load(self.path / "labels.npy")

    @cached_property
    def ids(self) -> np.ndarray:
        return np.load(self.path / "ids.npy")

    @cached_property
    def features(self) -> np.ndarray:
        return np.load(self.path / "features.npy")

    @cached_property
    def part(self) -> np.ndarray | None:
        file = self.path / "part.npy"
        return np.load(file) if file.exists() else None


def open_or_prepare(
    root: str | Path,
    name: str,
    source: Mapping[str, Any],
    read: Callable[[], Records],
    steps: Sequence[dict[str, Any]],
    margin: int,
    pictures: Callable[[Records, Store], None],
) -> Store:
    """Open the store of this source and recipe, preparing it first if there is none.

    source: the plain config of `read`, which names the raw file; pictures: draws into the new store's folder
    what only the raw records can show. Raises InputError where the source or the disk do not allow it.
    """
    key = fingerprint(source, steps, margin)
    path = Path(root) / f"{name}-{key}"
    if (path / "meta.json").exists():
        return Store(path)
    partial = disk.partial_of(path)
    _clear(path.parent)
    with disk.told(path), disk.alone(_lock(partial)):
        if not (path / "meta.json").exists():  # else another process made it while this one waited
            _prepare(partial, key, read(), steps, margin, pictures)
            partial.rename(path)
    return Store(path)


def fingerprint(source: Mapping[str, Any], steps: Sequence[dict[str, Any]], margin: int) -> str:
    """Twelve hex digits that change with the raw file, the recipe or the code that reads and cleans.

    A file counts by size, modification time and `SAMPLED_BLOCKS` evenly spaced blocks of its content, so
    that a store of gigabytes opens at once; the files of a folder by name, size and modification time.
    Raises InputError if a file the source names is not there.
    """
    digest = hashlib.sha256()
    paths = {key: value for key, value in source.items() if key.endswith("path") and value}
    plain = {key: value for key, value in source.items() if key not in paths}
    digest.update(json.dumps([plain, list(steps), margin], sort_keys=True, default=str).encode())
    for path in paths.values():
        digest.update(_sample(files.matching(path)))
    reader = importlib.import_module(str(source["_target_"]).rpartition(".")[0])
    for code in (Path(str(reader.__file__)), *sorted(Path(__file__).parent.rglob("*.py"))):
        digest.update(code.read_bytes())
    return digest.hexdigest()[:12]


def _sample(found: Sequence[Path]) -> bytes:
    digest = hashlib.sha256()
    for path in found:
        try:
            size, modified = path.stat().st_size, path.stat().st_mtime_ns
            digest.update(f"{path.name if len(found) > 1 else ''} {size} {modified}".encode())
            if len(found) > 1:
                continue
            with path.open("rb") as file:
                for start in sorted({i * max(size - BLOCK, 0) // (SAMPLED_BLOCKS - 1) for i in range(SAMPLED_BLOCKS)}):
                    file.seek(start)
                    digest.update(file.read(BLOCK))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}. Give the file with data.path=FILE.") from None
    return digest.digest()


def _clear(root: Path) -> None:
    """Remove what killed processes left; what a living one works on is locked."""
    for partial in root.glob(".*.partial"):
        with suppress(disk.Busy), disk.alone(_lock(partial), patience=0):
            shutil.rmtree(partial, ignore_errors=True)


def _lock(partial: Path) -> Path:
    return partial.with_suffix(".lock")


def _prepare(
    partial: Path,
    key: str,
    records: Records,
    steps: Sequence[dict[str, Any]],
    margin: int,
    pictures: Callable[[Records, Store], None],
) -> None:
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed while this one waited for it
    partial.mkdir()
    try:
        counts = write(partial, records, Recipe(steps, margin))
        meta = {"fingerprint": key, "recipe": list(steps), "margin": margin, **counts}
        (partial / "meta.json").write_text(json.dumps(meta, indent=1))
        pictures(records, Store(partial))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


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
            bar = tqdm(total=len(kept), desc="cleaning", unit=" stamps", disable=not sys.stderr.isatty())
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
