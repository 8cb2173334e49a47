"""Measure speed and memory relative to simple baselines: `python -m tests.bench`.

Machines differ and are noisy, so each result is a ratio to a baseline measured in the same run.
"""

import argparse
import tempfile
from pathlib import Path

from alerce_early.errors import InputError, exit_on_input_error
from alerce_early.training import signals


@exit_on_input_error
@signals.listen()
def main() -> None:
    """Parse the options and run the chosen measures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    add = parser.add_argument
    add("measures", nargs="*", metavar="MEASURE", help="train, start, clean, classify or label (default: all)")
    add("--n", type=int, default=52_244, help="number of stamps in the file to clean (default: %(default)s)")
    add("--packets", type=int, default=4_000, help="number of alert packets to classify (default: %(default)s)")
    add("--batches", type=int, default=50, help="batches per epoch of training (default: %(default)s)")
    add("--run", help="run folder of the network to classify with (default: rotinv, briefly trained)")
    add("--seconds", type=float, default=5, help="seconds per round of a runtime (default: %(default)s)")
    options = parser.parse_args()
    from tests.bench import measures  # imports torch, which --help does not need

    if unknown := [name for name in options.measures if name not in measures.MEASURES]:
        raise InputError(f"{', '.join(unknown)}: unknown measure. Choose from {', '.join(measures.MEASURES)}.")
    measures.announce()
    for name in options.measures or measures.MEASURES:
        with tempfile.TemporaryDirectory() as folder:
            measures.MEASURES[name](options, Path(folder))


if __name__ == "__main__":
    main()
