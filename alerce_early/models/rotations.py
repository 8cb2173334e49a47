"""The four quarter turns of a stamp: the orbit that rotation-invariant networks average over."""

import torch
from torch import Tensor

TURNS = 4


def orbit(image: Tensor) -> Tensor:
    """Stack the four quarter turns along the batch: (B, C, S, S) -> (4 B, C, S, S), all of turn 0 first."""
    return torch.cat([image.rot90(turn, (2, 3)) for turn in range(TURNS)])


def cyclic_mean(features: Tensor) -> Tensor:
    """Mean over the orbit: (4 B, F) in the order of `orbit` -> (B, F)."""
    return features.unflatten(0, (TURNS, -1)).mean(0)


def side_by_side(features: Tensor) -> Tensor:
    """The orbit's features next to each other: (4 B, F) in the order of `orbit` -> (B, 4 F)."""
    return features.unflatten(0, (TURNS, -1)).transpose(0, 1).flatten(1)
