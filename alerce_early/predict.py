"""Classify alerts with a trained network: from raw files to a table of probabilities.

python -m alerce_early.predict RUN INPUT ... --out FILE
python -m alerce_early.predict RUN --watch FOLDER --out FOLDER
"""

import argparse
import hashlib
import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from alerce_early import files, gallery, tables
from alerce_early.data import names
from alerce_early.data.readers.chunks import CUT_SHORT, Chunk, Rejected
from alerce_early.data.records import MISSING, TOO_LITTLE
from alerce_early.errors import InputError, exit_on_input_error
from alerce_early.serving import incoming, inputs
from alerce_early.serving.classifier import Classifier, Table, load
from alerce_early.serving.duplicates import Seen
from alerce_early.serving.inputs import Shard, Source
from alerce_early.serving.parts import Parts, partial_of, rejected_of
from alerce_early.training import signals

CHUNK = 256  # rows read, classified and written at once: 12 MB of raw stamps
NOT_FINITE = "what the network puts out for it is not finite"
NOTHING = Chunk(None, np.array([], dtype=str), np.array([], dtype=str), (), 0)


@dataclass(frozen=True)
class Outcome:
    """What became of the input.

    before: how much of it an earlier process had read. first: of what was set aside. cut: the archives that end before
    they should, with the reason; how many rows are missing nobody knows. finished: this very command had ended before.
    """

    classified: int
    rejected: int
    before: int
    seconds: float
    first: Rejected | None
    cut: tuple[str, ...] = ()
    finished: bool = False

    def __str__(self) -> str:
        if self.finished:
            return f"finished already: {self.classified:,} classified, {self.rejected:,} rejected"
        rate = (self.classified + self.rejected - self.before) / max(self.seconds, 1e-9)
        earlier = f" ({self.before:,} of both before this start)" if self.before else ""
        return f"{self.classified:,} classified, {self.rejected:,} rejected{earlier}, {rate:,.0f} alerts/s"


def predict(
    classifier: Classifier,
    source: Source,
    out: Path,
    shard: Shard = (0, 1),
    overwrite: bool = False,
    seen: Seen | None = None,
    size: int = CHUNK,
) -> Outcome:
    """Classify a source into one file; what a stopped process left of the same command is gone on with.

    seen: keys that count as duplicates, to which those of this source are added. Memory is bounded by `size`
    rows, whatever the length of the input. Raises InputError where the input is not for this network or the
    output cannot be written; a row that cannot be read, is misshaped or a duplicate is set aside.
    """
    seen = seen or Seen()
    shown = [name for name in tables.METADATA if name in source.format.columns]
    started = time.perf_counter()
    with Parts(out, _command(classifier, source, shard, size), overwrite) as parts:
        before = parts.counts["read"]
        for keys in parts.column("candid"):
            seen.add(keys)
        with tqdm(unit=" alerts", initial=before, disable=None) as bar:
            for chunk in () if parts.finished else source.chunks(size, shard, skip=before):
                table, rejected = _classified(classifier, chunk, seen, shown)
                parts.add(table, rejected, chunk.read)
                seen.add(table["candid"])  # now that they are on disk
                bar.update(chunk.read)
        if not parts.files and not parts.finished:  # a shard may have no rows
            parts.add(_table(classifier, NOTHING, shown), [], 0)
        first = next(parts.reasons(), None)
        cut = tuple(f"{row.source}: {row.reason}" for row in parts.reasons() if row.reason.startswith(CUT_SHORT))
        if not parts.finished:
            parts.finish()
    seconds = time.perf_counter() - started
    return Outcome(parts.counts["rows"], parts.counts["rejected"], before, seconds, first, cut, parts.finished)


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
    }


def _classified(classifier: Classifier, chunk: Chunk, seen: Seen, shown: Sequence[str]) -> tuple[Table, list[Rejected]]:
    """Return the rows of a chunk that are here for the first time, and all that was set aside."""
    if chunk.records and not (enough := classifier.has_data(np.asarray(chunk.records.images))).all():
        chunk = chunk.set_aside(~enough, TOO_LITTLE)
    table = _table(classifier, chunk, shown)
    fresh, answered = seen.fresh(chunk.keys), classifier.find_answered(table)
    rejected = [
        Rejected(source, key, reason)
        for rows, reason in ((~fresh, "duplicate of a row before it"), (fresh & ~answered, NOT_FINITE))
        for source, key in zip(chunk.sources[rows].tolist(), chunk.keys[rows].tolist(), strict=True)
    ]
    return {name: column[fresh & answered] for name, column in table.items()}, [*chunk.rejected, *rejected]


def _table(classifier: Classifier, chunk: Chunk, shown: Sequence[str]) -> Table:
    """Return what is known of the rows of a chunk, and what the network says of them.

    Where the network lacks one of the classes of the input, as with `groups`, the labels of the others would be a
    biased part: all stay empty.
    """
    known: dict[str, np.ndarray] = {}
    if chunk.records is None:
        found, ids, labels = classifier.predict([]), chunk.keys, chunk.keys
    else:
        known = dict(zip(chunk.records.feature_names, chunk.records.features.T, strict=True))
        found, ids = classifier.of_records(chunk.records), chunk.records.ids
        classes = chunk.records.classes
        shared = classes if set(classes) <= set(classifier.spec.classes) else [""] * len(classes)
        labels = np.array([*shared, ""])[chunk.records.labels]
    columns = {name: known.get(name, np.full(len(ids), np.nan)) for name in shown}
    return {
        "candid": chunk.keys,
        "id": ids,
        "source": chunk.sources,
        "label": labels,
        **found,
        **{name: np.where(column == MISSING, np.nan, column) for name, column in columns.items()},
    }


