"""Stamps by a trained generator, as a raw file, and beside real ones as a picture."""

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
    task = restore.task(run.trained())
    if not isinstance(task, GenerateTask):
        raise InputError(
            f"{run.path} is a run of {run.config().model.name}, which generates nothing. Try model=stamp_vae."
        )
    return task


def _real_rows(data: AlertData, names: list[str]) -> np.ndarray:
    """Return a few training rows of each of these classes."""
    train = data.parts["train"]
    return np.concatenate([np.resize(train[data.labels[train] == data.classes.index(n)], SHOWN) for n in names])
