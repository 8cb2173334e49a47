"""Augmentation of whole batches on their device.

Each transform of images is a module from (B, C, S, S) to (B, C, S, S). Flips and quarter turns are exact. Arbitrary
angles and shifts use the margin of sky that the store keeps around the crop, which the recipe then removes; `margin` of
the augment config must be wide enough that the crop has no extrapolated pixel.
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
    """Return the indices, (8, size * size) int64, of the pixels shown by the 8 views of a square.

    View v is mirrored left to right if v & 1, then top to bottom if v & 2, then along the diagonal if v & 4.
    """
    views = torch.arange(size * size, device=device).view(1, size, size)
    for axes in ((2,), (1,)):
        views = torch.cat([views, views.flip(axes)])
    return torch.cat([views, views.transpose(1, 2)]).flatten(1)


class Flips(nn.Module):
    """Show each stamp in a random view out of 8: rotated by a multiple of 90 degrees, and mirrored or not."""

    def forward(self, image: Tensor) -> Tensor:
        """Transform a batch."""
        # one look-up is ten times as fast on a CPU as a choice among flipped copies
        pixels = views_of_square(image.shape[-1], image.device)
        chosen = pixels[torch.randint(8, (len(image),), device=image.device)]
        return image.flatten(2).gather(2, chosen[:, None].expand(-1, image.shape[1], -1)).view_as(image)


class RotateShift(nn.Module):
    """Rotate and shift each stamp at random, with bilinear interpolation.

    Parameters
    ----------
    degrees : float
        The angle is uniform in [-degrees, degrees].
    pixels : float
        Each component of the shift is uniform in [-pixels, pixels].
    """

    def __init__(self, degrees: float = 180.0, pixels: float = 0.0):
        super().__init__()
        self.degrees, self.pixels = degrees, pixels

    def forward(self, image: Tensor) -> Tensor:
        """Transform a batch."""
        n, size = len(image), image.shape[-1]
        angle = math.radians(self.degrees) * (2 * torch.rand(n, device=image.device) - 1)
        # the unit of affine_grid is half a stamp
        shift = (2 * self.pixels / size) * (2 * torch.rand(n, 2, device=image.device) - 1)
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(n, 2, 2)
        grid = nn.functional.affine_grid(torch.cat([turn, shift[:, :, None]], 2), list(image.shape), False)
        return nn.functional.grid_sample(image, grid.to(image.dtype), align_corners=False)

    def reach(self, size: int) -> float:
        """Return the margin in pixels that a central crop of `size` pixels needs."""
        angle = min(math.radians(self.degrees), math.pi / 4)
        half = (size - 1) / 2
        return half * (math.cos(angle) + math.sin(angle)) - half + self.pixels + 1


class Redraw(nn.Module):
    """Replace some metadata columns of a random half of the rows by values of another row of the batch.

    The network then cannot rely on columns that depend on the time of observation, such as the number of previous
    detections, to predict the class.

    Parameters
    ----------
    names : sequence of str
        Names of the F columns.
    redraw : sequence of str
        Columns to replace, all from the same row.

    Raises
    ------
    InputError
        If the network does not have a column of `redraw`.
    """

    chosen: Tensor

    def __init__(self, names: Sequence[str], redraw: Sequence[str]):
        super().__init__()
        if unknown := sorted(set(redraw) - set(names)):
            there = ", ".join(names) or "none"
            raise InputError(f"augment.redraw: the network has no column {', '.join(unknown)}. Choose from {there}.")
        self.register_buffer("chosen", torch.tensor([name in redraw for name in names], dtype=torch.bool), False)

    def forward(self, columns: Tensor) -> Tensor:
        """Return columns (B, F) with some replaced."""
        n, device = len(columns), columns.device
        other = torch.randperm(n, device=device)
        row = other.where(torch.rand(n, device=device) < 0.5, torch.arange(n, device=device))
        return columns[row].where(self.chosen, columns)


class Augment(nn.Sequential):
    """The transforms of an augment config, in order.

    Parameters
    ----------
    steps : sequence of mapping
        Plain configs of the transforms.
    margin : int
        Pixels kept on each side of the crop.
    size : int
        Side of the crop in pixels.

    Raises
    ------
    InputError
        If the margin is too small, so that corners of the crop would have to be extrapolated.
    """

    def __init__(self, steps: Sequence[Mapping[str, Any]], margin: int = 0, size: int = 21):
        super().__init__(*[build(step) for step in steps])
        needed = max((step.reach(size) for step in self if isinstance(step, RotateShift)), default=0.0)
        if needed > margin:
            raise InputError(f"augment.margin={margin}: too small, since these steps need {math.ceil(needed)}.")
