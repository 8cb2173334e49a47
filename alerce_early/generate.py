"""Generate stamps with a trained generator, or simulate a night of alert packets.

`python -m alerce_early.generate RUN --class SN --n 64 --out FILE.pkl`
`python -m alerce_early.generate --night 100000 --out FILE.tar.gz`
"""

import argparse
from pathlib import Path

from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError, exit_on_input_error
from alerce_early.files import VERSION
from alerce_early.training import signals


@exit_on_input_error
@signals.listen()
def main() -> None:
    """Write the stamps or packets, and print the paths of the files."""
    parser = argparse.ArgumentParser(prog="python -m alerce_early.generate", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"alerce-early {VERSION}")
    parser.add_argument("run", nargs="?", help="folder of a finished run of a generator, e.g. with model=stamp_vae")
    parser.add_argument("--night", type=int, metavar="N", help="simulate N alert packets instead; takes no RUN")
    parser.add_argument(
        "--class", nargs="+", default=[], dest="names", metavar="CLASS", help="classes to generate (default: all)"
    )
    parser.add_argument("--n", type=int, default=64, help="stamps per class (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, required=True, help="file to write; a picture or the labels are written to the same folder"
    )
    parser.add_argument("--overwrite", action="store_true", help="overwrite existing files")
    given = parser.parse_args()
    if (given.run is None) == (given.night is None):
        raise InputError("expected either the folder of a RUN or --night N.")
    if given.night is not None:
        from alerce_early.simulation import packets  # needs the extra `alerts`

        print(*packets.write(given.out, given.night, given.seed, given.overwrite), sep="\n")
        return
    from alerce_early.experiments.generate import generate  # a slow import that --help does not need

    print(*generate(Run.find(given.run), given.names, given.n, given.seed, given.out, given.overwrite), sep="\n")


if __name__ == "__main__":
    main()
