"""Classify alerts as they arrive: from a Kafka stream, or as files in a watched folder.

python -m alerce_early.serve MODEL kafka://HOST:PORT/TOPIC --group NAME --out FOLDER
python -m alerce_early.serve MODEL INCOMING --out FOLDER

Runs until Ctrl-C or SIGTERM. The same command continues where it stopped and does not repeat an alert.
"""

import argparse
import logging
from contextlib import suppress
from pathlib import Path

from alerce_early.errors import InputError, exit_on_input_error
from alerce_early.serving.classifier import Classifier
from alerce_early.serving.options import STREAM, load_networks, make_parser
from alerce_early.serving.watch import watch
from alerce_early.training import signals


def _follow(classifier: Classifier, given: argparse.Namespace) -> None:
    """Classify the messages of a stream."""
    from alerce_early.data.readers.packets.schemas import Schemas
    from alerce_early.serving.kafka.consumer import Stream, read_settings  # needs an extra that folders do not need

    settings = read_settings(given.kafka) if given.kafka else {}
    schemas = Schemas(given.schemas) if given.schemas else None
    with signals.deferred() as stopping:
        Stream(classifier, given.source, given.out, given.group, settings, given.to, schemas).run(stopping)


@exit_on_input_error
@signals.listen()
def main() -> None:
    """Run the program."""
    parser = make_parser("serve", __doc__)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="kafka://HOST:PORT/TOPIC[,TOPIC], ^PATTERN for several; or a folder to watch")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="output folder: parts of a stream, or one table per file",
    )
    add = parser.add_argument_group("streams only").add_argument
    add("--group", metavar="NAME", help="Kafka consumer group (required); consumers of one group share the partitions")
    add("--to", default="", metavar="URL", help="kafka://HOST:PORT/TOPIC that also receives the predictions, as JSON")
    add("--kafka", type=Path, metavar="FILE", help="librdkafka settings such as passwords, one NAME=VALUE per line")
    given = parser.parse_intermixed_args()  # options between positional arguments
    streamed = given.source.startswith(STREAM)
    if streamed and not given.group:
        raise InputError(f"{given.source}: a stream needs a group of consumers. Add --group NAME.")
    if not streamed and (given.group or given.to or given.kafka):
        raise InputError(f"{given.source}: not a stream. Leave out --group, --to and --kafka, or give {STREAM}...")
    if not (streamed or Path(given.source).is_dir()):
        raise InputError(f"{given.source}: not a folder. Give one to watch, or a stream as {STREAM}HOST:PORT/TOPIC.")
    logging.getLogger(__package__).setLevel(logging.ERROR)  # rejected rows go to a file
    classifier = load_networks(given)
    if streamed:
        _follow(classifier, given)
    else:
        with suppress(signals.Stopped):
            watch(classifier, Path(given.source), given.out, given.schemas, given.columns)


if __name__ == "__main__":
    main()
