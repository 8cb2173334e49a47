"""Painting of scenes: stars as elliptical Moffat profiles and galaxies as Sersic profiles.

Every image has an atmosphere of its own. All images are (n, SIDE, SIDE) float32 in counts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from alerce_early.simulation.settings import Setting

Array = NDArray[Any]


SIDE = 63  # pixels
CENTRE = SIDE // 2
GALAXY_FRAME = 80  # pixels; so wide that the wrap-around of the Fourier transform does not reach the stamp


def per_stamp(values: Array) -> Array:
    """Reshape values (n,) to float32 (n, 1, 1), which broadcast with images (n, SIDE, SIDE)."""
    return values.astype(np.float32)[:, None, None]


def flux_of(mag: Array, zero_point: Array) -> Array:
    """Return the counts of a source of the given magnitude."""
    return 10 ** (0.4 * (zero_point - mag))


@dataclass
class Sources:
    """Point-like or slightly extended sources of many stamps, in one flat list: every field is (sources,)."""

    row: Array  # index of the stamp
    x: Array  # pixels
    y: Array
    flux: Array  # counts, may be negative
    mag: Array
    size: Array  # intrinsic fwhm along the major axis, pixels
    ratio: Array  # minor over major axis
    angle: Array  # of the major axis, radians from x
    blurred: Array  # 1 if seen through the atmosphere, 0 if made in the detector
    star: Array  # bool

    @classmethod
    def of(cls, row: Array, x: Array, y: Array, flux: Array, **others: Any) -> Sources:
        """Create sources that are unresolved round stars, except for the fields given as keywords."""
        usual = {"mag": 99.0, "size": 0.0, "ratio": 1.0, "angle": 0.0, "blurred": 1.0, "star": True} | others
        return cls(row, x, y, flux, **{name: np.broadcast_to(v, row.shape) for name, v in usual.items()})

    @classmethod
    def join(cls, *parts: Sources) -> Sources:
        """Concatenate lists of sources."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def __getitem__(self, index: Array) -> Sources:
        return Sources(*(getattr(self, f.name)[index] for f in fields(self)))


@dataclass
class Atmosphere:
    """Blurring of n images: elliptical Moffat profiles with an offset."""

    fwhm: Array  # (n,) pixels, geometric mean of both axes
    ratio: Array  # (n,) minor over major axis
    angle: Array  # (n,) of the major axis, radians from x
    shift: Array  # (n, 2) pixels
    exponent: int  # of the profile

    def __getitem__(self, index: Array) -> Atmosphere:
        return Atmosphere(self.fwhm[index], self.ratio[index], self.angle[index], self.shift[index], self.exponent)

    def shape(self) -> Array:
        """Return the matrices (3, n) of the profiles, see `ellipse`."""
        return ellipse(self.fwhm / np.sqrt(self.ratio), self.ratio, self.angle)


def ellipse(major: Array, ratio: Array, angle: Array) -> Array:
    """Return xx, xy, yy (3, ...) of the matrices with the squared axes as eigenvalues; convolution adds matrices."""
    c, s = np.cos(angle), np.sin(angle)
    a, b = major**2, (major * ratio) ** 2
    return np.stack([a * c * c + b * s * s, (a - b) * c * s, a * s * s + b * c * c])


def moffat(dx: Array, dy: Array, shape: Array, exponent: int) -> Array:
    """Return a Moffat profile of unit integral at offsets in pixels; `shape` is the `ellipse` of the fwhm."""
    width = 2 * np.sqrt(2 ** (1 / exponent) - 1)  # fwhm over scale radius
    xx, xy, yy = (shape / width**2).astype(np.float32)
    area = xx * yy - xy * xy
    u = 1 + (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / area
    power = u * u * u if exponent == 3 else u**exponent  # keeps the results of existing seeds of ZTF to the bit
    return (exponent - 1) / np.pi / np.sqrt(area) / power


def paint(sources: Sources, air: Atmosphere, setting: Setting) -> Array:
    """Paint sources as seen through the atmosphere, (n, SIDE, SIDE) float32."""
    n = len(air.fwhm)
    canvas = np.zeros(n * SIDE * SIDE)
    shape = ellipse(sources.size, sources.ratio, sources.angle)
    shape = shape + air.shape()[:, sources.row] * sources.blurred
    bright = np.abs(sources.flux) * ((shape[0] + shape[2]) / 2) ** 2 > setting.patch_limit
    for half, chosen in zip(setting.patch, (~bright, bright), strict=True):
        s, steps = sources[chosen], np.arange(-half, half + 1)
        x, y = (s.x + air.shift[s.row, 0])[:, None], (s.y + air.shift[s.row, 1])[:, None]
        column, line = np.rint(x).astype(int) + steps, np.rint(y).astype(int) + steps
        dx, dy = (column - x).astype(np.float32)[:, None, :], (line - y).astype(np.float32)[:, :, None]
        light = per_stamp(s.flux) * moffat(dx, dy, shape[:, chosen, None, None], air.exponent)
        inside = ((line >= 0) & (line < SIDE))[:, :, None] & ((column >= 0) & (column < SIDE))[:, None, :]
        pixel = (s.row[:, None, None] * SIDE + line[:, :, None]) * SIDE + column[:, None, :]
        canvas += np.bincount(pixel[inside], weights=light[inside], minlength=len(canvas))
    return canvas.reshape(n, SIDE, SIDE).astype(np.float32)


def sersic(galaxies: dict[str, Array]) -> Array:
    """Paint unblurred Sersic galaxies, some with two spiral arms, (galaxies, GALAXY_FRAME, GALAXY_FRAME) float32."""
    g = {name: per_stamp(values) for name, values in galaxies.items()}
    grid = np.arange(GALAXY_FRAME, dtype=np.float32) - (GALAXY_FRAME - SIDE) // 2
    dx, dy = grid - g["x"], grid[:, None] - g["y"]
    u = np.cos(g["angle"]) * dx + np.sin(g["angle"]) * dy
    v = (np.cos(g["angle"]) * dy - np.sin(g["angle"]) * dx) / g["ratio"]
    r = np.sqrt(u * u + v * v + 0.1)  # the cusp lies within a pixel
    light = np.exp(-(2 * g["index"] - 1 / 3) * (r / g["radius"]) ** (1 / g["index"]))
    arms = np.cos(2 * np.arctan2(v, u) - g["winding"] * np.log(r))
    light *= 1 + g["arms"] * arms * (1 - np.exp(-r / g["radius"]))
    return light * (g["flux"] / light.sum(axis=(1, 2), keepdims=True))


def blur(light: Array, air: Atmosphere) -> Array:
    """Blur galaxy frames by the atmosphere and crop them to (n, SIDE, SIDE) float32."""
    distance = fft.fftfreq(GALAXY_FRAME, 1 / GALAXY_FRAME).astype(np.float32)
    shift = air.shift.astype(np.float32)[:, :, None]
    dx, dy = (distance - shift[:, 0])[:, None, :], (distance - shift[:, 1])[:, :, None]
    kernel = moffat(dx, dy, air.shape()[:, :, None, None], air.exponent)
    kernel /= kernel.sum(axis=(1, 2), keepdims=True)
    seen = fft.irfft2(fft.rfft2(light) * fft.rfft2(kernel), s=light.shape[1:])
    edge = (GALAXY_FRAME - SIDE) // 2
    return seen[:, edge : edge + SIDE, edge : edge + SIDE]
