"""Torchvision's ResNet-18 (He et al. 2016) with a stem for small stamps: the off-the-shelf baseline."""

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from alerce_early.data.spec import DataSpec
from alerce_early.models.net import Net


class ResNet18(Net):
    """ResNet-18 without pretrained weights, whose stem keeps the resolution of small stamps.

    The first convolution is 3 x 3 with stride 1, without pooling: the usual stem halves the image twice before the
    first block, which leaves little of 21 x 21 pixels. 11,171,397 parameters for 3 channels and 5 classes.
    """

    def __init__(self, spec: DataSpec):
        super().__init__(spec)
        self.resnet = resnet18(num_classes=len(spec.classes))
        self.resnet.conv1 = nn.Conv2d(spec.shape[0], 64, 3, padding=1, bias=False)
        self.resnet.maxpool = nn.Identity()
        self.to(memory_format=torch.channels_last)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute logits (B, classes) from ``image`` (B, C, S, S) float32."""
        return self.resnet(batch["image"].contiguous(memory_format=torch.channels_last))
