"""Generate stamps with a trained generator, as a raw file and beside real ones; or simulate a night of packets.

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
    parser = argparse.ArgumentParser(prog="python -m alerce_early.generate", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"alerce-early {VERSION}")
    parser.add_argument("run", nargs="?", help="folder of a finished run of a generator, e.g. model=stamp_vae")
    parser.add_argument("--night", type=int, metavar="N", help="instead of a run: N simulated alert packets")
    parser.add_argument("--class", nargs="+", default=[], dest="names", metavar="CLASS", help="default: all")
    parser.add_argument("--n", type=int, default=64, help="stamps of each class (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="other stamps for another seed (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="what to write; a picture or labels go beside it")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    given = parser.parse_args()
    if (given.run is None) == (given.night is None):
        raise InputError("wanted either the folder of a RUN or --night N.")
    if given.night is not None:
        from alerce_early.simulation import packets  # needs what the extra `alerts` installs

        print(*packets.write(given.out, given.night, given.seed, given.overwrite), sep="\n")
        return
    from alerce_early.experiments.generate import generate  # with torch, which --help need not wait for

    print(*generate(Run.find(given.run), given.names, given.n, given.seed, given.out, given.overwrite), sep="\n")


if __name__ == "__main__":
    main()