def watch(classifier: Classifier, folder: Path, results: Path) -> None:
    """Classify the files of a folder as they arrive, FILE to results/FILE.parquet, until the process is stopped.

    A file with a result is done and stays so, whatever happens to it; one that a stopped process had begun is gone
    on with, before all others. So each row is classified exactly once, and one that came in an earlier file
    is a duplicate. A file that is not for the network is told and tried again at the next start.
    """

    def out(file: Path) -> Path:
        return results / f"{file.name}.parquet"

    def done(file: Path) -> bool:
        return (out(file).exists() or rejected_of(out(file)).exists()) and not partial_of(out(file)).exists()

    with files.translate_refusals(results, files.ANY, "--out"):
        results.mkdir(parents=True, exist_ok=True)
    seen = Seen()
    for file in sorted(results.glob("*.parquet")):
        try:
            seen.add(tables.read(file, ["candid"])["candid"].astype(str))
        except InputError as error:  # not from here
            print(f"passed over: {error}", file=sys.stderr, flush=True)
    ends = inputs.endings(classifier.spec)
    begun = (folder / path.name.removesuffix(".parquet.partial") for path in sorted(results.glob("*.partial")))
    print(f"{classifier.model} waits for files in {folder}", flush=True)
    for file in chain((file for file in begun if file.exists()), incoming.arrivals(folder, ends, done)):
        try:
            outcome = predict(classifier, inputs.find([file], classifier.spec), out(file), seen=seen)
            print(f"{names.to_printable(file.name)}: {outcome}", flush=True)
            _tell_of_cuts(outcome)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)


def _tell_of_cuts(outcome: Outcome) -> None:
    for cut in outcome.cut:
        print(f"warning: {cut}; what comes after is not classified", file=sys.stderr, flush=True)


def _shard(text: str) -> Shard:
    """ "2/4" to (1, 4)."""
    numbers = re.fullmatch(r"(\d+)/(\d+)", text)
    index, n = map(int, numbers.groups()) if numbers else (0, 0)
    if not 1 <= index <= n:
        raise argparse.ArgumentTypeError(f"{text}: wanted i/n with i from 1 to n, such as 1/4.")
    return index - 1, n


@exit_on_input_error
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m alerce_early.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", help="a run folder, a checkpoint, or a file that export wrote")
    add("input", nargs="*", metavar="INPUT", help="alert packets, archives of them, stamps or HiTS files, spectra")
    add("--out", type=Path, required=True, help="the .parquet or .csv to write; of --watch, a folder")
    add("--overwrite", action="store_true", help="replace what is there")
    add("--shard", type=_shard, default=(0, 1), metavar="i/n", help="classify the i-th of n parts of the input")
    add("--ensemble", nargs="+", default=[], metavar="RUN", help="average RUN with these")
    add("--runtime", help="what computes: torch (default), bfloat16, openvino; onnx (default of an exported file)")
    add("--gallery", type=Path, metavar="PNG", help="draw the surest stamps of each class")
    add("--watch", type=Path, metavar="FOLDER", help="classify files as they arrive in it; Ctrl-C ends it")
    given = parser.parse_intermixed_args()  # options may stand anywhere
    if bool(given.input) == bool(given.watch):
        taken = f" --ensemble took {', '.join(given.ensemble)}; write INPUT before it." if given.ensemble else ""
        raise InputError(f"give either INPUT ... or --watch FOLDER.{taken}")
    if given.watch:
        for name in ("shard", "gallery", "overwrite"):
            if getattr(given, name) != parser.get_default(name):
                raise InputError(f"--watch classifies each file that arrives, whole and once; leave out --{name}.")
    # readers log what they set aside, which here goes to a file
    logging.getLogger(__package__).setLevel(logging.ERROR)
    signals.listen()
    try:
        _do(given)
    except signals.Stopped as stopped:
        print(stopped, file=sys.stderr)
        raise


@contextmanager
def alone(results: Path) -> Iterator[None]:
    """Be the only one that watches for this folder; raises InputError if another process does."""
    try:
        with files.hold_lock(results / ".watch", 0, "--out"):
            yield
    except files.BusyError:
        raise InputError(f"--out {results}: another --watch writes there, and would classify the same rows.") from None


def _do(given: argparse.Namespace) -> None:
    classifier = load(given.run, *given.ensemble, runtime=given.runtime)
    if given.watch:
        with suppress(signals.Stopped), alone(given.out):
            watch(classifier, given.watch, given.out)
        return
    source = inputs.find(given.input, classifier.spec, given.out)
    outcome = predict(classifier, source, given.out, given.shard, given.overwrite)
    if not outcome.classified and outcome.first:
        raise InputError(
            f"not one of {outcome.rejected:,} rows could be classified; the first, {outcome.first.source}: "
            f"{outcome.first.reason.rstrip('.')}. All: {rejected_of(given.out)}"
        )
    print(f"{outcome}: {given.out}" + (f", {rejected_of(given.out)}" if outcome.rejected else ""))
    if given.gallery:
        gallery.draw(classifier, source, given.shard, given.out, given.gallery)
        print(given.gallery)
    if outcome.cut:
        _tell_of_cuts(outcome)
        sys.exit(1)


if __name__ == "__main__":
    main()
