"""Files classified as they arrive in a folder, each when it is whole."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from alerce_early import files
from alerce_early.artifacts import predictions
from alerce_early.data import text
from alerce_early.errors import InputError
from alerce_early.serving import inputs
from alerce_early.serving.classifier import Classifier
from alerce_early.serving.output import partial_of, rejected_of
from alerce_early.serving.predict import Seen, predict

PAUSE = 1.0  # seconds between two looks


def arrivals(folder: Path, ends: tuple[str, ...], known: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield the files of a folder whose names end in one of `ends`, for ever: the oldest first, each once.

    A file is taken for whole when its size and time are those of a look at least `PAUSE` seconds before, so one whose
    writer stops for as long may be met too early; one that is written under a name with another ending, or a leading
    dot, and then renamed cannot. One that cannot be looked at is passed over until it can.
    known: whether a file need not be given, asked once. Raises InputError if there is no such folder.
    """
    given: set[str] = set()
    since: dict[str, tuple[tuple[int, int], float]] = {}  # how each file looks, and when it first looked so
    while True:
        try:
            there = [
                file for file in folder.iterdir() if file.name.lower().endswith(ends) and not file.name.startswith(".")
            ]
        except OSError as error:
            raise InputError(f"--watch {folder} cannot be read: {error.strerror}.") from None
        looks: dict[str, tuple[tuple[int, int], float]] = {}
        whole = []
        for file in there:
            if file.name in given:
                continue
            now = time.monotonic()
            try:
                facts = file.stat()
            except OSError:  # gone again, or a link to nothing
                continue
            look = (facts.st_mtime_ns, facts.st_size)
            before = since.get(file.name)
            looks[file.name] = before if before and before[0] == look else (look, now)
            if now - looks[file.name][1] >= PAUSE:
                whole.append(file.name)
        for name in sorted(whole, key=lambda name: (looks[name][0], name)):
            given.add(name)
            if not known(folder / name):
                yield folder / name
        since = {name: look for name, look in looks.items() if name not in given}
        if not whole:
            time.sleep(PAUSE)


def watch(classifier: Classifier, folder: Path, results: Path, schemas: str | None = None) -> None:
    """Classify the files of a folder as they arrive, FILE to results/FILE.parquet, until the process is stopped.

    A file with a result is done and stays so, whatever happens to it; one that a stopped process had begun is gone
    on with, before all others. So each row is classified exactly once, and one that came in an earlier file
    is a duplicate. A file that is not for the network is named and tried again at the next start.
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
            seen.add(predictions.read(file, ["candid"])["candid"].astype(str))
        except InputError as error:  # not from here
            print(f"passed over: {error}", file=sys.stderr, flush=True)
    ends = inputs.endings(classifier.spec)
    begun = (folder / path.name.removesuffix(".parquet.partial") for path in sorted(results.glob("*.partial")))
    print(f"{classifier.model} waits for files in {folder}", flush=True)
    for file in chain((file for file in begun if file.exists()), arrivals(folder, ends, done)):
        try:
            outcome = predict(classifier, inputs.find([file], classifier.spec, schemas=schemas), out(file), seen=seen)
            print(f"{text.to_printable(file.name)}: {outcome}", flush=True)
            outcome.warn_of_cuts()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)


@contextmanager
def alone(results: Path) -> Iterator[None]:
    """Be the only one that watches for this folder; raises InputError if another process does."""
    try:
        with files.hold_lock(results / ".watch", 0, "--out"):
            yield
    except files.BusyError:
        raise InputError(f"--out {results}: another --watch writes there, and would classify the same rows.") from None
