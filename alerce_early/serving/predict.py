"""Classify a source of alerts into a table on disk: each row is either classified once or rejected with a reason."""

import hashlib
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from alerce_early.artifacts import predictions
from alerce_early.data.labels import read_labels
from alerce_early.data.records import CUT_SHORT, LOST_ROWS, MISSING, TOO_LITTLE, Chunk, Rejected
from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError
from alerce_early.evaluation import tables
from alerce_early.serving.classifier import Classifier, Table
from alerce_early.serving.inputs import Shard, Source, find_naming
from alerce_early.serving.output import Parts

CHUNK = 256  # rows read, classified and written at once: 12 MB of raw stamps
NOT_FINITE = "the output of the network is not finite"
DUPLICATE = "duplicate of an earlier row"
TRAINED = predictions.TRAINED
EMPTY_CHUNK = Chunk(None, np.array([], dtype=str), np.array([], dtype=str), (), 0)


@dataclass(frozen=True)
class Outcome:
    """Summary of a `predict` command.

    Parameters
    ----------
    classified, rejected : int
        Number of rows.
    before : int
        Number of rows that an earlier process of the same command had read.
    seconds : float
        Duration of this process.
    first : Rejected or None
        The first rejected row.
    cut : tuple of str
        Losses with their reasons: a truncated archive, whose number of missing rows is unknown, or a damaged row group
        of a Parquet file.
    finished : bool
        Whether the command had already finished before.
    labels : tuple of str
        One sentence per table of labels: how many of its labels match a row.
    trained : int or None
        Number of rows of objects used in training or model selection; None if unknown.
    calibration : str
        See `Classifier.calibration_note`.
    flags : tuple of str
        One sentence per column is_<class>: its threshold.
    """

    classified: int
    rejected: int
    before: int
    seconds: float
    first: Rejected | None
    cut: tuple[str, ...] = ()
    finished: bool = False
    labels: tuple[str, ...] = ()
    trained: int | None = None
    calibration: str = ""
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.finished:
            return f"already finished: {self.classified:,} classified, {self.rejected:,} rejected"
        rate = (self.classified + self.rejected - self.before) / max(self.seconds, 1e-9)
        earlier = f" ({self.before:,} of these by an earlier process)" if self.before else ""
        return f"{self.classified:,} classified, {self.rejected:,} rejected{earlier}, {rate:,.0f} alerts/s"

    def notes(self) -> list[str]:
        """List remarks on labels, training objects, thresholds and calibration, one sentence each."""
        notes = list(self.labels)
        if self.trained:
            notes.append(
                f"{self.trained:,} of {self.classified:,} classified rows are of objects used in training or model "
                f"selection (column {TRAINED})"
            )
        notes += self.flags if self.classified else ()
        return notes + ([self.calibration] if self.calibration and self.classified else [])

    def warn_of_cuts(self) -> None:
        """Print a warning for each truncated archive and each damaged row group."""
        for cut in self.cut:
            print(f"warning: {cut}", file=sys.stderr, flush=True)


def find_repeated(keys: np.ndarray, seen: set[int]) -> np.ndarray:
    """Return a mask (n,) of the keys (n,) str that occur earlier among them or whose hash is in `seen`."""
    hashes = [hash(key) for key in keys.tolist()]
    first = np.isin(np.arange(len(hashes)), np.unique(hashes, return_index=True)[1])
    return ~first | np.array([one in seen for one in hashes], dtype=bool)


