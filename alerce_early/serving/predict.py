"""From a source of alerts to a table on disk: each row classified once, or set aside with its reason."""

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
DUPLICATE = "duplicate of a row before it"
TRAINED = predictions.TRAINED
NOTHING = Chunk(None, np.array([], dtype=str), np.array([], dtype=str), (), 0)


@dataclass(frozen=True)
class Outcome:
    """What became of the input.

    before: how much of it an earlier process had read. first: of what was set aside. cut: what is lost of the
    files, with the reason: of an archive that ends before it should nobody knows how many rows, of a Parquet file those
    of a damaged row group. finished: this very command had ended before.
    labels: how many labels of each table of them belong to a row, in words. trained: rows of objects that
    trained or chose the network; None where it does not tell. calibration: see `Classifier.calibration_note`.
    flags: the thresholds of the columns is_<class>, in words.
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
            return f"finished already: {self.classified:,} classified, {self.rejected:,} rejected"
        rate = (self.classified + self.rejected - self.before) / max(self.seconds, 1e-9)
        earlier = f" ({self.before:,} of both before this start)" if self.before else ""
        return f"{self.classified:,} classified, {self.rejected:,} rejected{earlier}, {rate:,.0f} alerts/s"

    def notes(self) -> list[str]:
        """Return what else is to be known of the rows, one sentence each."""
        of = f"of {self.classified:,} classified rows"
        said = list(self.labels)
        if self.trained:
            said.append(f"{self.trained:,} {of} are of objects that trained or chose the network (column {TRAINED})")
        said += self.flags if self.classified else ()
        return said + ([self.calibration] if self.calibration and self.classified else [])

    def warn_of_cuts(self) -> None:
        """Print a warning for each archive that ends before it should, and each row group that is damaged."""
        for cut in self.cut:
            print(f"warning: {cut}", file=sys.stderr, flush=True)


def find_repeated(keys: np.ndarray, seen: set[int]) -> np.ndarray:
    """Return which of the keys (n,) str have their hash in `seen` or come earlier among the n, (n,) bool."""
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
    """Classify a source into one file; what a stopped process left of the same command is continued.

    seen: hashes of the keys that count as duplicates, to which those of this source are added. Memory is bounded by
    `size` rows and 80 bytes per key. Raises InputError where the input is not for this network or the output cannot
    be written; a row that cannot be read, is misshaped or a duplicate is set aside.
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
                chunk = keep_usable(classifier, chunk)  # what has too little data may come again
                if (repeated := find_repeated(chunk.keys, seen)).any():
                    chunk = chunk.reject(repeated, DUPLICATE)
                table, rejected = classify_chunk(classifier, chunk, shown)
                parts.add(table, rejected, chunk.read)
                seen.update(map(hash, table["candid"].tolist()))  # now that they are on disk
                bar.update(chunk.read)
        if not parts.files and not parts.finished:  # a shard may have no rows
            parts.add(_table(classifier, NOTHING, shown), [], 0)
        first = next(parts.reasons(), None)
        cut = _find_cuts(parts.reasons())
        labels, trained = list[str](), None
        if not parts.finished:
            labels = [_describe_labels(file, parts, classifier.spec) for file in source.labels]
            if classifier.find_trained(NOTHING.keys) is not None:
                trained = sum(int(column.sum()) for column in parts.column(TRAINED))
            parts.finish()
    seconds = time.perf_counter() - started
    counts, flags = (parts.counts["rows"], parts.counts["rejected"]), tuple(map(str, classifier.flags))
    return Outcome(*counts, before, seconds, first, cut, parts.finished, tuple(labels), trained, calibration, flags)


def _describe_labels(file: Path, parts: Parts, spec: DataSpec) -> str:
    """Return how many labels of a table belong to one of the classified rows, in words."""
    table = read_labels(file, find_naming(spec))
    words = table.describe([str(key) for column in parts.column(table.by) for key in column])
    lacking = sorted(set(table.class_by_key.values()) - set(spec.classes))
    return words + (f"; the network lacks {', '.join(lacking)}, so the column label is empty" if lacking else "")


def find_stamps(source: Source, shard: Shard, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the stamps (C, H, W) of these rows by key; reads the input once more."""
    found: dict[str, np.ndarray] = {}
    for chunk in source.chunks(CHUNK, shard):
        if len(found) == len(keys):
            break
        if chunk.records is not None:
            for i in np.flatnonzero(np.isin(chunk.keys, keys)).tolist():
                found.setdefault(str(chunk.keys[i]), np.moveaxis(chunk.records.images[i], -1, 0).copy())
    return found


def _find_cuts(rejected: Iterable[Rejected]) -> tuple[str, ...]:
    """Return what is lost of the files, each once."""
    found: Counter[str] = Counter()
    for row in rejected:
        if row.reason.startswith(CUT_SHORT):
            found[f"{row.source}: {row.reason}; what comes after is not classified"] += 1
        elif row.reason.startswith(LOST_ROWS):
            found[f"{re.sub(r'#[0-9]+$', '', row.source)}: {row.reason}; rows lost"] += 1
    return tuple(f"{cut}: {n:,}" if cut.endswith("rows lost") else cut for cut, n in found.items())


def _command(classifier: Classifier, source: Source, shard: Shard, size: int) -> dict[str, Any]:
    """Return what decides the rows, as plain values: files count by name, size and time of change."""
    digest = hashlib.sha256()
    for file in source.files:
        try:
            facts = file.stat()
        except OSError as error:  # it may have been removed since it was found
            raise InputError(f"{file} cannot be read: {error.strerror}.") from None
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
        **({} if classifier.find_trained(NOTHING.keys) is None else {"column": TRAINED}),
        **({"schemas": source.schemas} if source.schemas else {}),
        **({"pad_edges": True} if source.pad_edges else {}),
    }


def keep_usable(classifier: Classifier, chunk: Chunk) -> Chunk:
    """Return the chunk without the rows that hold too little data or were normalised before, which are rejected."""
    if chunk.records and not (enough := classifier.has_data(np.asarray(chunk.records.images))).all():
        chunk = chunk.reject(~enough, TOO_LITTLE)
    if chunk.records:
        reasons = classifier.find_normalised(np.asarray(chunk.records.images))
        for reason in np.unique(reasons[reasons != ""]).tolist():
            chunk = chunk.reject(reasons == reason, reason)
            reasons = reasons[reasons != reason]
    return chunk


def classify_chunk(classifier: Classifier, chunk: Chunk, shown: Sequence[str]) -> tuple[Table, list[Rejected]]:
    """Return the rows of a chunk that the network has an answer for, and all that was set aside.

    shown: names of the columns beside the answers, NaN where the chunk lacks them.
    """
    table = _table(classifier, chunk, shown)
    answered = classifier.find_answered(table)
    places = zip(chunk.sources[~answered].tolist(), chunk.keys[~answered].tolist(), strict=True)
    rejected = [*chunk.rejected, *(Rejected(source, key, NOT_FINITE) for source, key in places)]
    return {name: column[answered] for name, column in table.items()}, rejected


def _table(classifier: Classifier, chunk: Chunk, shown: Sequence[str]) -> Table:
    """Return what is known of the rows of a chunk, and what the network says of them.

    Where the network lacks one of the classes of the input, as with `groups`, the labels of the others would be a
    biased part: all stay empty.
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
