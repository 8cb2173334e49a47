"""Make the golden checkpoints of end_to_end/test_checkpoints.py: `python -m tests.make_golden FORMAT_FOLDER`.

Train one small run of each task and save its best checkpoint without optimiser state, a raw input and the outputs.
Run this only after increasing `FORMAT`, and into a new folder: the old folders prove that old checkpoints still open.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from alerce_early.artifacts import checkpoints
from alerce_early.construct import function
from alerce_early.evaluation import calibration, conformal
from alerce_early.experiments.config import compose_config, to_plain
from alerce_early.experiments.run import train
from alerce_early.tasks import restore
from alerce_early.tasks.generate import GenerateTask

SHORT = [
    "trainer.max_epochs=2",
    "data.batches_per_epoch=20",
    "data.split.validation=20",
    "data.split.test=20",
    "data.batch_size=16",
]
STAMPS = [*SHORT, "data.n=1500", "recipe.size=9", "augment=none"]
SPECTRA = [*SHORT, "data.n=800"]
SYSTEMS = {
    "classify": [
        *STAMPS,
        "model=preliminary_cnn",
        "recipe=joint",
        "model.net.layers=[conv 4 3,relu,pool,flatten,dense 8]",
    ],
    "bayes": [*STAMPS, "model=hits_flipout", "model.net.hidden=[4]", "model.task.draws=5"],
    "generate": [*STAMPS, "model=stamp_vae", "model.net.width=2", "model.net.latent=2"],
    "regress": [*SPECTRA, "model=spectra_redshift", "model.net.filters=[2,2,2,2]"],
    "lines": [*SPECTRA, "model=spectra_lines", "model.net.width=8", "model.net.blocks=1"],
}
ROWS = 3
PLAIN = ("format", "task", "hyper_parameters", "state_dict", "calibration", "conformal", "epoch")


def outputs(path: Path, raw: np.ndarray) -> dict[str, np.ndarray]:
    """Predict with a checkpoint, without its run folder.

    Parameters
    ----------
    path : Path
        The checkpoint.
    raw : ndarray (B, H, W, C) or (B, L, C) of float32
        Raw stamps or spectra.

    Returns
    -------
    dict of str to ndarray
        All output columns, each with B rows, and `generated` samples if the network is generative.
    """
    held = checkpoints.read(path)
    task = restore.task(path, held)
    batch = {
        "image": task.recipe(torch.from_numpy(raw).movedim(-1, 1)),
        "label": torch.arange(len(raw)) % len(task.spec.classes),
        "target": torch.arange(len(raw)) + 1.0,
    }
    with torch.no_grad():
        columns = {name: value.numpy() for name, value in task.outputs(task.net(batch), batch).items()}
    columns |= calibration.calibrate_columns(held["calibration"], columns)
    columns |= conformal.set_columns(held["conformal"], columns)
    columns |= {name: np.full(len(raw), value) for name, value in conformal.list_constants(held["conformal"]).items()}
    if isinstance(task, GenerateTask):
        columns["generated"] = task.generate(np.arange(len(task.spec.classes))).numpy()
    return columns


def make(name: str, overrides: list[str], folder: Path) -> None:
    """Train a small run and write its checkpoint and golden outputs into a folder."""
    with tempfile.TemporaryDirectory() as place:
        config = compose_config(*overrides, f"outputs={place}")
        run = train(config, Path(place) / "run")
        held = {key: value for key, value in checkpoints.read(run.best).items() if key in PLAIN}
        torch.save(held, folder / f"{name}.ckpt")
        source = to_plain(config.data.source)
        records = function(source.pop("_target_"))(**source)
    chosen = np.stack([records.images[i] for i in range(ROWS)]).astype(np.float32)
    if chosen.ndim == 4:
        edge = (chosen.shape[1] - 21) // 2
        chosen = chosen[:, edge : chosen.shape[1] - edge, edge : chosen.shape[2] - edge]
        chosen[-1, :7] = np.nan
    np.savez_compressed(folder / f"{name}.npz", raw=chosen, **outputs(folder / f"{name}.ckpt", chosen))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True)
    for system, options in SYSTEMS.items():
        make(system, options, target)
