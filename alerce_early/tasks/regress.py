"""Regression of a redshift: the data's target column, from the image alone."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from alerce_early.evaluation import metrics
from alerce_early.tasks.base import Batch, Task


class RegressTask(Task):
    """Mean squared error; puts out the column predicted, beside which stands true."""

    lower_is_better = frozenset({"loss", "catastrophic", "nmad", "mae", "mse"})
    shown = ("mae", "catastrophic")

    def losses(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": torch.nn.functional.mse_loss(z, batch["target"])}

    def outputs(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"predicted": z.float()}

    def report(self, table: Mapping[str, np.ndarray]) -> dict[str, float]:
        """See `metrics.redshift`."""
        return metrics.redshift(table["true"].astype(np.float64), table["predicted"].astype(np.float64))
