"""The cleaning recipe: written once in torch, batch-wise, and used by training, prediction and export alike.

A recipe is a list of steps, each a module from (B, C, H, W) float32 to (B, C', H', W') float32; one that looks
at each pixel alone says so (`pixelwise`) and is run after any crop that follows it, with identical results. The first
is always `NoData`: for all later steps NaN is the only marker of missing data.

Augmentation by arbitrary angles and shifts needs more sky than the net sees. For it the store keeps a margin
around the `Crop`, and what the recipe does from there on runs per batch, after augmentation:

    raw --prepare--> stored stamp --augment--> finish --> what the net sees

With no margin `prepare` is the whole recipe and `finish` does nothing.

What a network generates is in the recipe's units. A step with `undo` can be inverted: it gives an image that the step
would turn into the one it was given, up to a scale and an offset that the step discards. Undoing a crop does not
restore the surrounding sky; the caller fills it in (sky is 0 in these units).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alerce_early.construct import build
from alerce_early.data.records import LARGEST
from alerce_early.errors import InputError

MAD_TO_SIGMA = 1.4826  # median absolute deviation to standard deviation, for a normal distribution


class NoData(nn.Module):
    """Make NaN of all that is no data: infinities, and what reaches `LARGEST`."""

    pixelwise = True

    def forward(self, image: Tensor) -> Tensor:
        # what float32 cannot hold times 2^28 is infinite, and all else comes back exactly: a quarter of a mask's time
        scale = 2.0**128 / LARGEST
        return (image * scale).nan_to_num_(torch.nan, torch.nan, torch.nan).mul_(1 / scale)

    def undo(self, image: Tensor) -> Tensor:
        return image


class NanToZero(nn.Module):
    """Pixels without data become 0."""

    pixelwise = True

    def forward(self, image: Tensor) -> Tensor:
        return image.nan_to_num()

    def undo(self, image: Tensor) -> Tensor:
        return image


class MinMax(nn.Module):
    """Scale each image and channel to [0, 1] by its extremes; pixels without data are ignored and kept.

    A channel that is constant or has no data at all becomes 0.
    """

    def forward(self, image: Tensor) -> Tensor:
        # pixels without data must not decide; replacing them is far quicker than a mask of booleans
        lowest = image.nan_to_num(torch.inf).amin((2, 3), keepdim=True)
        highest = image.nan_to_num(-torch.inf).amax((2, 3), keepdim=True)
        span = highest - lowest
        usable = span > 0
        # dividing by infinity leaves the 0 that is wanted of a channel without a usable span
        return (image - lowest.where(usable, 0.0)).div_(span.where(usable, torch.inf))


class UnitNorm(nn.Module):
    """Divide each image and channel by its norm, the root of the sum of its squared pixels.

    A channel of norm 1 is unchanged. NaN is ignored and kept; a channel of zeros or NaN is unchanged.
    """

    def forward(self, image: Tensor) -> Tensor:
        largest = image.abs().nan_to_num().amax((2, 3), keepdim=True)
        image = image / largest.where(largest > 0, torch.inf)  # the squares of float32 reach no farther than 1e19
        norm = image.nan_to_num().square().sum((2, 3), keepdim=True).sqrt()
        return image / norm.where(norm > 0, torch.inf)


class SkySigma(nn.Module):
    """Express all channels in units of the noise of the science image's sky, each from its own sky level.

    The relative flux of science, template and difference, which a per-channel scaling discards, survives.
    The sky level is the channel's median, the noise the science channel's median absolute deviation x 1.4826.
    A science image without noise (constant or without data) gives 0. each: every channel in units of its own noise
    instead, for channels that have no common unit.
    """

    def __init__(self, each: bool = False):
        super().__init__()
        self.each = each

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.flatten(2)
        pixels = pixels - nanmedian(pixels)
        sigma = MAD_TO_SIGMA * nanmedian((pixels if self.each else pixels[:, :1]).abs())
        sigma = sigma.where(sigma > 0, torch.inf)
        return pixels.div_(sigma).view_as(image)

    def undo(self, image: Tensor) -> Tensor:
        return image


class Asinh(nn.Module):
    """Compress the dynamic range: linear for sky-level pixels, logarithmic for bright ones.

    bend: where the one becomes the other, in the units of the image; the result is in units of it.
    """

    pixelwise = True

    def __init__(self, bend: float = 1.0):
        super().__init__()
        self.bend = bend

    def forward(self, image: Tensor) -> Tensor:
        scaled = image / self.bend
        if _by_numpy(scaled):  # its arcsinh is vectorised where the processor has AVX-512, and torch's nowhere
            return torch.from_numpy(np.arcsinh(scaled.numpy(), out=scaled.numpy()))
        return scaled.asinh()

    def undo(self, image: Tensor) -> Tensor:
        return self.bend * image.sinh()


class Mask(nn.Module):
    """Append a channel that is 1 where any channel of the image has no data, so that 0 can mean the sky."""

    pixelwise = True

    def forward(self, image: Tensor) -> Tensor:
        missing = image.sum(1, keepdim=True).isnan()  # quicker than a mask of every channel
        return torch.cat([image, missing.to(image.dtype)], 1)


class Renormalise(nn.Module):
    """Spectra of flux and inverse variance to one channel: weighted mean 0, weighted rms 1.

    (B, 2, L) becomes (B, 1, L); pixels of weight 0 or without data become 0, as does a spectrum that is constant.
    Raises InputError for anything but spectra.
    """

    def forward(self, image: Tensor) -> Tensor:
        if image.ndim != 3 or image.shape[1] != 2:
            raise InputError(f"recipe: Renormalise wants spectra (flux, ivar); the rows are {tuple(image.shape[1:])}.")
        flux, weight = image[:, :1], image[:, 1:]
        usable = (weight > 0) & ~flux.isnan()
        flux, weight = flux.where(usable, 0.0), weight.where(usable, 0.0)
        weight = weight / weight.sum(2, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        flux = flux - (weight * flux).sum(2, keepdim=True)
        rms = (weight * flux.square()).sum(2, keepdim=True).sqrt()
        return (flux / rms.where(rms > 0, torch.inf)).where(usable, 0.0)


class Crop(nn.Module):
    """Keep the central `size` x `size` pixels."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        return centre_crop(image, self.size)

    def undo(self, image: Tensor) -> Tensor:
        return image


