"""The store: what cleaning leaves on disk, named by a fingerprint of raw file, recipe and cleaning version.

    <root>/<name>-<fingerprint>/images.npy labels.npy ids.npy features.npy [part.npy night.npy] examples.npz meta.json

It is written under a temporary name, synced and renamed when complete; one that was damaged later is made again.
A lock keeps a second process from doing the same work; the operating system frees it when its holder is killed.
"""

import hashlib
import inspect
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early import files
from alerce_early.construct import PACKAGE, find
from alerce_early.data import cleaning, raw_files
from alerce_early.data.recipe import Recipe
from alerce_early.data.records import N_EXAMPLES, Records
from alerce_early.errors import InputError

log = logging.getLogger(__name__)

SAMPLED_BLOCKS, BLOCK = 64, 1 << 16  # how much of a raw file its fingerprint reads


@dataclass(frozen=True)
class Store:
    """A finished store; arrays are memory-mapped, so opening one costs nothing.

    images: (N, C, S, S) float32, what `Recipe.prepare` returned. labels: (N,) int64. ids: (N,) str.
    features: (N, F) float64, clipped. part: (N,) str or None. night: (N,) int64 or None. meta: counts and facts, plain
    values.
    """

    path: Path

    def find_damage(self) -> str | None:
        """Return which file is missing or not as long as it was written, None if all are whole."""
        try:
            sizes = dict(self.meta["sizes"])
        except (OSError, ValueError, KeyError, TypeError):
            return "meta.json"
        found = {file.name: file.stat().st_size for file in self.path.iterdir()}
        return next((name for name, size in sizes.items() if found.get(name) != size), None)

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
    def examples(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the store (n,) int64, `N_EXAMPLES` of each class, and their raw images (n, H, W, C)."""
        with np.load(self.path / "examples.npz") as held:
            return held["rows"], held["raw"]

    @cached_property
    def part(self) -> np.ndarray | None:
        return self._optional("part")

    @cached_property
    def night(self) -> np.ndarray | None:
        return self._optional("night")

    def _optional(self, name: str) -> np.ndarray | None:
        file = self.path / f"{name}.npy"
        return np.load(file) if file.exists() else None


def open_or_prepare(
    root: str | Path,
    name: str,
    source: Mapping[str, Any],
    read: Callable[[], Records],
    steps: Sequence[dict[str, Any]],
    margin: int,
    min_share: float = 0.0,
) -> Store:
    """Open the store of this source and recipe, preparing it first if there is none.

    source: the plain config of `read`, which names the raw file. Raises InputError where the source or the disk do
    not allow it.
    """
    key = fingerprint(source, steps, margin, min_share)
    path = Path(root) / f"{name}-{key}"
    if path.exists() and not Store(path).find_damage():
        return Store(path)
    partial = files.partial_of(path)
    _clear(path.parent)
    with files.translate_refusals(path), files.hold_lock(_lock(partial)):
        damage = Store(path).find_damage() if path.exists() else ""
        if damage is not None:  # else another process made it while this one waited
            if damage:
                log.warning("%s: %s is damaged; the store is made again.", path, damage)
            _prepare(partial, key, read(), steps, margin, min_share)
            shutil.rmtree(path, ignore_errors=True)
            partial.rename(path)
    return Store(path)


def choose_examples(labels: np.ndarray) -> np.ndarray:
    """Return the first `N_EXAMPLES` rows of each class, or of all rows if none has a label, (n,) int64."""
    by_class = [np.flatnonzero(labels == label)[:N_EXAMPLES] for label in np.unique(labels[labels >= 0])]
    return np.concatenate(by_class) if by_class else np.arange(min(N_EXAMPLES, len(labels)))


def fingerprint(source: Mapping[str, Any], steps: Sequence[dict[str, Any]], margin: int, min_share: float) -> str:
    """Twelve hex digits that change with the raw file, the recipe, `CLEANING_VERSION` or code of the user's own.

    A file is identified by its size, modification time and `SAMPLED_BLOCKS` evenly spaced blocks of its content, so
    that a store of many gigabytes opens immediately; the files in a folder by name, size and modification time.
    Raises InputError if a file named in source does not exist.
    """
    digest = hashlib.sha256()
    paths = {key: value for key, value in source.items() if key.endswith("path") and value}
    plain = {key: value for key, value in source.items() if key not in paths}
    facts = [cleaning.CLEANING_VERSION, plain, list(steps), margin, min_share]
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for path in paths.values():
        found = raw_files.matching(path)
        digest.update(_sample(found))
        if tables := [table for file in found if file.suffix == ".npy" for table in raw_files.find_tables(file)]:
            digest.update(_sample(tables))
    for target in (str(one["_target_"]) for one in (source, *steps)):
        if not target.startswith(f"{PACKAGE}."):  # the user's own
            digest.update(Path(inspect.getfile(find(target))).read_bytes())
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


def _sync(path: Path) -> None:
    """Have the operating system write a file or folder to the disk now, lest a crash leave its name without content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _clear(root: Path) -> None:
    """Remove what killed processes left; what a living one works on is locked."""
    for partial in root.glob(".*.partial"):
        with suppress(files.BusyError), files.hold_lock(_lock(partial), patience=0):
            shutil.rmtree(partial, ignore_errors=True)


def _lock(partial: Path) -> Path:
    return partial.with_suffix(".lock")


def _prepare(
    partial: Path,
    key: str,
    records: Records,
    steps: Sequence[dict[str, Any]],
    margin: int,
    min_share: float,
) -> None:
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed while this one waited for it
    partial.mkdir()
    try:
        counts, kept = cleaning.write(partial, records, Recipe(steps, margin), min_share)
        meta = {"fingerprint": key, "recipe": list(steps), "margin": margin, "min_share": min_share, **counts}
        rows = choose_examples(records.labels[kept])
        raw = np.stack([records.images[kept[row]] for row in rows])
        np.savez_compressed(partial / "examples.npz", rows=rows, raw=raw)
        meta["sizes"] = {file.name: file.stat().st_size for file in partial.iterdir() if file.name != "meta.json"}
        (partial / "meta.json").write_text(json.dumps(meta, indent=1))
        for file in (*partial.iterdir(), partial):
            _sync(file)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
