"""Regression of redshifts, directly or from emission lines."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from alerce_early.evaluation import metrics
from alerce_early.tasks.base import Batch, Task


class RegressTask(Task):
    """Minimise the mean squared error; the output is the column ``predicted``."""

    lower_is_better = frozenset({"loss", "catastrophic", "nmad", "mae", "mse"})
    shown = ("mae", "catastrophic")

    def losses(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the mean squared error as "loss"."""
        return {"loss": torch.nn.functional.mse_loss(z, batch["target"])}

    def outputs(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the column "predicted"."""
        return {"predicted": z.float()}

    def report(self, table: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return `metrics.redshift` of the table."""
        return metrics.redshift(table["true"].astype(np.float64), table["predicted"].astype(np.float64))


class LinesTask(RegressTask):
    """Minimise the cross entropy of each emission line's box plus the absolute error of its position in the box.

    An extra box stands for a line outside the spectrum. The network needs the methods `encode` and `decode` of
    `SpectraLines`; the outputs are the columns ``predicted`` and ``confidence`` (Busca & Balland 2018).
    """

    lower_is_better = RegressTask.lower_is_better | {"box", "offset"}

    def losses(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return "loss" and its two parts, "box" and "offset"."""
        box, offset = self.net.encode(batch["target"])
        boxes = z.shape[2] // 2
        box_loss = torch.nn.functional.cross_entropy(z[:, :, : boxes + 1].flatten(0, 1), box.flatten())
        present = box < boxes
        predicted = z[:, :, boxes + 1 :].gather(2, box.clamp_max(boxes - 1)[:, :, None]).squeeze(2)
        offset_loss = ((predicted - offset).abs() * present).sum() / present.sum().clamp_min(1)
        return {"loss": box_loss + offset_loss, "box": box_loss, "offset": offset_loss}

    def outputs(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the columns "predicted" and "confidence"."""
        redshift, confidence = self.net.decode(z.float())
        return {"predicted": redshift, "confidence": confidence}
