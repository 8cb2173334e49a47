"""Regression of a redshift: the data's target column, from the image alone."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from alerce_early.evaluation import metrics
from alerce_early.tasks.base import Batch, Task


class RegressTask(Task):
    """Mean squared error; outputs the column predicted, beside which stands true."""

    lower_is_better = frozenset({"loss", "catastrophic", "nmad", "mae", "mse"})
    shown = ("mae", "catastrophic")

    def losses(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": torch.nn.functional.mse_loss(z, batch["target"])}

    def outputs(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"predicted": z.float()}

    def report(self, table: Mapping[str, np.ndarray]) -> dict[str, float]:
        """See `metrics.redshift`."""
        return metrics.redshift(table["true"].astype(np.float64), table["predicted"].astype(np.float64))


class LinesTask(RegressTask):
    """Cross entropy for the box of each emission line, or its absence, plus the absolute error of its place in the box.

    The redshift is what the lines agree on (Busca & Balland 2018).

    Of the net it asks `encode` and `decode`, see `SpectraLines`. Outputs predicted and confidence.
    """

    lower_is_better = RegressTask.lower_is_better | {"box", "offset"}

    def losses(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        box, offset = self.net.encode(batch["target"])
        boxes = z.shape[2] // 2
        which = torch.nn.functional.cross_entropy(z[:, :, : boxes + 1].flatten(0, 1), box.flatten())
        there = box < boxes
        chosen = z[:, :, boxes + 1 :].gather(2, box.clamp_max(boxes - 1)[:, :, None]).squeeze(2)
        where = ((chosen - offset).abs() * there).sum() / there.sum().clamp_min(1)
        return {"loss": which + where, "box": which, "offset": where}

    def outputs(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        redshift, confidence = self.net.decode(z.float())
        return {"predicted": redshift, "confidence": confidence}
