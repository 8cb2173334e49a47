"""Plain convolutional networks for stamps."""

import torch
from torch import Tensor, nn

from alerce_early.data.spec import DataSpec
from alerce_early.models.net import Net, glorot


class CourseCNN(Net):
    """The network of the 2020 course report: 149,245 parameters for 3 x 21 x 21 and 5 classes."""

    def __init__(self, spec: DataSpec, dropout: float = 0.5):
        super().__init__(spec)
        layers: list[nn.Module] = []
        channels = spec.shape[0]
        for outputs, pool in ((16, False), (32, True), (64, False), (128, True)):
            layers += [nn.Conv2d(channels, outputs, 3), nn.ReLU(), *([nn.MaxPool2d(2)] if pool else [])]
            channels = outputs
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        width = self.trunk(torch.zeros(1, *spec.shape)).shape[1]
        self.head = nn.Sequential(
            nn.Linear(width, 100), nn.ReLU(), nn.Dropout(dropout), nn.Linear(100, len(spec.classes))
        )
        glorot(self)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """image (B, C, S, S) float32 -> (B, classes) logits."""
        return self.head(self.trunk(batch["image"]))
