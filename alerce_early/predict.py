"""Classify alerts with a trained network: from raw files to a table of probabilities.

python -m alerce_early.predict RUN INPUT ... --out FILE
python -m alerce_early.predict RUN --watch FOLDER --out FOLDER
python -m alerce_early.predict RUN kafka://HOST:PORT/TOPIC --group NAME --out FOLDER
"""

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from alerce_early import files
from alerce_early.artifacts import predictions
from alerce_early.errors import InputError, exit_on_input_error, require_extra
from alerce_early.evaluation import tables
from alerce_early.serving import inputs
from alerce_early.serving.classifier import Classifier, load
from alerce_early.serving.inputs import Shard, Source
from alerce_early.serving.output import rejected_of
from alerce_early.serving.predict import predict
from alerce_early.serving.watch import watch
from alerce_early.training import signals

SHOWN = 5  # stamps of each class in the gallery
ROWS = 256  # read at once to find them
STREAM = "kafka://"
OF_FILES = ("shard", "gallery", "html", "overwrite")
OF_STREAMS = ("group", "to", "kafka")


def draw_gallery(classifier: Classifier, source: Source, shard: Shard, out: Path, picture: Path) -> None:
    """Draw the stamps of the rows that are most confident of each class."""
    with require_extra("--gallery"):
        from alerce_early.report import (
            figures,
            pictures,  # with matplotlib, which who only classifies can spare
        )
    table = predictions.read(out)
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
    found = find_stamps(source, shard, list(chosen))
    stamps = np.stack([found[key] for key in chosen])
    pictures.save(figures.gallery(stamps, list(chosen.values()), columns=SHOWN), picture)


def write_page(title: str, source: Source, shard: Shard, out: Path, page: Path) -> None:
    """Write the page of the most probable supernovae among what was classified."""
    with require_extra("--html"):
        from alerce_early.report import night_page
    table = predictions.read(out)
    chosen = [str(table["candid"][row]) for row in night_page.choose(table)]
    stamps = find_stamps(source, shard, chosen)
    files.write_text(page, night_page.write(table, stamps, out.name, title))


def find_stamps(source: Source, shard: Shard, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the stamps (C, H, W) of these rows by key; reads the input once more."""
    found: dict[str, np.ndarray] = {}
    for chunk in source.chunks(ROWS, shard):
        if len(found) == len(keys):
            break
        if chunk.records is not None:
            for i in np.flatnonzero(np.isin(chunk.keys, keys)).tolist():
                found.setdefault(str(chunk.keys[i]), np.moveaxis(chunk.records.images[i], -1, 0).copy())
    return found


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
    add("--survey", choices=["any"], help="take packets of any survey, for a network that was trained for several")
    add("--schemas", metavar="FOLDER|URL", help="the .avsc files, or the registry, of packets without their schema")
    add("--runtime", help="what computes a run: torch (default), bfloat16, openvino")
    add("--gallery", type=Path, metavar="PNG", help="draw the most confident stamps of each class")
    add("--html", type=Path, metavar="PAGE", help="write a page of the most probable supernovae, with their stamps")
    add("--watch", type=Path, metavar="FOLDER", help="classify files as they arrive in it; Ctrl-C ends it")
    add("--engine", choices=("ray",), help="let Ray classify each file of an archive on a core; --out is a folder")
    add("--group", help="of a stream: the consumers that share its partitions")
    add("--to", default="", metavar="URL", help="of a stream: kafka://HOST:PORT/TOPIC that takes the answers, too")
    add("--kafka", type=Path, metavar="FILE", help="of a stream: librdkafka's settings, one NAME=VALUE a line")
    given = parser.parse_intermixed_args()  # options may stand anywhere
    if bool(given.input) == bool(given.watch):
        taken = f" --ensemble took {', '.join(given.ensemble)}; write INPUT before it." if given.ensemble else ""
        raise InputError(f"give either INPUT ... or --watch FOLDER.{taken}")
    streams = [one for one in given.input if one.startswith(STREAM)]
    if given.watch:
        _refuse(parser, given, (*OF_FILES, "engine"), "--watch classifies each file that arrives, whole and once")
    if given.engine:
        _refuse(parser, given, OF_FILES, "--engine classifies each file of an archive, whole")
    if streams:
        _refuse(parser, given, (*OF_FILES, "engine"), f"{streams[0]} is classified as it comes")
        if len(given.input) > 1 or not given.group:
            raise InputError(f"{streams[0]}: a stream is one INPUT alone and needs --group NAME.")
    else:
        _refuse(parser, given, OF_STREAMS, f"files are no stream, which begins with {STREAM}")
    # readers log what they set aside, which here goes to a file
    logging.getLogger(__package__).setLevel(logging.ERROR)
    with signals.listen():
        _do(given)


def _refuse(parser: argparse.ArgumentParser, given: argparse.Namespace, options: Sequence[str], what: str) -> None:
    """Raise InputError if one of these options is given."""
    for name in options:
        if getattr(given, name) != parser.get_default(name):
            raise InputError(f"{what}; leave out --{name}.")


def _stream(classifier: Classifier, given: argparse.Namespace) -> None:
    from alerce_early.data.readers.packets.schemas import Schemas
    from alerce_early.serving.kafka.consumer import Stream, read_settings

    settings = read_settings(given.kafka) if given.kafka else {}
    schemas = Schemas(given.schemas) if given.schemas else None
    with signals.deferred() as stopping:
        Stream(classifier, given.input[0], given.out, given.group, settings, given.to, schemas).run(stopping)


def _do(given: argparse.Namespace) -> None:
    classifier = load(given.run, *given.ensemble, runtime=given.runtime)
    if given.html and (not classifier.classes or classifier.spec.kind != "stamps"):
        raise InputError("--html: shows the stamps of the most probable supernovae; this network takes or tells none.")
    if given.survey:
        classifier.survey = ""
    if given.watch:
        with suppress(signals.Stopped):
            watch(classifier, given.watch, given.out, given.schemas)
        return
    if given.group:
        _stream(classifier, given)
        return
    source = inputs.find(given.input, classifier.spec, given.out, given.schemas)
    if given.engine:
        from alerce_early.serving.cluster import classify_archive

        network = (given.run, *given.ensemble), given.runtime, classifier.survey
        if not classify_archive(*network, source, given.out):
            sys.exit(1)
        return
    outcome = predict(classifier, source, given.out, given.shard, given.overwrite)
    if not outcome.classified and outcome.first:
        raise InputError(
            f"not one of {outcome.rejected:,} rows could be classified; the first, {outcome.first.source}: "
            f"{outcome.first.reason.rstrip('.')}. All: {rejected_of(given.out)}"
        )
    print(f"{outcome}: {given.out}" + (f", {rejected_of(given.out)}" if outcome.rejected else ""))
    for note in outcome.notes():
        print(note)
    if given.gallery:
        draw_gallery(classifier, source, given.shard, given.out, given.gallery)
        print(given.gallery)
    if given.html:
        title = f"By {given.run}, model {classifier.model}: {outcome}."
        write_page(title, source, given.shard, given.out, given.html)
        print(given.html)
    if outcome.cut:
        outcome.warn_of_cuts()
        sys.exit(1)


if __name__ == "__main__":
    main()
