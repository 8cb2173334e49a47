"""Augmentation: whole batches at once, on the device where they are.

Each transform is a module (B, C, S, S) -> (B, C, S, S). The flips and quarter turns are exact. Arbitrary
angles and shifts read from the margin of sky that the store keeps around the crop, which the recipe then
cuts away; `margin` of the augment config must be wide enough that no invented pixel is left after it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alerce_early.construct import build
from alerce_early.errors import InputError


class Flips(nn.Module):
    """Each stamp in a random one of the 8 views of the square: 4 quarter turns, mirrored or not."""

    def forward(self, image: Tensor) -> Tensor:
        view = torch.randint(8, (len(image),), device=image.device)

        def chosen(bit: int) -> Tensor:
            return (view & bit).bool()[:, None, None, None]

        image = torch.where(chosen(1), image.flip(3), image)
        image = torch.where(chosen(2), image.flip(2), image)
        return torch.where(chosen(4), image.transpose(2, 3), image)


class RotateShift(nn.Module):
    """Turn each stamp by a random angle and move it by a random vector, with bilinear interpolation.

    degrees: the angle is uniform in [-degrees, degrees]; pixels: each component of the shift is uniform in
    [-pixels, pixels].
    """

    def __init__(self, degrees: float = 180.0, pixels: float = 0.0):
        super().__init__()
        self.degrees, self.pixels = degrees, pixels

    def forward(self, image: Tensor) -> Tensor:
        n, size = len(image), image.shape[-1]
        angle = math.radians(self.degrees) * (2 * torch.rand(n, device=image.device) - 1)
        # affine_grid measures in half stamps
        shift = (2 * self.pixels / size) * (2 * torch.rand(n, 2, device=image.device) - 1)
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(n, 2, 2)
        grid = nn.functional.affine_grid(torch.cat([turn, shift[:, :, None]], 2), list(image.shape), False)
        return nn.functional.grid_sample(image, grid.to(image.dtype), align_corners=False)

    def reach(self, size: int) -> float:
        """Pixels beyond a central crop of this size that the farthest corner can ask for."""
        angle = min(math.radians(self.degrees), math.pi / 4)
        half = (size - 1) / 2
        return half * (math.cos(angle) + math.sin(angle)) - half + self.pixels + 1


class Augment(nn.Sequential):
    """The transforms of an augment config, in order.

    steps: plain configs; margin: what the store keeps on each side; size: of the crop. Raises InputError if
    the margin is too small for a step, since corners would then be invented.
    """

    def __init__(self, steps: Sequence[Mapping[str, Any]], margin: int = 0, size: int = 21):
        super().__init__(*[build(step) for step in steps])
        needed = max((step.reach(size) for step in self if isinstance(step, RotateShift)), default=0.0)
        if needed > margin:
            raise InputError(f"augment.margin={margin} invents corners; these steps need {math.ceil(needed)}.")
