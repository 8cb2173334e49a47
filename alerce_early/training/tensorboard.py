"""Pictures in TensorBoard while a run trains."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from alerce_early.evaluation import metrics
from alerce_early.tasks.base import Task

Draw = Callable[[np.ndarray, Sequence[str]], Any]  # returns a matplotlib figure

SHOWN = 16  # rows in the picture of a batch


class Board(Callback):
    """TensorBoard: examples as the net sees them once, the confusion matrix whenever a better net was found.

    Parameters
    ----------
    draw_gallery : callable
        Draws images (N, C, ...) with a caption each, see `report.figures.gallery`.
    draw_confusion : callable
        Draws counts (C, C) int64 by true and predicted class, see `report.figures.confusion`.
    """

    def __init__(self, draw_gallery: Draw, draw_confusion: Draw) -> None:
        self.draw_gallery, self.draw_confusion = draw_gallery, draw_confusion
        self.drawn_for: torch.Tensor | None = None

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: Any, index: int) -> None:
        if trainer.global_step or not isinstance(task, Task):
            return
        with torch.random.fork_rng():  # a picture must not change the run
            seen = task.recipe.finish(task.augment(batch["image"][:SHOWN]))
        captions = [task.spec.classes[label] for label in batch["label"][:SHOWN].tolist()]
        shown = self.draw_gallery(seen.cpu().numpy(), captions)
        self._add(trainer, f"{task.spec.kind} as the net sees them", shown)

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if not isinstance(task, Task) or (score := _best_score(trainer)) == self.drawn_for:
            return
        self.drawn_for = score
        table, classes = task.table, task.spec.classes
        if f"p_{classes[0]}" in table:
            predicted = np.stack([table[f"p_{name}"] for name in classes], 1).argmax(1)
            counts = metrics.confusion(table["label"], predicted, len(classes))
            self._add(trainer, "confusion matrix (validation)", self.draw_confusion(counts, classes))

    def _add(self, trainer: L.Trainer, tag: str, figure: Any) -> None:
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(tag, figure, trainer.global_step)


def _best_score(trainer: L.Trainer) -> torch.Tensor | None:
    """Return the monitored number of the best epoch so far."""
    best = trainer.checkpoint_callback  # the first one
    return best.best_model_score if isinstance(best, ModelCheckpoint) else None
