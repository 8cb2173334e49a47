"""Classify alerts with a trained network: from raw files to a table of probabilities.

python -m alerce_early.predict MODEL INPUT ... --out FILE
python -m alerce_early.predict MODEL INPUT ... --engine ray --out FOLDER

For streams and watched folders see python -m alerce_early.serve --help.
"""

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from alerce_early import files
from alerce_early.artifacts import predictions
from alerce_early.errors import InputError, exit_on_input_error, require_extra
from alerce_early.serving import inputs
from alerce_early.serving.inputs import Shard, Source
from alerce_early.serving.options import load_networks, make_parser, refuse_streams
from alerce_early.serving.output import rejected_of
from alerce_early.serving.predict import find_stamps, predict
from alerce_early.training import signals

# what --engine, with a table for each file, does not take
OF_TABLE = ("shard", "columns", "gallery", "html", "overwrite", "pad_edges")


def illustrate(
    given: argparse.Namespace, classes: Sequence[str], source: Source, title: str, target: str = "SN"
) -> None:
    """Draw the most confident stamps of each class, and write the page of the target class's most probable ones."""
    table, find = predictions.read(given.out), partial(find_stamps, source, given.shard)
    if given.gallery:
        with require_extra("--gallery"):
            from alerce_early.report import figures, pictures  # with matplotlib, which classifying alone does without
        if not len(table["candid"]):
            raise InputError(f"--gallery: {given.out} has no row to show.")
        pictures.save(figures.most_confident(table, classes, find), given.gallery)
        print(given.gallery)
    if given.html:
        with require_extra("--html"):
            from alerce_early.report import night_page
        stamps = find([str(table["candid"][row]) for row in night_page.choose(table, target)])
        files.write_text(
            given.html, night_page.write(table, stamps, given.out.name, title, target, source.spec.channels)
        )
        print(given.html)


def _find_target(model: Path) -> str:
    """Return the target class of a run folder; SN of another network, whose file does not record it."""
    if model.is_dir():
        from alerce_early.artifacts.run_folder import Run

        with suppress(InputError):  # of a folder with checkpoints alone
            return str(Run.find(model).config().target_class)
    return "SN"


def _shard(text: str) -> Shard:
    """Return (1, 4) for "2/4"."""
    numbers = re.fullmatch(r"(\d+)/(\d+)", text)
    index, n = map(int, numbers.groups()) if numbers else (0, 0)
    if not 1 <= index <= n:
        raise argparse.ArgumentTypeError(f"{text}: wanted i/n with i from 1 to n, such as 1/4.")
    return index - 1, n


@exit_on_input_error
@signals.listen()
def main() -> None:
    refuse_streams()
    parser = make_parser("predict", __doc__)
    add = parser.add_argument
    add("input", nargs="+", metavar="INPUT", help="alert packets, archives of them, stamps or HiTS files, spectra")
    add("--out", type=Path, required=True, metavar="FILE", help="the .parquet or .csv to write; a folder of --engine")
    add("--overwrite", action="store_true", help="replace what is there")
    add("--pad-edges", action="store_true", help="take ZTF cutouts that the edge of a chip has cut by up to 20 pixels")
    add("--shard", type=_shard, default=(0, 1), metavar="i/n", help="classify the i-th of n parts of the input")
    add("--gallery", type=Path, metavar="PNG", help="draw the most confident stamps of each class")
    add("--html", type=Path, metavar="PAGE", help="write a page of the most probable supernovae, with their stamps")
    add("--target-class", metavar="CLASS", help="the class that --html shows; default: the run's, or SN")
    add("--engine", choices=("ray",), help="classify each file on a core of a Ray cluster, into a table of its own")
    given = parser.parse_intermixed_args()  # options may stand anywhere
    for name in OF_TABLE if given.engine else ():
        if getattr(given, name) != parser.get_default(name):
            raise InputError(
                f"--engine {given.engine}: classifies each file, whole. Leave out --{name.replace('_', '-')}."
            )
    logging.getLogger(__package__).setLevel(logging.ERROR)  # rejected rows go to a file
    _classify(given)


def _classify(given: argparse.Namespace) -> None:
    classifier = load_networks(given)
    if given.html and (not classifier.classes or classifier.spec.kind != "stamps"):
        raise InputError("--html: shows the stamps of the most probable supernovae; this network takes or tells none.")
    if given.gallery and not classifier.classes:
        raise InputError("--gallery: shows the most confident of each class; this network tells no classes.")
    target = given.target_class or _find_target(Path(given.model))
    if target not in (*classifier.classes, "SN"):
        raise InputError(f"--target-class {target}: choose from {', '.join(classifier.classes)}.")
    if given.embedding and given.out.suffix == ".csv":
        raise InputError(f"--embedding: {given.out} is a CSV, which holds no lists. Give --out a name in .parquet.")
    found = inputs.find(given.input, classifier.spec, given.out, given.schemas, given.columns)
    source = replace(found, pad_edges=given.pad_edges)
    if given.engine:
        from alerce_early.serving.cluster import classify_archive

        networks = (given.model, *given.ensemble), given.runtime, classifier.survey
        if not classify_archive(*networks, source, given.out, given.embedding, given.threshold):
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
    if given.gallery or given.html:
        title = f"By {given.model}, model {classifier.model}: {outcome}."
        illustrate(given, classifier.classes, source, title, target)
    if outcome.cut:
        outcome.warn_of_cuts()
        sys.exit(1)


if __name__ == "__main__":
    main()
