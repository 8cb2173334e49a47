"""Files classified as they arrive in a folder, each when it is whole."""

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

PAUSE = 1.0  # seconds between two looks


def arrivals(folder: Path, ends: tuple[str, ...], known: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield the files of a folder whose names end in one of `ends`, forever: each once, of one look the oldest first.

    A file counts as complete when two looks, at least `PAUSE` seconds apart, find the same size and time. A writer that
    may pause for longer should use another ending or a leading dot, and rename the file when it is complete.
    known: whether a file need not be given, asked once. Raises InputError if there is no such folder.
    """
    given: set[Path] = set()
    looks: dict[Path, tuple[int, int]] = {}
    while True:
        before, looks = looks, {}
        try:
            there = {file for file in folder.iterdir() if file.name.lower().endswith(ends) and file.name[0] != "."}
        except OSError as error:
            raise InputError(f"{folder} cannot be watched: {error.strerror}. Give a folder or a stream.") from None
        for file in there - given:
            with suppress(OSError):  # removed since, or a link to nothing
                looks[file] = (facts := file.stat()).st_mtime_ns, facts.st_size
        for file, _ in sorted(looks.items() & before.items(), key=lambda look: look[::-1]):
            given.add(file)
            if not known(file):
                yield file
        time.sleep(PAUSE)


def watch(
    classifier: Classifier, folder: Path, results: Path, schemas: str | None = None, columns: inputs.Columns = None
) -> None:
    """Classify the files of a folder as they arrive, FILE to results/FILE.parquet, until the process is stopped.

    A file with a result is done and stays so, whatever happens to it; one that a stopped process had begun is
    continued first. So each row is classified exactly once, and one that came in an earlier file is a duplicate.
    A file that is not for the network is named and tried again at the next start.
    Raises InputError if another process watches for these results, or a file needs an extra that is not installed.
    """

    def out(file: Path) -> Path:
        return results / f"{file.name}.parquet"

    def done(file: Path) -> bool:
        return (out(file).exists() or rejected_of(out(file)).exists()) and not partial_of(out(file)).exists()

    with alone(results):
        seen: set[int] = set()
        for file in sorted(results.glob("*.parquet")):
            try:
                seen.update(map(hash, predictions.read(file, ["candid"])["candid"].astype(str).tolist()))
            except InputError as error:  # not from here
                print(f"passed over: {error}", file=sys.stderr, flush=True)
        ends = inputs.endings(classifier.spec)
        begun = (folder / path.name.removesuffix(".parquet.partial") for path in sorted(results.glob("*.partial")))
        print(f"{classifier.model} waits for files in {folder}", flush=True)
        for file in chain(filter(Path.exists, begun), arrivals(folder, ends, done)):
            try:
                source = inputs.find([file], classifier.spec, schemas=schemas, columns=columns)
                outcome = predict(classifier, source, out(file), seen=seen)
                print(f"{text.to_printable(file.name)}: {outcome}", flush=True)
                outcome.warn_of_cuts()
            except MissingExtraError:  # the next file would lack it as well
                raise
            except InputError as error:
                print(f"error: {error}", file=sys.stderr, flush=True)


@contextmanager
def alone(results: Path) -> Iterator[None]:
    """Be the only one that watches for this folder; raises InputError if another process does."""
    try:
        with files.hold_lock(results / ".watch", 0, "--out"):
            yield
    except files.BusyError:
        raise InputError(f"--out {results}: another process writes there, and would classify the same rows.") from None
