"""Redshifts from emission lines: where is each of them, and what do they agree on? (Busca & Balland 2018)"""

import torch
from torch import Tensor

from alerce_early.tasks.base import Batch
from alerce_early.tasks.regress import RegressTask


class LinesTask(RegressTask):
    """Cross entropy for the box of each line, or its absence, plus the absolute error of its place in the box.

    Of the net it asks `encode` and `decode`, see `SpectraLines`. Puts out predicted and confidence.
    """

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
