"""The four quarter turns of a stamp: the orbit that rotation-invariant networks average over."""

import torch
from torch import Tensor

TURNS = 4


def rotate_quarters(image: Tensor) -> Tensor:
    """Stack the four quarter turns along the batch: (B, C, S, S) -> (4 B, C, S, S), all of turn 0 first."""
    pixels = torch.arange(image.shape[2] * image.shape[3], device=image.device).view(image.shape[2:])
    # one look-up a turn: deployed runtimes have no fast reversal, of which `rot90` is made
    turned = [image.flatten(2).index_select(2, pixels.rot90(turn).flatten()) for turn in range(TURNS)]
    return torch.cat(turned).unflatten(2, pixels.shape)


def cyclic_mean(features: Tensor) -> Tensor:
    """Mean over the orbit: (4 B, F) in the order of `orbit` -> (B, F)."""
    return features.unflatten(0, (TURNS, -1)).mean(0)


def side_by_side(features: Tensor) -> Tensor:
    """Return the orbit's features next to each other: (4 B, F) in the order of `orbit` -> (B, 4 F)."""
    return features.unflatten(0, (TURNS, -1)).transpose(0, 1).flatten(1)
