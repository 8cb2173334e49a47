"""Generate stamps with a trained generator, as a raw file and beside real ones; or simulate a night of packets.

`python -m alerce_early.generate RUN --class SN --n 64 --out FILE.pkl`
`python -m alerce_early.generate --night 100000 --out FILE.tar.gz`
"""

import argparse
import pickle
from pathlib import Path

import numpy as np
import torch

from alerce_early import checkpoints, files
from alerce_early.config import make_data
from alerce_early.construct import function
from alerce_early.data.datamodule import AlertData
from alerce_early.data.recipe import centre_crop
from alerce_early.errors import InputError, exit_on_input_error
from alerce_early.report import figures, pictures
from alerce_early.runs import Run
from alerce_early.tasks.generate import GenerateTask

SHOWN = 6  # stamps of each class and kind in the picture


def generate(run: Run, names: list[str], n: int, seed: int, out: Path, force: bool = False) -> tuple[Path, Path]:
    """Write n stamps of each of these classes (of all, if none is named) and a picture; returns both paths.

    The file is in the raw format of the data that the run was trained on, so `data.path` and `data.extra` take
    it. Its images are in units of the science sky's noise about a sky of 0, which any recipe makes the same of
    as of counts. The generator knows the stamps' centre; around it is
    sky without neighbours. The real stamps in the picture are training rows. Raises InputError for what cannot be done.
    """
    picture = out.with_suffix(".png")
    if out.suffix != ".pkl":
        raise InputError(f"--out {out}: the raw format is a pickle; wanted a name that ends in .pkl.")
    if not force and (found := [str(file) for file in (out, picture) if file.exists()]):
        raise InputError(f"{', '.join(found)} exists already. Choose another --out, or overwrite it with --overwrite.")
    if n < 1:
        raise InputError(f"--n {n}: wanted 1 or more.")
    config = run.config()
    task = load(run)
    unknown = [name for name in names if name not in task.spec.classes]
    if unknown:
        raise InputError(f"--class {', '.join(unknown)}: this generator knows {', '.join(task.spec.classes)}.")

    names = names or list(task.spec.classes)
    labels = np.repeat([task.spec.classes.index(name) for name in names], n)
    data = make_data(config)
    stamps = task.generate(labels, data.store.meta["raw_shape"][0], seed)
    raw = task.recipe.undo(stamps).movedim(1, -1).numpy()
    ids = [f"generated-{name}-seed{seed}-{i}" for name in names for i in range(n)]
    to_raw = function(f"{config.data.source._target_.rpartition('.')[0]}.to_raw")
    files.write_bytes(out, pickle.dumps(to_raw(raw, np.repeat(names, n).tolist(), ids)))

    shown = np.concatenate([np.arange(SHOWN) % n + i * n for i in range(len(names))])
    real = task.recipe.finish(torch.from_numpy(data.store.images[_real_rows(data, names)]))
    blocks = {"real": real, "generated": centre_crop(stamps[shown], real.shape[-1])}
    tiles = {name: block.numpy().reshape(len(names), SHOWN, *block.shape[1:]) for name, block in blocks.items()}
    pictures.save(figures.side_by_side(tiles, names), picture)
    return out, picture


def load(run: Run) -> GenerateTask:
    """Return the generator of a finished run; raises InputError if the run is of another kind."""
    task = checkpoints.task(run.trained())
    if not isinstance(task, GenerateTask):
        raise InputError(
            f"{run.path} is a run of {run.config().model.name}, which generates nothing. Try model=stamp_vae."
        )
    return task


def _real_rows(data: AlertData, names: list[str]) -> np.ndarray:
    """Return a few training rows of each of these classes."""
    train = data.parts["train"]
    return np.concatenate([np.resize(train[data.labels[train] == data.classes.index(n)], SHOWN) for n in names])


@exit_on_input_error
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m alerce_early.generate", description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", help="folder of a finished run of a generator, e.g. model=stamp_vae")
    parser.add_argument("--night", type=int, metavar="N", help="instead of a run: N simulated alert packets")
    parser.add_argument("--class", nargs="+", default=[], dest="names", metavar="CLASS", help="default: all")
    parser.add_argument("--n", type=int, default=64, help="stamps of each class (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="other stamps for another seed (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="what to write; a picture or labels go beside it")
    parser.add_argument("--overwrite", action="store_true", help="overwrite")
    given = parser.parse_args()
    if (given.run is None) == (given.night is None):
        raise InputError("wanted either the folder of a RUN or --night N.")
    if given.night is not None:
        from alerce_early.simulation import simulated_packets  # needs what the extra `alerts` installs

        print(*simulated_packets.write(given.out, given.night, given.seed, given.overwrite), sep="\n")
        return
    print(*generate(Run.find(given.run), given.names, given.n, given.seed, given.out, given.overwrite), sep="\n")


if __name__ == "__main__":
    main()
