"""The ALeRCE stamp classifier: stamps and metadata (Carrasco-Davis et al. 2021)."""

import torch
from torch import Tensor, nn

from alerce_early.data.records import MISSING
from alerce_early.data.spec import DataSpec
from alerce_early.models.net import Net, glorot
from alerce_early.models.rotinv import ConvTrunk, cyclic_mean, dense, rotate_quarters

TINY = 1e-9
RARE = 10.0  # sigmas from the mean of training, where a value is that fewer than one row in a hundred has


class StampClassifier(Net):
    """Four turns through one trunk and a dense layer, averaged, then joined by the metadata of the alert.

    441,075 parameters for 3 channels, 21 x 21 pixels, 23 features, 5 classes and kernels of 5; 261,049 for 26
    features and kernels of 3. In eval mode |f(x) - f(rot90 x)| is rounding error, see `ConvTrunk`. Without
    features it is the images-only variant of the paper.

    logarithms: see signed logarithms of the columns instead of their distance from the mean in standard deviations,
    which leaves nothing of small values beside large ones (`ncovhist` is 1 to 3,000).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: DataSpec, dropout: float = 0.5, kernel: int = 5, logarithms: bool = False):
        super().__init__(spec)
        self.logarithms = logarithms
        channels, size, _ = spec.shape
        columns = len(spec.features)
        # of the spec, which travels in the checkpoint, so not kept there twice
        self.register_buffer("mean", torch.tensor(spec.feature_mean), persistent=False)
        self.register_buffer("std", torch.tensor(spec.feature_std), persistent=False)
        self.trunk = ConvTrunk(channels, size, kernel)
        self.stamp = nn.Sequential(*dense(self.trunk.width, 64, dropout))
        self.metadata = nn.BatchNorm1d(columns) if columns else nn.Identity()
        self.head = nn.Sequential(*dense(64 + columns, 64, dropout), *dense(64, 64, dropout))
        self.output = nn.Linear(64, len(spec.classes))
        glorot(self)

    @property
    def neutral(self) -> Tensor:
        """(F,) raw columns that say nothing: those that the first layer sees as zero."""
        return torch.zeros_like(self.mean) if self.logarithms else self.mean

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """image (B, C, S, S) float32, features (B, F) float32 unscaled -> (B, classes) logits."""
        turns = rotate_quarters(batch["image"]).contiguous(memory_format=torch.channels_last)
        stamp = cyclic_mean(self.stamp(self.trunk(turns)))
        columns = batch["features"]
        sigmas = (columns - self.mean) / self.std
        # a value that training hardly ever lacked: how far -999 is from the mean has no meaning then
        unknown = (columns == MISSING) & (sigmas.abs() >= RARE)
        if self.logarithms:
            columns = torch.where(unknown, self.mean, columns)
            # no part of a gradient: so a column's relevance is its share, not how it would change with the column
            columns = columns * (columns.abs().log1p() / columns.abs().clamp_min(TINY)).detach()
        else:
            columns = sigmas.where(~unknown, 0.0)
        metadata = self.metadata(columns)
        return self.output(self.head(torch.cat([stamp, metadata], 1)))
