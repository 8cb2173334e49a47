"""Classify alerts with a trained network: from raw files to a table of probabilities.

python -m alerce_early.predict RUN INPUT ... --out FILE
python -m alerce_early.predict RUN --watch FOLDER --out FOLDER
"""

import argparse
import logging
import re
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

from alerce_early import tables
from alerce_early.errors import InputError, exit_on_input_error, require_extra
from alerce_early.serving import inputs
from alerce_early.serving.classifier import Classifier, load
from alerce_early.serving.inputs import Shard, Source
from alerce_early.serving.parts import rejected_of
from alerce_early.serving.predicting import predict
from alerce_early.serving.watching import alone, watch
from alerce_early.training import signals

SHOWN = 5  # stamps of each class in the gallery
ROWS = 256  # read at once to find them


def draw_gallery(classifier: Classifier, source: Source, shard: Shard, out: Path, picture: Path) -> None:
    """Draw the stamps of the rows that are most confident of each class; reads the input once more to find them."""
    with require_extra("--gallery"):
        from alerce_early.report import (
            figures,
            pictures,  # with matplotlib, which who only classifies can spare
        )
    table = tables.read(out)
    if not classifier.classes:
        raise InputError("--gallery: shows the most confident of each class; this network tells no classes.")
    if not len(table["candid"]):
        raise InputError(f"--gallery: {out} has no row to show.")
    chosen: dict[str, str] = {}
    predicted = tables.probabilities(table, classifier.classes).argmax(1)  # a CSV may take names for numbers
    for number, name in enumerate(classifier.classes):
        rows = np.flatnonzero(predicted == number)
        for row in rows[np.argsort(-table[f"q_{name}"][rows], kind="stable")][:SHOWN]:
            chosen[str(table["candid"][row])] = f"{name}, q = {table[f'q_{name}'][row]:.2f}\n{table['id'][row]}"
    found: dict[str, np.ndarray] = {}
    for chunk in source.chunks(ROWS, shard):
        if chunk.records is not None:
            for i in np.flatnonzero(np.isin(chunk.keys, list(chosen))).tolist():
                found.setdefault(str(chunk.keys[i]), np.moveaxis(chunk.records.images[i], -1, 0).copy())
        if len(found) == len(chosen):
            break
    stamps = np.stack([found[key] for key in chosen])
    pictures.save(figures.gallery(stamps, list(chosen.values()), columns=SHOWN), picture)


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
    add("run", help="a run folder, a checkpoint, a file that export wrote, or a pretrained network, as ztf")
    add("input", nargs="*", metavar="INPUT", help="alert packets, archives of them, stamps or HiTS files, spectra")
    add("--out", type=Path, required=True, help="the .parquet or .csv to write; of --watch, a folder")
    add("--overwrite", action="store_true", help="replace what is there")
    add("--shard", type=_shard, default=(0, 1), metavar="i/n", help="classify the i-th of n parts of the input")
    add("--ensemble", nargs="+", default=[], metavar="RUN", help="average RUN with these")
    add("--runtime", help="what computes a run: torch (default), bfloat16, openvino")
    add("--gallery", type=Path, metavar="PNG", help="draw the most confident stamps of each class")
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
        draw_gallery(classifier, source, given.shard, given.out, given.gallery)
        print(given.gallery)
    if outcome.cut:
        outcome.warn_of_cuts()
        sys.exit(1)


if __name__ == "__main__":
    main()
