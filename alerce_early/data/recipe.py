"""Cleaning recipe, implemented once in torch for training, prediction and export.

A recipe is a list of steps, each a module from (B, C, H, W) to (B, C', H', W') float32. Steps that act on each pixel
separately have `pixelwise = True` and run after any crop that follows them, with the same result. The first step is
always `NoData`, so that later steps find no other marker of missing data than NaN.

Augmentation by arbitrary angles and shifts needs more sky than the network sees. For it the store keeps a margin
around the `Crop`, and the steps from the crop on run per batch, after augmentation:

    raw --prepare--> stored stamp --augment--> --finish--> input of the network

Without a margin `prepare` is the whole recipe and `finish` does nothing.

Generated images are in the units of the recipe. A step that can be inverted has a method `undo`, which returns an image
that the step would map to its argument, up to the scale and offset that the step discards. Undoing a crop does not
restore the surrounding sky; the caller fills it with 0, the sky level in these units.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alerce_early.construct import build
from alerce_early.data.records import MAX_PIXEL_VALUE
from alerce_early.errors import InputError

MAD_TO_SIGMA = 1.4826  # median absolute deviation to standard deviation, for a normal distribution


class NoData(nn.Module):
    """Replace invalid pixels, infinite or from `MAX_PIXEL_VALUE` on, by NaN."""

    pixelwise = True

    def forward(self, image: Tensor) -> Tensor:
        """Apply the step to a batch."""
        # scaled by a power of two, invalid pixels overflow and others are restored exactly: 4 times as fast as a mask
        scale = 2.0**128 / MAX_PIXEL_VALUE
        return (image * scale).nan_to_num_(torch.nan, torch.nan, torch.nan).mul_(1 / scale)

    def undo(self, image: Tensor) -> Tensor:
        """Return the image unchanged."""
        return image


class NanToZero(nn.Module):
    """Replace NaN by 0."""

    pixelwise = True

    def forward(self, image: Tensor) -> Tensor:
        """Apply the step to a batch."""
        return image.nan_to_num()

    def undo(self, image: Tensor) -> Tensor:
        """Return the image unchanged."""
        return image


class MinMax(nn.Module):
    """Scale each channel of each image to [0, 1] by its extremes.

    NaN is ignored and kept. A constant channel becomes 0.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Apply the step to a batch."""
        # replacing NaN is far faster than a boolean mask
        lowest = image.nan_to_num(torch.inf).amin((2, 3), keepdim=True)
        highest = image.nan_to_num(-torch.inf).amax((2, 3), keepdim=True)
        span = highest - lowest
        usable = span > 0
        # dividing by infinity gives 0 for channels without a range
        return (image - lowest.where(usable, 0.0)).div_(span.where(usable, torch.inf))


class UnitNorm(nn.Module):
    """Divide each channel of each image by its Euclidean norm.

    NaN is ignored and kept. A channel of zeros or NaN is unchanged.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Apply the step to a batch."""
        largest = image.abs().nan_to_num().amax((2, 3), keepdim=True)
        image = image / largest.where(largest > 0, torch.inf)  # the squares of float32 overflow from 1e19 on
        norm = image.nan_to_num().square().sum((2, 3), keepdim=True).sqrt()
        return image / norm.where(norm > 0, torch.inf)


class SkySigma(nn.Module):
    """Subtract the sky level of each channel and divide all channels by the sky noise of the science image.

    Unlike a scaling per channel, this preserves the relative flux of science, template and difference. The sky level is
    the median of the channel, and the noise is 1.4826 times the median absolute deviation of the first channel. Without
    noise (a constant science image, or NaN only) the result is 0. NaN is kept.

    Parameters
    ----------
    each : bool
        Whether to divide each channel by its own noise, for channels without a common unit.
    """

    def __init__(self, each: bool = False):
        super().__init__()
        self.each = each

    def forward(self, image: Tensor) -> Tensor:
        """Apply the step to a batch."""
        pixels = image.flatten(2)
        pixels = pixels - nanmedian(pixels)
        sigma = MAD_TO_SIGMA * nanmedian((pixels if self.each else pixels[:, :1]).abs())
        sigma = sigma.where(sigma > 0, torch.inf)
        return pixels.div_(sigma).view_as(image)

    def undo(self, image: Tensor) -> Tensor:
        """Return the image unchanged, in units of the noise."""
        return image


class Asinh(nn.Module):
    """Compress the dynamic range with arcsinh(image / bend): linear for the sky, logarithmic for bright pixels.

    Parameters
    ----------
    bend : float
        Pixel value at which the scale changes from linear to logarithmic.
    """

    pixelwise = True

    def __init__(self, bend: float = 1.0):
        super().__init__()
        self.bend = bend

    def forward(self, image: Tensor) -> Tensor:
        """Apply the step to a batch."""
        scaled = image / self.bend
        if _by_numpy(scaled):  # vectorised with AVX-512, unlike the one of torch
            return torch.from_numpy(np.arcsinh(scaled.numpy(), out=scaled.numpy()))
        return scaled.asinh()

    def undo(self, image: Tensor) -> Tensor:
        """Invert the compression."""
        return self.bend * image.sinh()


class Mask(nn.Module):
    """Append a channel that is 1 where any channel is NaN, so that missing pixels differ from sky pixels of value 0."""

    pixelwise = True

    def forward(self, image: Tensor) -> Tensor:
        """Apply the step to a batch."""
        missing = image.sum(1, keepdim=True).isnan()  # faster than a mask of every channel
        return torch.cat([image, missing.to(image.dtype)], 1)


class Renormalise(nn.Module):
    """Normalise spectra to weighted mean 0 and weighted rms 1, with the inverse variance as weight.

    The input (B, 2, L), flux and inverse variance, becomes (B, 1, L). Pixels with weight 0 or NaN become 0, and so do
    constant spectra. `forward` raises InputError for images.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Apply the step to a batch."""
        if image.ndim != 3 or image.shape[1] != 2:
            raise InputError(
                f"recipe: Renormalise expects spectra (flux, ivar), found rows of shape {tuple(image.shape[1:])}."
            )
        flux, weight = image[:, :1], image[:, 1:]
        usable = (weight > 0) & ~flux.isnan()
        flux, weight = flux.where(usable, 0.0), weight.where(usable, 0.0)
        weight = weight / weight.sum(2, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        flux = flux - (weight * flux).sum(2, keepdim=True)
        rms = (weight * flux.square()).sum(2, keepdim=True).sqrt()
        return (flux / rms.where(rms > 0, torch.inf)).where(usable, 0.0)


class Crop(nn.Module):
    """Keep the central `size` x `size` pixels.

    Parameters
    ----------
    size : int
        Side of the crop in pixels.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        """Apply the step to a batch."""
        return centre_crop(image, self.size)

    def undo(self, image: Tensor) -> Tensor:
        """Return the image unchanged, without the surrounding sky."""
        return image


