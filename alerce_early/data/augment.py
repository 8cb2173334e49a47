"""Augmentation: whole batches at once, on the device where they are.

Each transform is a module (B, C, S, S) -> (B, C, S, S). The flips and quarter turns are exact. Arbitrary
angles and shifts read from the margin of sky that the store keeps around the crop, which the recipe then
cuts away; `margin` of the augment config must be wide enough that no invented pixel is left after it.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from alerce_early.construct import build
from alerce_early.errors import InputError


@cache
def views_of_square(size: int, device: torch.device) -> Tensor:
    """Return which pixel of a square each pixel of its 8 views shows, (8, size * size) int64.

    View v is mirrored left to right if v & 1, then top to bottom if v & 2, then along the diagonal if v & 4.
    """
    views = torch.arange(size * size, device=device).view(1, size, size)
    for axes in ((2,), (1,)):
        views = torch.cat([views, views.flip(axes)])
    return torch.cat([views, views.transpose(1, 2)]).flatten(1)


class Flips(nn.Module):
    """Each stamp in a random one of the 8 views of the square: 4 quarter turns, mirrored or not."""

    def forward(self, image: Tensor) -> Tensor:
        # one look-up: choosing among flipped copies takes a CPU ten times as long, 7 % of a small network's step
        pixels = views_of_square(image.shape[-1], image.device)
        chosen = pixels[torch.randint(8, (len(image),), device=image.device)]
        return image.flatten(2).gather(2, chosen[:, None].expand(-1, image.shape[1], -1)).view_as(image)


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


class Redraw(nn.Module):
    """Replace some columns of a random half of the rows, all of them by those of one other row of the batch.

    Columns that depend on when a row was observed, such as how often its object had been detected before, then cannot
    stand for its class. names: those of the columns (B, F); redraw: those to replace. Raises InputError for a column
    that is not there.
    """

    chosen: Tensor

    def __init__(self, names: Sequence[str], redraw: Sequence[str]):
        super().__init__()
        if unknown := sorted(set(redraw) - set(names)):
            there = ", ".join(names) or "none"
            raise InputError(f"augment.redraw: the network has no column {', '.join(unknown)}; it has {there}.")
        self.register_buffer("chosen", torch.tensor([name in redraw for name in names], dtype=torch.bool), False)

    def forward(self, columns: Tensor) -> Tensor:
        n, device = len(columns), columns.device
        other = torch.randperm(n, device=device)
        row = other.where(torch.rand(n, device=device) < 0.5, torch.arange(n, device=device))
        return columns[row].where(self.chosen, columns)


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
