"""Speed and memory, each as a ratio against a rival measured in the same run: `python -m alerce_early.bench`.

Machines differ and are noisy, so no number here is an absolute one: ours and the rival's take turns, and the
median ratio of the rounds counts.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from alerce_early.benches import ROUNDS, Row, cleaning, training
from alerce_early.errors import InputError, at_the_door
from alerce_early.runs import watch
from alerce_early.runs.folder import Run


def show(rows: Iterator[Row]) -> None:
    for row in rows:
        print(f"{row.what:44} {row.ours:>16} {row.rival:>28} {row.ratio:8.2f}   {row.aim}", flush=True)


def _training(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    yield from training.throughput("rotinv", options.batches, folder)
    yield from training.throughput("course_cnn", 4 * options.batches, folder)


def _inference(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    from alerce_early.benches import inference  # needs what the extra `export` installs

    yield from inference.classifying(_trained(options, folder), options.seconds, folder, options.tensorflow)


def _packets(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    from alerce_early.benches import packets  # needs what the extra `alerts` installs

    yield from packets.reading(options.packets, folder)


def _night(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    from alerce_early.benches import night  # needs what the extra `alerts` installs

    yield from night.classifying(_trained(options, folder), options.packets, folder)


def _trained(options: argparse.Namespace, folder: Path) -> Path:
    """The checkpoint of the run that is given, or else of one that hardly trained, which is as quick."""
    if options.run:
        return Run.find(options.run).trained()
    list(training.throughput("rotinv", options.batches, folder))
    return Run(folder / "rotinv").best


PARTS: dict[str, Callable[[argparse.Namespace, Path], Iterator[Row]]] = {
    "training": _training,
    "cleaning": lambda options, folder: cleaning.time_and_memory(options.n, folder),
    "inference": _inference,
    "packets": _packets,
    "night": _night,
}


@at_the_door
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m alerce_early.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--n", type=int, default=52_244, help="stamps of the file that is cleaned")
    parser.add_argument("--packets", type=int, default=4_000, help="alert packets of the night that is read")
    parser.add_argument("--batches", type=int, default=50, help="batches of a round of training")
    parser.add_argument("--run", help="a run folder whose network to classify with; default: rotinv, hardly trained")
    parser.add_argument("--seconds", type=float, default=5, help="of a round of one runtime")
    parser.add_argument("--tensorflow", default="", help="a Python that has tensorflow, for the rival")
    parser.add_argument("--folder", help="where to work; several gigabytes, removed afterwards")
    options = parser.parse_args()
    if strangers := [part for part in options.parts if part not in PARTS]:
        raise InputError(f"there is no part {', '.join(strangers)}; there are {', '.join(PARTS)}.")
    watch.quiet()
    print(f"{torch.get_num_threads()} threads, median of {ROUNDS} rounds")
    print(f"{'':44} {'ours':>16} {'rival':>28} {'ratio':>8}   aim")
    for part in options.parts or PARTS:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            show(PARTS[part](options, Path(folder)))


if __name__ == "__main__":
    main()
