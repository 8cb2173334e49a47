"""The command lines of `predict` and `serve`: which networks classify, how, and which verb takes what."""

import argparse
import shlex

from alerce_early.errors import InputError
from alerce_early.files import VERSION
from alerce_early.serving.classifier import Classifier, load

STREAM = "kafka://"  # begins the address of a stream
OF_STREAMS = ("--group", "--to", "--kafka")


def make_parser(verb: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a program that classifies, with the options that all of them share."""
    parser = argparse.ArgumentParser(
        prog=f"python -m alerce_early.{verb}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"alerce-early {VERSION}")
    add("model", metavar="MODEL", help="a run folder, a checkpoint, an exported file, or a bundled network such as ztf")
    add("--ensemble", nargs="+", default=[], metavar="MODEL", help="average MODEL with these; give it last")
    add("--survey", choices=["any"], help="take packets of any survey, for a network trained on several")
    add("--schemas", metavar="FOLDER|URL", help="the .avsc files, or the registry, of packets without their schema")
    add("--embedding", action="store_true", help="add a column with the output of the network's last hidden layer")
    add("--columns", type=_columns, metavar="images=NAME,ids=NAME", help="names in npz, HDF5 and pickled stamps files")
    add(
        "--threshold",
        action="append",
        default=[],
        metavar="CLASS:purity=LEVEL",
        help="""add a column is_CLASS by the
        run's operating point for a purity, or a completeness, such as SN:purity=.9""",
    )
    add("--runtime", help="how to run a checkpoint: auto (default), float32, mixed, bfloat16, torch, openvino")
    return parser


def _columns(text: str) -> dict[str, str]:
    """Return {"images": "image_triplet"} for "images=image_triplet"."""
    pairs = [part.partition("=") for part in text.split(",")]
    if any(not name or not mark for _, mark, name in pairs):
        raise argparse.ArgumentTypeError(f"{text}: expected PART=NAME, such as images=image_triplet.")
    return {part.strip(): name.strip() for part, _, name in pairs}


def load_networks(given: argparse.Namespace) -> Classifier:
    """Load the classifier that the shared options name."""
    classifier = load(given.model, *given.ensemble, runtime=given.runtime, embedding=given.embedding)
    if given.survey:
        classifier.survey = ""
    for text in given.threshold:
        classifier.flag(text)
    return classifier


def refuse_streams() -> None:
    """Raise InputError, with the command to type, where the command line of `predict` asks for what `serve` does."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--watch", nargs="?", const="FOLDER")
    given, words = parser.parse_known_args()
    if given.watch or any(word.startswith(STREAM) or word.partition("=")[0] in OF_STREAMS for word in words):
        place = len(words) if "".join(words[:1]).startswith("-") else 1  # after MODEL, before what --ensemble takes
        words[place:place] = filter(None, [given.watch])
        command = shlex.join(["python", "-m", "alerce_early.serve", *words])
        raise InputError(f"predict takes files only, no stream and no folder to watch. Type: {command}")
