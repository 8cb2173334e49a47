"""Generate stamps with a trained generator: a raw file, and a picture that compares them with real stamps."""

import pickle
from pathlib import Path

import numpy as np
import torch

from alerce_early import files
from alerce_early.artifacts.run_folder import Run
from alerce_early.construct import function
from alerce_early.data.datamodule import AlertData
from alerce_early.data.recipe import centre_crop
from alerce_early.errors import InputError
from alerce_early.experiments.instantiate import make_data
from alerce_early.report import figures, pictures
from alerce_early.tasks import restore
from alerce_early.tasks.generate import GenerateTask

N_SHOWN = 6  # real and generated stamps per class in the picture


def generate(run: Run, names: list[str], n: int, seed: int, out: Path, force: bool = False) -> tuple[Path, Path]:
    """Write generated stamps and a picture that compares them with training stamps.

    The file has the raw format of the training data, for `data.path` or `data.extra`. Pixels are in units of the noise
    of the science image, with the sky at 0; preprocessing gives the same result as for counts. Outside the central
    region that the generator has learned, stamps contain only sky noise.

    Parameters
    ----------
    run : Run
        A finished run of a generator.
    names : list of str
        Classes; empty for all.
    n : int
        Number of stamps per class, at least 1.
    seed : int
        Random seed.
    out : Path
        The file to write; its name ends in .pkl.
    force : bool
        Overwrite existing files.

    Returns
    -------
    file, picture : Path
        Paths of the raw file and of the picture.

    Raises
    ------
    InputError
        If an argument is invalid, a file exists, or the run is not a generator.
    """
    picture = out.with_suffix(".png")
    if out.suffix != ".pkl":
        raise InputError(f"--out {out}: expected a name that ends in .pkl.")
    if not force and (found := [str(file) for file in (out, picture) if file.exists()]):
        raise InputError(f"--out: {', '.join(found)} exists already. Choose another name, or add --overwrite.")
    if n < 1:
        raise InputError(f"--n {n}: expected 1 or more.")
    config = run.config()
    task = load(run)
    unknown = [name for name in names if name not in task.spec.classes]
    if unknown:
        raise InputError(
            f"--class {', '.join(unknown)}: not a class of this generator. Choose from {', '.join(task.spec.classes)}."
        )

    names = names or list(task.spec.classes)
    labels = np.repeat([task.spec.classes.index(name) for name in names], n)
    data = make_data(config)
    stamps = task.generate(labels, data.store.meta["raw_shape"][0], seed)
    raw = task.recipe.undo(stamps).movedim(1, -1).numpy()
    ids = [f"generated-{name}-seed{seed}-{i}" for name in names for i in range(n)]
    to_raw = function(f"{config.data.source._target_.rpartition('.')[0]}.to_raw")
    files.write_bytes(out, pickle.dumps(to_raw(raw, np.repeat(names, n).tolist(), ids)))

    shown = np.concatenate([np.arange(N_SHOWN) % n + i * n for i in range(len(names))])
    real = task.recipe.finish(torch.from_numpy(data.store.images[_real_rows(data, names)]))
    blocks = {"real": real, "generated": centre_crop(stamps[shown], real.shape[-1])}
    tiles = {name: block.numpy().reshape(len(names), N_SHOWN, *block.shape[1:]) for name, block in blocks.items()}
    pictures.save(figures.side_by_side(tiles, names), picture)
    return out, picture


def load(run: Run) -> GenerateTask:
    """Load the generator of a finished run; raise InputError if the run is not a generator."""
    task = restore.task(run.trained())
    if not isinstance(task, GenerateTask):
        raise InputError(
            f"{run.path}: {run.config().model.name} is not a generator. Choose a run with model=stamp_vae."
        )
    return task


def _real_rows(data: AlertData, names: list[str]) -> np.ndarray:
    """Return the row numbers of a few training stamps per class."""
    train = data.parts["train"]
    return np.concatenate([np.resize(train[data.labels[train] == data.classes.index(n)], N_SHOWN) for n in names])
