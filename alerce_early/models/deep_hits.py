"""Deep-HiTS: real transients against artefacts (Cabrera-Vives et al. 2017)."""

import torch
from torch import Tensor, nn

from alerce_early.data.spec import DataSpec
from alerce_early.models.net import Net, glorot
from alerce_early.models.rotinv import TURNS, ConvTrunk, dense, rotate_quarters, side_by_side


class DeepHiTS(Net):
    """Four turns through one trunk, side by side into the dense layers: leaky ReLU of slope 0.01 throughout.

    697,858 parameters for 4 channels, 21 x 21 pixels and 2 classes. A rotated stamp permutes the four blocks,
    so the network is invariant only as far as the dense layers learn to be.
    """

    def __init__(self, spec: DataSpec, dropout: float = 0.5):
        super().__init__(spec)
        channels, size, _ = spec.shape
        self.trunk = ConvTrunk(channels, size, activation=nn.LeakyReLU)
        self.head = nn.Sequential(
            *dense(TURNS * self.trunk.width, 64, dropout, nn.LeakyReLU),
            *dense(64, 64, dropout, nn.LeakyReLU),
            nn.Linear(64, len(spec.classes)),
        )
        glorot(self)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """image (B, C, S, S) float32 -> (B, classes) logits."""
        turns = rotate_quarters(batch["image"]).contiguous(memory_format=torch.channels_last)
        return self.head(side_by_side(self.trunk(turns)))
