"""A trained network that teaches another (Hinton et al. 2015, distillation), also rows without a label."""

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
    """Return the checkpoint of a run or a name, or those of a sweep's runs that held out the same rows.

    split: `data.split` of the run that is taught. Raises InputError where there is none.
    """
    if not (path / "multirun.yaml").exists():
        return [checkpoint_of(path)]
    runs = [Run(file.parent) for file in sorted(path.glob("*/metrics.json"))]
    found = [run.trained() for run in runs if run.config().data.split == split]
    if not found:
        raise InputError(f"distil: no run of {path} is finished and has this run's data.split.")
    return found


def ask_teachers(paths: Sequence[Path], data: AlertData) -> np.ndarray:
    """Return the mean of networks' probabilities (N, classes) float32 of all rows of a store.

    Each is calibrated where it can be. Raises InputError where one tells other classes, or sees other stamps than
    those of the store.
    """
    return np.mean([_ask(path, data) for path in paths], axis=0)


def _ask(path: Path, data: AlertData) -> np.ndarray:
    held = checkpoints.read(path)
    teacher = restore.task(path, held)
    spec = teacher.spec
    if not isinstance(teacher, ClassifyTask):
        raise InputError(f"distil: {path} tells no classes.")
    for what, its, own in (
        ("classes", spec.classes, data.classes),
        ("recipe", [*spec.recipe], data.steps),
        ("margin of sky", spec.margin, data.margin),
    ):
        if its != own:
            raise InputError(
                f"distil: {path} has another {what} than this run, {its} against {own}. Choose data, recipe and "
                "augment as they were when it was trained."
            )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher.to(device)
    images, features = data.store.images, data.find_columns("distil", spec.features)
    parts: list[dict[str, torch.Tensor]] = []
    with torch.inference_mode():
        for start in tqdm(range(0, len(images), EVALUATION_BATCH), "asking the teacher", disable=None):
            rows = slice(start, start + EVALUATION_BATCH)
            image = teacher.recipe.finish(torch.from_numpy(np.array(images[rows])).to(device))
            batch = {"image": image, "features": torch.from_numpy(features[rows]).to(device)}
            parts.append({name: column.cpu() for name, column in teacher.outputs(teacher.net(batch), batch).items()})
    table = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    table |= calibration.calibrate_columns(held.get("calibration"), table)
    kind = "q" if f"q_{data.classes[0]}" in table else "p"
    return np.stack([table[f"{kind}_{name}"] for name in data.classes], 1).astype(np.float32)
