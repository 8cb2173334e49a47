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

# Options that --engine, which writes one table per file, does not support.
SINGLE_TABLE_OPTIONS = ("shard", "columns", "gallery", "html", "overwrite", "pad_edges")


def illustrate(
    given: argparse.Namespace, classes: Sequence[str], source: Source, title: str, target: str = "SN"
) -> None:
    """Draw the most confident stamps of each class (--gallery), and write a page of the best candidates (--html).

    Parameters
    ----------
    given : argparse.Namespace
        The options ``out``, ``shard``, ``gallery`` and ``html``.
    classes : sequence of str
        Class names.
    source : Source
        The input, which is read again for the stamps.
    title : str
        Title of the page.
    target : str, default "SN"
        Class whose most probable alerts the page shows.

    Raises
    ------
    InputError
        If the table has no rows, or an extra is not installed.
    """
    table, find = predictions.read(given.out), partial(find_stamps, source, given.shard)
    if given.gallery:
        with require_extra("--gallery"):
            from alerce_early.report import figures, pictures  # imports matplotlib, which classifying does not need
        if not len(table["candid"]):
            raise InputError(f"--gallery: {given.out} has no rows to show. Leave it out.")
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
    """Return the target class of a run folder, or SN for other networks, whose files do not record it."""
    if model.is_dir():
        from alerce_early.artifacts.run_folder import Run

        with suppress(InputError):  # a folder with checkpoints but without a config
            return str(Run.find(model).config().target_class)
    return "SN"


def _shard(text: str) -> Shard:
    """Parse "2/4" to (1, 4)."""
    numbers = re.fullmatch(r"(\d+)/(\d+)", text)
    index, n = map(int, numbers.groups()) if numbers else (0, 0)
    if not 1 <= index <= n:
        raise argparse.ArgumentTypeError(f"{text}: not a part of the input. Give i/n with i from 1 to n, such as 1/4.")
    return index - 1, n


@exit_on_input_error
@signals.listen()
def main() -> None:
    """Run the program."""
    refuse_streams()
    parser = make_parser("predict", __doc__)
    add = parser.add_argument
    add("input", nargs="+", metavar="INPUT", help="alert packets, archives of them, stamps or HiTS files, spectra")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="the .parquet or .csv file to write; with --engine a folder",
    )
    add("--overwrite", action="store_true", help="replace an existing output")
    add("--pad-edges", action="store_true", help="accept ZTF cutouts that lack up to 20 pixels at a detector edge")
    add("--shard", type=_shard, default=(0, 1), metavar="i/n", help="classify the i-th of n parts of the input")
    add("--gallery", type=Path, metavar="PNG", help="draw the most confident stamps of each class")
    add("--html", type=Path, metavar="PAGE", help="write a page of the most probable supernovae, with their stamps")
    add("--target-class", metavar="CLASS", help="class to show in --html; default: the run's target class, or SN")
    add("--engine", choices=("ray",), help="classify each file on one core of a Ray cluster, into its own table")
    given = parser.parse_intermixed_args()  # options between positional arguments
    for name in SINGLE_TABLE_OPTIONS if given.engine else ():
        if getattr(given, name) != parser.get_default(name):
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"--engine {given.engine}: does not support {option}. Leave one of them out.")
    logging.getLogger(__package__).setLevel(logging.ERROR)  # rejected rows go to a file
    _classify(given)


def _classify(given: argparse.Namespace) -> None:
    """Classify the input of a parsed command line and print a summary."""
    classifier = load_networks(given)
    if given.html and (not classifier.classes or classifier.spec.kind != "stamps"):
        raise InputError("--html: needs a classifier of stamps, which this network is not. Leave it out.")
    if given.gallery and not classifier.classes:
        raise InputError("--gallery: needs a classifier, which this network is not. Leave it out.")
    target = given.target_class or _find_target(Path(given.model))
    if target not in (*classifier.classes, "SN"):
        raise InputError(
            f"--target-class {target}: not a class of this network. Choose from {', '.join(classifier.classes)}."
        )
    if given.embedding and given.out.suffix == ".csv":
        raise InputError(f"--embedding: {given.out} is a CSV, which cannot contain lists. Use .parquet for --out.")
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
            f"none of the {outcome.rejected:,} rows could be classified. The first is {outcome.first.source}: "
            f"{outcome.first.reason.rstrip('.')}. See {rejected_of(given.out)} for all."
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