def predict(
    classifier: Classifier,
    source: Source,
    out: Path,
    shard: Shard = (0, 1),
    overwrite: bool = False,
    seen: set[int] | None = None,
    size: int = CHUNK,
) -> Outcome:
    """Classify a source into one file, or resume the same command where it was interrupted.

    Unreadable rows, rows of another shape and duplicates are rejected. Memory is bounded by `size` rows and 80 bytes
    per key.

    Parameters
    ----------
    classifier : Classifier
        The network.
    source : Source
        The input, see `inputs.find`.
    out : Path
        The .parquet or .csv file to write; rejected rows go to `output.rejected_of`.
    shard : (int, int), default (0, 1)
        Classify the i-th of n parts of the input, i from 0.
    overwrite : bool, default False
        Replace an existing output.
    seen : set of int, optional
        Hashes of keys that count as duplicates; the keys of this source are added.
    size : int, default CHUNK
        Rows read, classified and written at once.

    Returns
    -------
    Outcome
        Counts and remarks.

    Raises
    ------
    InputError
        If the network cannot classify this input, or the output cannot be written.
    """
    seen = set() if seen is None else seen
    shown = source.format.shown
    started = time.perf_counter()
    calibration = classifier.calibration_note
    notes = {predictions.CONSTANTS: classifier.constants, **({"calibration": calibration} if calibration else {})}
    with Parts(out, _command(classifier, source, shard, size), overwrite, notes) as parts:
        before = parts.counts["read"]
        for keys in parts.column("candid"):
            seen.update(map(hash, keys.tolist()))
        with tqdm(unit=" alerts", initial=before, disable=None) as bar:
            for chunk in () if parts.finished else source.chunks(size, shard, before, classifier.survey):
                chunk = reject_unusable(classifier, chunk)  # before duplicates: an alert can come again with data
                if (repeated := find_repeated(chunk.keys, seen)).any():
                    chunk = chunk.reject(repeated, DUPLICATE)
                table, rejected = classify_chunk(classifier, chunk, shown)
                parts.add(table, rejected, chunk.read)
                seen.update(map(hash, table["candid"].tolist()))  # only once they are on disk
                bar.update(chunk.read)
        if not parts.files and not parts.finished:  # a shard without rows
            parts.add(_table(classifier, EMPTY_CHUNK, shown), [], 0)
        first = next(parts.reasons(), None)
        cut = _find_cuts(parts.reasons())
        labels, trained = list[str](), None
        if not parts.finished:
            labels = [_describe_labels(file, parts, classifier.spec) for file in source.labels]
            if classifier.find_trained(EMPTY_CHUNK.keys) is not None:
                trained = sum(int(column.sum()) for column in parts.column(TRAINED))
            parts.finish()
    seconds = time.perf_counter() - started
    counts, flags = (parts.counts["rows"], parts.counts["rejected"]), tuple(map(str, classifier.flags))
    return Outcome(*counts, before, seconds, first, cut, parts.finished, tuple(labels), trained, calibration, flags)


def _describe_labels(file: Path, parts: Parts, spec: DataSpec) -> str:
    """Describe how many labels of a table match a classified row."""
    table = read_labels(file, find_naming(spec))
    words = table.describe([str(key) for column in parts.column(table.by) for key in column])
    lacking = sorted(set(table.class_by_key.values()) - set(spec.classes))
    return words + (f"; the network lacks {', '.join(lacking)}, so the column label is empty" if lacking else "")


