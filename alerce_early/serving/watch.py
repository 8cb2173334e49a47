"""Classify files as they arrive in a folder, each once it is complete."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from alerce_early import files
from alerce_early.artifacts import predictions
from alerce_early.data import text
from alerce_early.errors import InputError, MissingExtraError
from alerce_early.serving import inputs
from alerce_early.serving.classifier import Classifier
from alerce_early.serving.output import partial_of, rejected_of
from alerce_early.serving.predict import predict

PAUSE = 1.0  # seconds between two listings of the folder


def arrivals(folder: Path, ends: tuple[str, ...], known: Callable[[Path], bool]) -> Iterator[Path]:
    """Watch a folder forever and yield each new file once it is complete.

    A file counts as complete if its size and modification time do not change between two listings, at least `PAUSE`
    seconds apart. A program that can pause for longer should write under another extension or with a leading dot, and
    rename the file at the end.

    Parameters
    ----------
    folder : Path
        The folder.
    ends : tuple of str
        Extensions of the files to yield, in lower case.
    known : callable
        Function of a complete file that returns True to skip it for good.

    Yields
    ------
    Path
        Each file once; files that complete at the same time are sorted from old to new.

    Raises
    ------
    InputError
        If the folder cannot be listed.
    """
    done: set[Path] = set()
    listing: dict[Path, tuple[int, int]] = {}
    while True:
        before, listing = listing, {}
        try:
            there = {file for file in folder.iterdir() if file.name.lower().endswith(ends) and file.name[0] != "."}
        except OSError as error:
            raise InputError(f"{folder} cannot be watched: {error.strerror}. Give a folder or a stream.") from None
        for file in there - done:
            with suppress(OSError):  # removed since, or a broken link
                listing[file] = (facts := file.stat()).st_mtime_ns, facts.st_size
        for file, _ in sorted(listing.items() & before.items(), key=lambda item: item[::-1]):
            done.add(file)
            if not known(file):
                yield file
        time.sleep(PAUSE)


def watch(
    classifier: Classifier, folder: Path, results: Path, schemas: str | None = None, columns: inputs.Columns = None
) -> None:
    """Classify the files of a folder as they arrive, FILE to results/FILE.parquet, until the process is stopped.

    Each row is classified once: a file with a result is never read again, an interrupted file is resumed first, and a
    row that also came in an earlier file is rejected as a duplicate. A file that the network cannot classify is
    reported, and tried again at the next start.

    Parameters
    ----------
    classifier : Classifier
        The network.
    folder : Path
        Folder of the incoming files.
    results : Path
        Folder of the tables.
    schemas, columns
        See `Source`.

    Raises
    ------
    InputError
        If another process writes to the results, or if a file needs an extra that is not installed.
    """

    def out(file: Path) -> Path:
        return results / f"{file.name}.parquet"

    def done(file: Path) -> bool:
        return (out(file).exists() or rejected_of(out(file)).exists()) and not partial_of(out(file)).exists()

    with lock_results(results):
        seen: set[int] = set()
        for file in sorted(results.glob("*.parquet")):
            try:
                seen.update(map(hash, predictions.read(file, ["candid"])["candid"].astype(str).tolist()))
            except InputError as error:  # a table of another program
                print(f"warning: {error}", file=sys.stderr, flush=True)
        ends = inputs.endings(classifier.spec)
        started = (folder / path.name.removesuffix(".parquet.partial") for path in sorted(results.glob("*.partial")))
        print(f"{classifier.model} waits for files in {folder}", flush=True)
        for file in chain(filter(Path.exists, started), arrivals(folder, ends, done)):
            try:
                source = inputs.find([file], classifier.spec, schemas=schemas, columns=columns)
                outcome = predict(classifier, source, out(file), seen=seen)
                print(f"{text.to_printable(file.name)}: {outcome}", flush=True)
                outcome.warn_of_cuts()
            except MissingExtraError:  # every other file would need it, too
                raise
            except InputError as error:
                print(f"error: {error}", file=sys.stderr, flush=True)


@contextmanager
def lock_results(results: Path) -> Iterator[None]:
    """Hold the lock of a folder of results.

    Raises
    ------
    InputError
        If another process holds it.
    """
    try:
        with files.hold_lock(results / ".watch", 0, "--out"):
            yield
    except files.BusyError:
        raise InputError(f"--out {results}: another process writes there. Stop it, or choose another --out.") from None