class TwoScales(nn.Module):
    """The centre at native scale beside the whole stamp binned down to the same number of pixels.

    (B, C, s * factor, s * factor) becomes (B, 2 C, s, s): first the C central channels, then the C binned.
    """

    def __init__(self, size: int, factor: int):
        super().__init__()
        self.size, self.factor = size, factor

    def forward(self, image: Tensor) -> Tensor:
        whole = centre_crop(image, self.size * self.factor)
        return torch.cat([centre_crop(image, self.size), nn.functional.avg_pool2d(whole, self.factor)], 1)


def nanmedian(values: Tensor) -> Tensor:
    """Median over the last axis, kept with length 1; the lower of two middle values. NaN is ignored."""
    if not _by_numpy(values):
        known = values.shape[-1] - values.isnan().sum(-1, keepdim=True)
        return _ascending(values).gather(-1, (known - 1).clamp_min(0) // 2)
    rows, middle = values.numpy(), (values.shape[-1] - 1) // 2
    # selecting one value takes a third of the time of sorting, which the few rows with NaN need
    found = np.partition(rows, middle, -1)[..., middle : middle + 1]
    gaps = np.isnan(rows.sum(-1))
    if gaps.any():
        some = np.sort(rows[gaps], -1)  # NaN last
        known = np.isfinite(some).sum(-1, keepdims=True)
        found[gaps] = np.take_along_axis(some, np.maximum(known - 1, 0) // 2, -1)
    return torch.from_numpy(found)


def _by_numpy(values: Tensor) -> bool:
    """Return whether numpy can compute with these values: not on a GPU, nor for gradients or an export."""
    return values.is_cpu and not (values.requires_grad or torch.compiler.is_exporting())


def _ascending(values: Tensor) -> Tensor:
    """Return the values in order along the last axis, at least their smaller half; NaN last."""
    if torch.compiler.is_exporting():  # to where NaN has no place in an order
        half = values.shape[-1] // 2 + 1
        return values.where(~values.isnan(), torch.inf).topk(half, -1, largest=False).values
    return values.sort(-1).values


def centre_crop(image: Tensor, size: int) -> Tensor:
    """Central size x size pixels of (..., H, W); raises InputError if the image is smaller."""
    height, width = image.shape[-2:]
    if size > min(height, width):
        raise InputError(f"recipe: wants {size} x {size} pixels of stamps that have {height} x {width}.")
    top, left = (height - size) // 2, (width - size) // 2
    return image[..., top : top + size, left : left + size]


class Recipe(nn.Module):
    """A list of steps, split at the crop when a margin is kept for augmentation.

    steps: plain configs, each with a `_target_`; margin: pixels kept on each side of the crop.
    Raises InputError for a margin without a `Crop` to keep it around.
    """

    def __init__(self, steps: Sequence[dict[str, Any]], margin: int = 0):
        super().__init__()
        self.steps = list(steps)
        modules = [NoData(), *map(build, steps)]
        crops = [i for i, step in enumerate(modules) if isinstance(step, Crop)]
        if margin and not crops:
            raise InputError(
                "recipe: this augmentation needs a margin of sky around the crop, but the recipe has no Crop. "
                "Try augment=flips, or recipe=minmax, crop_minmax or joint."
            )
        seam = crops[-1] if margin else len(modules)
        stored = [Crop(modules[seam].size + 2 * margin)] if margin else []
        self.before = nn.Sequential(*_crops_first([*modules[:seam], *stored]))
        self.after = nn.Sequential(*_crops_first(modules[seam:]))

    def prepare(self, image: Tensor) -> Tensor:
        """Raw (B, C, H, W) to what the store keeps."""
        return self.before(image)

    def finish(self, image: Tensor) -> Tensor:
        """Return stored (B, C, S, S) to what the net sees, float32; without NaN, unless no step removes it."""
        return self.after(image)

    def undo(self, image: Tensor) -> Tensor:
        """Return what the net sees back to a raw image (B, C, H, W), up to scale and level.

        Raises InputError where a step cannot be followed backwards.
        """
        for step in reversed([*self.before, *self.after]):
            if not hasattr(step, "undo"):
                raise InputError(
                    f"recipe: {type(step).__name__} cannot be undone, so there is no way back to raw stamps. "
                    "Train the generator with recipe=invertible."
                )
            image = step.undo(image)
        return image

    def forward(self, image: Tensor) -> Tensor:
        return self.finish(self.prepare(image))


def _crops_first(steps: list[nn.Module]) -> list[nn.Module]:
    """Return the steps with each crop ahead of those that look at each pixel alone: the same result from less work."""
    ordered: list[nn.Module] = []
    for step in steps:
        place = len(ordered)
        while isinstance(step, Crop) and place and getattr(ordered[place - 1], "pixelwise", False):
            place -= 1
        ordered.insert(place, step)
    return ordered
