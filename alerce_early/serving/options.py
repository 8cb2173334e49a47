"""Options that the programs `predict` and `serve` share, and how they load networks."""

import argparse
import shlex

from alerce_early.errors import InputError
from alerce_early.files import VERSION
from alerce_early.serving.classifier import Classifier, load

STREAM = "kafka://"  # prefix of the address of a stream
STREAM_OPTIONS = ("--group", "--to", "--kafka")


def make_parser(verb: str, description: str | None) -> argparse.ArgumentParser:
    """Return the argument parser of a program with MODEL and the shared options.

    Parameters
    ----------
    verb : str
        Name of the program.
    description : str or None
        Text at the top of its help.

    Returns
    -------
    argparse.ArgumentParser
        The parser; the program adds its own options to it.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m alerce_early.{verb}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"alerce-early {VERSION}")
    add("model", metavar="MODEL", help="a run folder, a checkpoint, an exported file, or a bundled network such as ztf")
    add(
        "--ensemble",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="average MODEL and these networks; give this option last",
    )
    add("--survey", choices=["any"], help="accept packets of any survey, for a network trained on several")
    add("--schemas", metavar="FOLDER|URL", help=".avsc files, or a schema registry, for packets without their schema")
    add("--embedding", action="store_true", help="add a column with the output of the network's last hidden layer")
    add("--columns", type=_columns, metavar="images=NAME,ids=NAME", help="array names in npz, HDF5 and pickle files")
    add(
        "--threshold",
        action="append",
        default=[],
        metavar="CLASS:purity=LEVEL",
        help="add a column is_CLASS: alerts at the run's operating point for this purity (or completeness), such as "
        "SN:purity=.9; repeat it for more classes",
    )
    add("--runtime", help="how to run a checkpoint: auto (default), float32, mixed, bfloat16, torch, openvino")
    return parser


def _columns(text: str) -> dict[str, str]:
    """Parse "images=image_triplet" to {"images": "image_triplet"}."""
    pairs = [part.partition("=") for part in text.split(",")]
    if any(not name or not mark for _, mark, name in pairs):
        raise argparse.ArgumentTypeError(f"{text}: not a list of names. Give PART=NAME, such as images=image_triplet.")
    return {part.strip(): name.strip() for part, _, name in pairs}


def load_networks(given: argparse.Namespace) -> Classifier:
    """Load the classifier of the shared options."""
    classifier = load(given.model, *given.ensemble, runtime=given.runtime, embedding=given.embedding)
    if given.survey:
        classifier.survey = ""
    for text in given.threshold:
        classifier.flag(text)
    return classifier


def refuse_streams() -> None:
    """Refuse a stream or a watched folder in the command line of `predict`.

    Raises
    ------
    InputError
        With the equivalent command of `serve`, if the command line has --watch, a stream or an option of streams.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--watch", nargs="?", const="FOLDER")
    given, words = parser.parse_known_args()
    if given.watch or any(word.startswith(STREAM) or word.partition("=")[0] in STREAM_OPTIONS for word in words):
        place = len(words) if "".join(words[:1]).startswith("-") else 1  # after MODEL, but not after --ensemble
        words[place:place] = filter(None, [given.watch])
        command = shlex.join(["python", "-m", "alerce_early.serve", *words])
        raise InputError(f"predict: classifies files, not streams or watched folders. Use serve instead: {command}")
