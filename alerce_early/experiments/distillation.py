"""Distillation: train a network on the probabilities of another, also for unlabelled rows.

Hinton, Vinyals & Dean 2015, arXiv:1503.02531.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from alerce_early.artifacts import checkpoints
from alerce_early.artifacts.run_folder import Run, checkpoint_of
from alerce_early.data.datamodule import EVALUATION_BATCH, AlertData
from alerce_early.errors import InputError
from alerce_early.evaluation import calibration
from alerce_early.tasks import restore
from alerce_early.tasks.classify import ClassifyTask


def find_teachers(path: Path, split: Mapping[str, Any]) -> list[Path]:
    """Find the checkpoints of the teachers.

    Parameters
    ----------
    path : Path
        A run folder, a checkpoint, the name of a pretrained network, or the folder of a sweep.
    split : mapping of str
        `data.split` of the run to train. Of a sweep, only runs with the same split are teachers, so that the test rows
        are unseen by all networks.

    Returns
    -------
    list of Path
        One or more checkpoints.

    Raises
    ------
    InputError
        If a checkpoint is missing, or no run of the sweep has this split.
    """
    if not (path / "multirun.yaml").exists():
        return [checkpoint_of(path)]
    runs = [Run(file.parent) for file in sorted(path.glob("*/metrics.json"))]
    found = [run.trained() for run in runs if run.config().data.split == split]
    if not found:
        raise InputError(
            f"distil={path}: no finished run of this sweep has the same data.split. Run the sweep with this data.split."
        )
    return found


def predict_soft_labels(paths: Sequence[Path], data: AlertData) -> np.ndarray:
    """Predict all rows of a store with the teachers and average their probabilities.

    Parameters
    ----------
    paths : sequence of Path
        Checkpoints of classifiers. Calibrated probabilities are used if a checkpoint has a calibration.
    data : AlertData
        The data module of the run to train.

    Returns
    -------
    ndarray
        Mean probabilities, (N, classes) float32.

    Raises
    ------
    InputError
        If a teacher is not a classifier, or has other classes or another recipe than the data.
    """
    return np.mean([_predict(path, data) for path in paths], axis=0)


def _predict(path: Path, data: AlertData) -> np.ndarray:
    """Return the probabilities of one teacher, (N, classes) float32."""
    checkpoint = checkpoints.read(path)
    teacher = restore.task(path, checkpoint)
    spec = teacher.spec
    if not isinstance(teacher, ClassifyTask):
        raise InputError(f"distil={path}: not a classifier. Choose a run with model.task=classify.")
    for aspect, theirs, ours in (
        ("classes", spec.classes, data.classes),
        ("recipe", [*spec.recipe], data.steps),
        ("margin of sky", spec.margin, data.margin),
    ):
        if theirs != ours:
            raise InputError(
                f"distil={path}: different {aspect}, {theirs} there and {ours} here. Choose data, recipe and augment "
                "as in the run of the teacher."
            )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher.to(device)
    images, features = data.store.images, data.find_columns("distil", spec.features)
    parts: list[dict[str, torch.Tensor]] = []
    with torch.inference_mode():
        for start in tqdm(range(0, len(images), EVALUATION_BATCH), "predicting with the teacher", disable=None):
            rows = slice(start, start + EVALUATION_BATCH)
            image = teacher.recipe.finish(torch.from_numpy(np.array(images[rows])).to(device))
            batch = {"image": image, "features": torch.from_numpy(features[rows]).to(device)}
            parts.append({name: column.cpu() for name, column in teacher.outputs(teacher.net(batch), batch).items()})
    table = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    table |= calibration.calibrate_columns(checkpoint.get("calibration"), table)
    kind = "q" if f"q_{data.classes[0]}" in table else "p"
    return np.stack([table[f"{kind}_{name}"] for name in data.classes], 1).astype(np.float32)
