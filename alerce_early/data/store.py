"""Store: the cleaned arrays on disk, named by a fingerprint of the raw file, recipe and cleaning version.

    <root>/<name>-<fingerprint>/images.npy labels.npy ids.npy features.npy [part.npy night.npy] examples.npz meta.json

A store is written under a temporary name, synced to disk and renamed when complete; a damaged one is prepared again.
A lock keeps other processes from doing the same work. The operating system releases it if its holder is killed.
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

SAMPLED_BLOCKS, BLOCK_BYTES = 64, 1 << 16  # part of a raw file that its fingerprint depends on


@dataclass(frozen=True)
class Store:
    """A complete store with N rows, whose arrays are loaded on first access.

    Parameters
    ----------
    path : Path
        Folder of the store.
    """

    path: Path

    def find_damage(self) -> str | None:
        """Return the name of a file that is missing or has another size than when it was written, or None."""
        try:
            sizes = dict(self.meta["sizes"])
        except (OSError, ValueError, KeyError, TypeError):
            return "meta.json"
        found = {file.name: file.stat().st_size for file in self.path.iterdir()}
        return next((name for name, size in sizes.items() if found.get(name) != size), None)

    @cached_property
    def meta(self) -> dict[str, Any]:
        """Counts and description of the data, as returned by `cleaning.write`, and the options of the store."""
        return json.loads((self.path / "meta.json").read_text())

    @cached_property
    def images(self) -> np.ndarray:
        """Output of `Recipe.prepare`, (N, C, S, S) or (N, C, L) float32, memory-mapped."""
        return np.load(self.path / "images.npy", mmap_mode="r")

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels, (N,) int64, -1 for unlabelled rows."""
        return np.load(self.path / "labels.npy")

    @cached_property
    def ids(self) -> np.ndarray:
        """Object of each row, (N,) str."""
        return np.load(self.path / "ids.npy")

    @cached_property
    def features(self) -> np.ndarray:
        """Clipped metadata, (N, F) float64, -999 for missing values."""
        return np.load(self.path / "features.npy")

    @cached_property
    def examples(self) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers (n,) int64 of `N_EXAMPLES` rows of each class, and their raw images (n, H, W, C)."""
        with np.load(self.path / "examples.npz") as held:
            return held["rows"], held["raw"]

    @cached_property
    def part(self) -> np.ndarray | None:
        """Prescribed split, (N,) str, or None; see `Records`."""
        return self._optional("part")

    @cached_property
    def night(self) -> np.ndarray | None:
        """Night of each row, (N,) int64, or None; see `Records`."""
        return self._optional("night")

    def _optional(self, name: str) -> np.ndarray | None:
        """Load an array, or return None if the store does not have it."""
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
    """Open the store of a source and recipe, preparing it first if it is missing or damaged.

    Parameters
    ----------
    root : str or Path
        Folder of all stores.
    name : str
        Name of the data set, the first part of the name of the store.
    source : mapping
        Plain config of the reader, which has the paths of the raw files.
    read : callable
        Function without arguments that returns the records.
    steps : sequence of dict
        Steps of the recipe as plain configs.
    margin : int
        Pixels kept around the crop.
    min_share : float
        Required fraction of valid central pixels, in [0, 1].

    Returns
    -------
    Store
        The complete store.

    Raises
    ------
    InputError
        If the source cannot be used or the store cannot be written.
    """
    key = fingerprint(source, steps, margin, min_share)
    path = Path(root) / f"{name}-{key}"
    if path.exists() and not Store(path).find_damage():
        return Store(path)
    partial = files.partial_of(path)
    _clear(path.parent)
    with files.translate_refusals(path), files.hold_lock(_lock(partial)):
        damage = Store(path).find_damage() if path.exists() else ""
        if damage is not None:  # otherwise another process prepared it in the meantime
            if damage:
                log.warning("%s: %s is damaged; preparing the store again", path, damage)
            _prepare(partial, key, read(), steps, margin, min_share)
            shutil.rmtree(path, ignore_errors=True)
            partial.rename(path)
    return Store(path)


def choose_examples(labels: np.ndarray) -> np.ndarray:
    """Return the first `N_EXAMPLES` row numbers of each class, or of all rows if none is labelled, (n,) int64."""
    by_class = [np.flatnonzero(labels == label)[:N_EXAMPLES] for label in np.unique(labels[labels >= 0])]
    return np.concatenate(by_class) if by_class else np.arange(min(N_EXAMPLES, len(labels)))


def fingerprint(source: Mapping[str, Any], steps: Sequence[dict[str, Any]], margin: int, min_share: float) -> str:
    """Return 12 hexadecimal digits that depend on the raw files, the recipe, `CLEANING_VERSION` and user-defined code.

    A file is identified by its size, modification time and `SAMPLED_BLOCKS` evenly spaced blocks of its content, so
    that opening the store of a large file takes no time; the files of a folder by name, size and modification time.

    Parameters
    ----------
    source, steps, margin, min_share
        As in `open_or_prepare`.

    Raises
    ------
    InputError
        If a file in `source` does not exist or cannot be read.
    """
    digest = hashlib.sha256()
    paths = {key: value for key, value in source.items() if key.endswith("path") and value}
    plain = {key: value for key, value in source.items() if key not in paths}
    facts = [cleaning.CLEANING_VERSION, plain, list(steps), margin, min_share]
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for path in paths.values():
        found = raw_files.expand_path(path)
        digest.update(_sample(found))
        if tables := [table for file in found if file.suffix == ".npy" for table in raw_files.find_tables(file)]:
            digest.update(_sample(tables))
    for target in (str(one["_target_"]) for one in (source, *steps)):
        if not target.startswith(f"{PACKAGE}."):  # defined by the user
            digest.update(Path(inspect.getfile(find(target))).read_bytes())
    return digest.hexdigest()[:12]


def _sample(found: Sequence[Path]) -> bytes:
    """Return a digest of sizes, modification times and, for a single file, sampled content."""
    digest = hashlib.sha256()
    for path in found:
        try:
            size, modified = path.stat().st_size, path.stat().st_mtime_ns
            digest.update(f"{path.name if len(found) > 1 else ''} {size} {modified}".encode())
            if len(found) > 1:
                continue
            with path.open("rb") as file:
                for start in sorted(
                    {i * max(size - BLOCK_BYTES, 0) // (SAMPLED_BLOCKS - 1) for i in range(SAMPLED_BLOCKS)}
                ):
                    file.seek(start)
                    digest.update(file.read(BLOCK_BYTES))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}. Give the file with data.path=FILE.") from None
    return digest.digest()


def _sync(path: Path) -> None:
    """Write a file or folder to disk now, so that a crash cannot leave an empty file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _clear(root: Path) -> None:
    """Remove partial stores of killed processes; running processes hold locks on theirs."""
    for partial in root.glob(".*.partial"):
        with suppress(files.BusyError), files.hold_lock(_lock(partial), patience=0):
            shutil.rmtree(partial, ignore_errors=True)


def _lock(partial: Path) -> Path:
    """Return the lock file of a partial store."""
    return partial.with_suffix(".lock")


def _prepare(
    partial: Path,
    key: str,
    records: Records,
    steps: Sequence[dict[str, Any]],
    margin: int,
    min_share: float,
) -> None:
    """Write a store to a temporary folder; remove it again on any error."""
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed while this one waited
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
