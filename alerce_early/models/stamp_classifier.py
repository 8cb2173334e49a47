"""The ALeRCE stamp classifier: stamps and metadata (Carrasco-Davis et al. 2021)."""

import torch
from torch import Tensor, nn

from alerce_early.data.records import MISSING
from alerce_early.data.spec import DataSpec
from alerce_early.models.net import Net, init_glorot
from alerce_early.models.rotinv import ConvTrunk, cyclic_mean, dense, rotate_quarters

TINY = 1e-9
OUTLIER_SIGMAS = 10.0  # distance from the training mean that fewer than one row in a hundred exceeds


class StampClassifier(Net):
    """Rotation-invariant features of the stamp, concatenated with the alert's metadata.

    In eval mode the output is the same for all four rotations of a stamp, up to rounding; see `ConvTrunk`. Without
    metadata columns it is the images-only variant of the paper. 441,075 parameters for 3 channels, 21 x 21 pixels,
    23 features, 5 classes and kernels of 5; 261,049 for 26 features and kernels of 3.

    Parameters
    ----------
    spec : DataSpec
        Shape, classes and metadata columns of the data.
    dropout : float
        Probability of dropping a unit of the dense layers, in [0, 1).
    kernel : int
        See `ConvTrunk`.
    logarithms : bool
        Scale a column x to sign(x) log(1 + abs(x)) instead of standardising it, which would squeeze the small values
        of a column like `ncovhist`, 1 to 3,000, into one.

    References
    ----------
    Carrasco-Davis et al. 2021, AJ 162, 231.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: DataSpec, dropout: float = 0.5, kernel: int = 5, logarithms: bool = False):
        super().__init__(spec)
        self.logarithms = logarithms
        channels, size, _ = spec.shape
        columns = len(spec.features)
        # not persistent: the checkpoint holds the spec, and the spec these
        self.register_buffer("mean", torch.tensor(spec.feature_mean), persistent=False)
        self.register_buffer("std", torch.tensor(spec.feature_std), persistent=False)
        self.trunk = ConvTrunk(channels, size, kernel)
        self.stamp = nn.Sequential(*dense(self.trunk.width, 64, dropout))
        self.metadata = nn.BatchNorm1d(columns) if columns else nn.Identity()
        self.head = nn.Sequential(*dense(64 + columns, 64, dropout), *dense(64, 64, dropout))
        self.output = nn.Linear(64, len(spec.classes))
        init_glorot(self)

    @property
    def neutral(self) -> Tensor:
        """Raw column values (F,) that carry no information: they are scaled to zero."""
        return torch.zeros_like(self.mean) if self.logarithms else self.mean

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute logits (B, classes) from ``image`` (B, C, S, S) and unscaled ``features`` (B, F), both float32."""
        rotations = rotate_quarters(batch["image"]).contiguous(memory_format=torch.channels_last)
        stamp = cyclic_mean(self.stamp(self.trunk(rotations)))
        columns = batch["features"]
        sigmas = (columns - self.mean) / self.std
        # -999 is only meaningful if training rows had it, too
        unknown = (columns == MISSING) & (sigmas.abs() >= OUTLIER_SIGMAS)
        if self.logarithms:
            columns = torch.where(unknown, self.mean, columns)
            # detached, so that the relevance of a column is its contribution, not the slope of the logarithm
            columns = columns * (columns.abs().log1p() / columns.abs().clamp_min(TINY)).detach()
        else:
            columns = sigmas.where(~unknown, 0.0)
        metadata = self.metadata(columns)
        return self.output(self.head(torch.cat([stamp, metadata], 1)))
