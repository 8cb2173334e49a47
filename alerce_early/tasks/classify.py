"""Classification: which of the classes is it?"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alerce_early.evaluation import metrics
from alerce_early.tasks.base import Batch, Table, Task


class ClassifyTask(Task):
    """Cross entropy; puts out one probability a class, p_<class>.

    entropy: weight of the mean entropy (nats) of the predictions, taken off the loss, so that doubtful stamps
    are not forced to one class (Carrasco-Davis et al. 2021).
    """

    def __init__(self, *args: Any, entropy: float = 0.0, **options: Any):
        super().__init__(*args, **options)
        self.entropy = entropy

    lower_is_better = frozenset({"loss", "log_loss", "brier", "ece"})
    shown: tuple[str, ...] = ("recall/SN",)

    def losses(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        cross_entropy = torch.nn.functional.cross_entropy(z, batch["label"])
        entropy = torch.distributions.Categorical(logits=z, validate_args=False).entropy().mean()
        return {"loss": cross_entropy - self.entropy * entropy}

    def outputs(self, z: Tensor, batch: Batch) -> dict[str, Tensor]:
        probabilities = z.float().softmax(1)
        return {f"p_{name}": probabilities[:, i] for i, name in enumerate(self.spec.classes)}

    def report(self, table: Mapping[str, np.ndarray]) -> dict[str, float]:
        """See `metrics.classification`; label is (N,) int64 here."""
        probabilities = np.stack([table[f"p_{name}"] for name in self.spec.classes], 1)
        return metrics.classification(table["label"], probabilities, self.spec.classes)

    def named(self, table: Mapping[str, np.ndarray]) -> Table:
        probabilities = np.stack([table[f"p_{name}"] for name in self.spec.classes], 1)
        predicted = np.array(self.spec.classes)[probabilities.argmax(1)]
        # label and predicted side by side, ahead of the probabilities
        return {"label": np.empty(0), "predicted": predicted, **super().named(table)}