class TwoScales(nn.Module):
    """Concatenate the centre at native scale and a larger field, binned to the same number of pixels.

    The result is (B, 2 C, size, size): the C central channels, then the C binned channels.

    Parameters
    ----------
    size : int
        Side of the result in pixels.
    factor : int
        Binning factor; the field has a side of `size` * `factor` pixels.
    """

    def __init__(self, size: int, factor: int):
        super().__init__()
        self.size, self.factor = size, factor

    def forward(self, image: Tensor) -> Tensor:
        """Apply the step to a batch."""
        whole = centre_crop(image, self.size * self.factor)
        return torch.cat([centre_crop(image, self.size), nn.functional.avg_pool2d(whole, self.factor)], 1)


def nanmedian(values: Tensor) -> Tensor:
    """Compute the median over the last axis, ignoring NaN.

    Parameters
    ----------
    values : Tensor
        (..., n).

    Returns
    -------
    Tensor
        (..., 1): the lower of two middle values, or NaN if all values are NaN.
    """
    if not _by_numpy(values):
        known = values.shape[-1] - values.isnan().sum(-1, keepdim=True)
        return _ascending(values).gather(-1, (known - 1).clamp_min(0) // 2)
    rows, middle = values.numpy(), (values.shape[-1] - 1) // 2
    # selection is three times as fast as sorting, which only the few rows with NaN need
    found = np.partition(rows, middle, -1)[..., middle : middle + 1]
    gaps = np.isnan(rows.sum(-1))
    if gaps.any():
        some = np.sort(rows[gaps], -1)  # NaN last
        known = np.isfinite(some).sum(-1, keepdims=True)
        found[gaps] = np.take_along_axis(some, np.maximum(known - 1, 0) // 2, -1)
    return torch.from_numpy(found)


def _by_numpy(values: Tensor) -> bool:
    """Return True for values on a CPU, without gradients, that are not being exported."""
    return values.is_cpu and not (values.requires_grad or torch.compiler.is_exporting())


def _ascending(values: Tensor) -> Tensor:
    """Sort values along the last axis, at least their smaller half, with NaN last."""
    if torch.compiler.is_exporting():  # other runtimes do not define the order of NaN
        half = values.shape[-1] // 2 + 1
        return values.where(~values.isnan(), torch.inf).topk(half, -1, largest=False).values
    return values.sort(-1).values


def centre_crop(image: Tensor, size: int) -> Tensor:
    """Return the central pixels (..., size, size) of (..., H, W); raise InputError if the image is smaller."""
    height, width = image.shape[-2:]
    if size > min(height, width):
        raise InputError(f"recipe: expected stamps of at least {size} x {size} pixels, found {height} x {width}.")
    top, left = (height - size) // 2, (width - size) // 2
    return image[..., top : top + size, left : left + size]


class Recipe(nn.Module):
    """A list of cleaning steps, split at the last crop if a margin is kept for augmentation.

    Parameters
    ----------
    steps : sequence of dict
        Plain configs of modules, each with a ``_target_``.
    margin : int
        Pixels kept on each side of the crop.

    Raises
    ------
    InputError
        If a margin is given, but no step is a `Crop`.
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
        """Apply the steps before the store: raw images (B, C, H, W) to stored images."""
        return self.before(image)

    def finish(self, image: Tensor) -> Tensor:
        """Apply the other steps: stored images (B, C, S, S) to the input of the network."""
        return self.after(image)

    def undo(self, image: Tensor) -> Tensor:
        """Invert the recipe, up to scale and offset.

        Parameters
        ----------
        image : Tensor
            (B, C, S, S), in the units of the network's input.

        Returns
        -------
        Tensor
            Raw images (B, C', H, W).

        Raises
        ------
        InputError
            If a step has no `undo`.
        """
        for step in reversed([*self.before, *self.after]):
            if not hasattr(step, "undo"):
                raise InputError(
                    f"recipe: {type(step).__name__} cannot be inverted to give raw stamps. "
                    "Train the generator with recipe=invertible."
                )
            image = step.undo(image)
        return image

    def forward(self, image: Tensor) -> Tensor:
        """Apply the whole recipe to raw images."""
        return self.finish(self.prepare(image))


def _crops_first(steps: list[nn.Module]) -> list[nn.Module]:
    """Move each crop ahead of pixelwise steps, which gives the same result with less computation."""
    ordered: list[nn.Module] = []
    for step in steps:
        place = len(ordered)
        while isinstance(step, Crop) and place and getattr(ordered[place - 1], "pixelwise", False):
            place -= 1
        ordered.insert(place, step)
    return ordered
