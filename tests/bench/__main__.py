"""Speed and memory, each as a ratio against a rival measured in the same run: `python -m tests.bench`.

Machines differ and are noisy, so no number here is an absolute one.
"""

import argparse
import tempfile
from pathlib import Path

from alerce_early.errors import InputError, exit_on_input_error
from alerce_early.training import signals


@exit_on_input_error
@signals.listen()
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    add = parser.add_argument
    add("measures", nargs="*", metavar="MEASURE", help="train, start, clean, classify or label (default: all)")
    add("--n", type=int, default=52_244, help="stamps of the file that is cleaned")
    add("--packets", type=int, default=4_000, help="alert packets of the archive that is classified")
    add("--batches", type=int, default=50, help="batches of a round of training")
    add("--run", help="a run folder whose network to classify with; default: rotinv, hardly trained")
    add("--seconds", type=float, default=5, help="of a round of one runtime")
    options = parser.parse_args()
    from tests.bench import measures  # with torch, which --help need not wait for

    if unknown := [name for name in options.measures if name not in measures.MEASURES]:
        raise InputError(f"there is no measure {', '.join(unknown)}; there are {', '.join(measures.MEASURES)}.")
    measures.announce()
    for name in options.measures or measures.MEASURES:
        with tempfile.TemporaryDirectory() as folder:
            measures.MEASURES[name](options, Path(folder))


if __name__ == "__main__":
    main()
