"""Figures in TensorBoard during training."""

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

N_GALLERY_ROWS = 16


class Board(Callback):
    """Log figures to TensorBoard: inputs of the first batch, and the confusion matrix of each new best epoch.

    Parameters
    ----------
    draw_gallery : callable
        Draws images (N, C, ...) with one caption per image, see `report.figures.gallery`.
    draw_confusion : callable
        Draws counts (C, C) int64 by true and predicted class, see `report.figures.confusion`.
    """

    def __init__(self, draw_gallery: Draw, draw_confusion: Draw) -> None:
        self.draw_gallery, self.draw_confusion = draw_gallery, draw_confusion
        self.drawn_for: torch.Tensor | None = None

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: Any, index: int) -> None:
        """Draw the preprocessed inputs of the first batch."""
        if trainer.global_step or not isinstance(task, Task):
            return
        with torch.random.fork_rng():  # the figure must not change the random state of the run
            seen = task.recipe.finish(task.augment(batch["image"][:N_GALLERY_ROWS]))
        captions = [task.spec.classes[label] for label in batch["label"][:N_GALLERY_ROWS].tolist()]
        shown = self.draw_gallery(seen.cpu().numpy(), captions)
        self._add(trainer, f"{task.spec.kind} as the net sees them", shown)

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Draw the confusion matrix if this epoch is the best so far."""
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
    """Return the monitored metric of the best epoch so far."""
    best = trainer.checkpoint_callback  # the first one
    return best.best_model_score if isinstance(best, ModelCheckpoint) else None
