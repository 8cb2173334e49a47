"""Convolutional networks that predict the class or the redshift of a spectrum."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alerce_early.data.spec import DataSpec
from alerce_early.models.net import Net


class SpectraTrunk(nn.Sequential):
    """Convolutions of kernel 10 and stride 2, each with ReLU and max pooling: (B, C, L) -> (B, width).

    The pooling is over 2 pixels with stride 1: for L = 443 the lengths are 217, 216, 104, 103, 47, 46, 19, 18, so
    `width` is 18 times the last number of filters.

    Parameters
    ----------
    shape : tuple of int
        Channels and length (C, L) of a spectrum.
    filters : sequence of int
        Filters of each convolution.

    Attributes
    ----------
    width : int
        Length of the flattened output.
    """

    def __init__(self, shape: tuple[int, ...], filters: Sequence[int]):
        layers: list[nn.Module] = []
        inputs = shape[0]
        for outputs in filters:
            layers += [nn.Conv1d(inputs, outputs, 10, stride=2), nn.ReLU(), nn.MaxPool1d(2, stride=1)]
            inputs = outputs
        super().__init__(*layers, nn.Flatten())
        with torch.no_grad():
            x = torch.zeros(1, *shape)
            for layer in self:
                x = x if isinstance(layer, nn.ReLU) else layer(x)  # see `stamp_cnn._infer_output`
        self.width = x.shape[1]


class SpectraClass(Net):
    """Classifier of spectra: star, galaxy, QSO or broad-absorption-line QSO.

    330,316 parameters for 443 pixels and 4 classes.
    """

    kind = "spectra"

    def __init__(self, spec: DataSpec, dropout: float = 0.1):
        super().__init__(spec)
        self.trunk = SpectraTrunk(spec.shape, (100, 100, 100, 100))
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            *(nn.Linear(self.trunk.width, 16), nn.ReLU(), nn.BatchNorm1d(16)),
            nn.Dropout(dropout),
            nn.Linear(16, len(spec.classes)),
        )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute logits (B, classes) from ``image`` (B, 1, L) float32 with weighted mean 0 and rms 1."""
        return self.head(self.trunk(batch["image"]))


class SpectraRedshift(Net):
    """Direct regression of the redshift.

    1,658,593 parameters for 443 pixels.
    """

    kind = "spectra"

    def __init__(self, spec: DataSpec, dropout: float = 0.5, filters: Sequence[int] = (64, 128, 256, 256)):
        super().__init__(spec)
        self.trunk = SpectraTrunk(spec.shape, filters)
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            *(nn.Linear(self.trunk.width, 128), nn.ReLU(), nn.BatchNorm1d(128)),
            *(nn.Linear(128, 16), nn.ReLU()),
            nn.Dropout(dropout),
            nn.Linear(16, 1),
        )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute redshifts (B,) from ``image`` (B, 1, L) float32 with weighted mean 0 and rms 1."""
        return self.head(self.trunk(batch["image"])).squeeze(1)