def find_stamps(source: Source, shard: Shard, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Read the input again and return the stamps of some of its rows.

    Parameters
    ----------
    source : Source
        The input.
    shard : (int, int)
        The part of the input that was classified.
    keys : sequence of str
        Values of the column ``candid``.

    Returns
    -------
    dict of str to ndarray
        Raw stamps (C, H, W) float32 by key.
    """
    found: dict[str, np.ndarray] = {}
    for chunk in source.chunks(CHUNK, shard):
        if len(found) == len(keys):
            break
        if chunk.records is not None:
            for i in np.flatnonzero(np.isin(chunk.keys, keys)).tolist():
                found.setdefault(str(chunk.keys[i]), np.moveaxis(chunk.records.images[i], -1, 0).copy())
    return found


def _find_cuts(rejected: Iterable[Rejected]) -> tuple[str, ...]:
    """Describe the losses among the rejected rows: truncated archives and damaged row groups, one sentence each."""
    found: Counter[str] = Counter()
    for row in rejected:
        if row.reason.startswith(CUT_SHORT):
            found[f"{row.source}: {row.reason}; the rest of the file is not classified"] += 1
        elif row.reason.startswith(LOST_ROWS):
            found[f"{re.sub(r'#[0-9]+$', '', row.source)}: {row.reason}; rows lost"] += 1
    return tuple(f"{cut}: {n:,}" if cut.endswith("rows lost") else cut for cut, n in found.items())


def _command(classifier: Classifier, source: Source, shard: Shard, size: int) -> dict[str, Any]:
    """Return the plain values that determine the rows; files are identified by name, size and modification time."""
    digest = hashlib.sha256()
    for file in source.files:
        try:
            facts = file.stat()
        except OSError as error:  # for example removed since it was found
            raise InputError(f"{file} cannot be read: {error.strerror}. Check that it still exists.") from None
        digest.update(f"{file.name} {facts.st_size} {facts.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return {
        "network": classifier.model,
        "runtime": classifier.runtime,
        "input": digest.hexdigest(),
        "shard": list(shard),
        "chunk": size,
        "shown": list(source.format.shown),
        **classifier.constants,
        **({} if classifier.survey else {"survey": "any"}),
        **({predictions.EMBEDDING: True} if classifier.embedding else {}),
        **({flag.column: flag.threshold for flag in classifier.flags}),
        **({} if classifier.find_trained(EMPTY_CHUNK.keys) is None else {"column": TRAINED}),
        **({"schemas": source.schemas} if source.schemas else {}),
        **({"pad_edges": True} if source.pad_edges else {}),
    }


def reject_unusable(classifier: Classifier, chunk: Chunk) -> Chunk:
    """Reject the rows of a chunk that have too little data or were normalised before."""
    if chunk.records and not (enough := classifier.has_data(np.asarray(chunk.records.images))).all():
        chunk = chunk.reject(~enough, TOO_LITTLE)
    if chunk.records:
        reasons = classifier.find_normalised(np.asarray(chunk.records.images))
        for reason in np.unique(reasons[reasons != ""]).tolist():
            chunk = chunk.reject(reasons == reason, reason)
            reasons = reasons[reasons != reason]
    return chunk


def classify_chunk(classifier: Classifier, chunk: Chunk, shown: Sequence[str]) -> tuple[Table, list[Rejected]]:
    """Classify a chunk, and reject the rows for which the output is not finite.

    Parameters
    ----------
    classifier : Classifier
        The network.
    chunk : Chunk
        Rows of the input.
    shown : sequence of str
        Input columns to copy to the table, NaN if the chunk lacks them.

    Returns
    -------
    dict of str to ndarray
        Columns (N,) of the classified rows.
    list of Rejected
        The rejected rows of the chunk and of this step.
    """
    table = _table(classifier, chunk, shown)
    answered = classifier.find_answered(table)
    places = zip(chunk.sources[~answered].tolist(), chunk.keys[~answered].tolist(), strict=True)
    rejected = [*chunk.rejected, *(Rejected(source, key, NOT_FINITE) for source, key in places)]
    return {name: column[answered] for name, column in table.items()}, rejected


def _table(classifier: Classifier, chunk: Chunk, shown: Sequence[str]) -> Table:
    """Return the columns of the table for the rows of a chunk, from the input and from the network.

    If the network lacks a class of the input, as with `groups`, all labels stay empty: the labels of the other classes
    alone would be a biased sample.
    """
    known: dict[str, np.ndarray] = {}
    if chunk.records is None:
        found, ids, labels = classifier.predict([]), chunk.keys, chunk.keys
    else:
        known = dict(zip(chunk.records.feature_names, chunk.records.features.T, strict=True)) | {
            **chunk.records.context
        }
        found, ids = classifier.of_records(chunk.records), chunk.records.ids
        classes = chunk.records.classes
        shared = classes if set(classes) <= set(classifier.spec.classes) else [""] * len(classes)
        labels = np.array([*shared, ""])[chunk.records.labels]
    columns = {name: known.get(name, np.full(len(ids), np.nan)) for name in shown}
    if tables.DETECTIONS in columns:
        columns[tables.DETECTIONS] = np.minimum(columns[tables.DETECTIONS], tables.MOST_DETECTIONS)
    return {
        "candid": chunk.keys,
        "id": ids,
        "source": chunk.sources,
        "label": labels,
        **({} if (trained := classifier.find_trained(ids)) is None else {TRAINED: trained}),
        **found,
        **{name: np.where(column == MISSING, np.nan, column) for name, column in columns.items()},
    }
