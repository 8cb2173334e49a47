"""Mixed precision: bfloat16 where it changes no answer, float32 where it would.

Nearly all work of an image network is in the convolutions that read the output of others; in bfloat16 they take half
the time. The one that reads the image stays in float32: beside a bright source a faint one is a matter of the last
digits. So do the layers after the convolutions, which take no time and whose rounding goes straight into the
probabilities.
"""

import copy
from typing import Any

import torch
from torch import nn

from alerce_early.serving.deployed import Deployed


def to_mixed(deployed: Deployed) -> Deployed:
    """Return a copy whose inner convolutions, those with other inputs than the image's channels, are bfloat16.

    Its results are float32 or bfloat16, as the last layer has it.
    """
    found = copy.deepcopy(deployed)
    for layer in found.task.net.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.in_channels != found.spec.shape[0]:
            layer.bfloat16().register_forward_pre_hook(_given_as(torch.bfloat16))
        elif any(True for _ in layer.parameters(recurse=False)):
            layer.register_forward_pre_hook(_given_as(torch.float32))
    return found


def _given_as(dtype: torch.dtype) -> Any:
    """Return a hook that gives a layer its inputs in this type."""
    return lambda _, given: tuple(x.to(dtype) if isinstance(x, torch.Tensor) else x for x in given)
