"""Camera and image subtraction: noise, saturation, dead areas and the difference image.

The difference is the science image minus the template as a slightly wrong model of the atmosphere predicts it. Like the
pipeline of ZTF, it is sign-flipped where it is negative at the centre.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alerce_early.simulation.painting import (
    CENTRE,
    SIDE,
    Atmosphere,
    Sources,
    blur,
    paint,
    per_stamp,
    sersic,
)
from alerce_early.simulation.settings import (
    CRESCENT,
    CROSSING_TRAIL,
    MASK_EDGE,
    MASKED_STAR,
    RESIDUAL,
    WEAK_STAR,
    Setting,
)
from alerce_early.simulation.sky import Scene

Array = NDArray[Any]
Generator = np.random.Generator

CUTOUT_SIDES = 30, 93  # pixels: smallest and largest side, for surveys with cutouts of different sizes
GRAIN_MIX = (-0.2, 0.0), (-0.2, 0.0)  # neighbouring pixels are anticorrelated in the residuals of bright stars


def bleed(sources: Sources, least: float) -> Sources:
    """Return the charge that bleeds along the rows of stars with more than `least` counts."""
    s = sources[sources.flux > least]
    return Sources.of(s.row, s.x, s.y, 0.008 * s.flux, size=16.0, ratio=0.03)


def draw_atmosphere(fwhm: Array, exponent: int, rng: Generator) -> Atmosphere:
    """Draw slightly elongated profiles, given their fwhm (n,) in pixels and the exponent of the Moffat profile."""
    n = len(fwhm)
    ratio = np.maximum(1 - np.abs(0.08 * rng.standard_normal(n)), 0.6)
    return Atmosphere(fwhm, ratio, rng.uniform(0, np.pi, n), np.zeros((n, 2)), exponent)


def draw_assumed_atmosphere(air: Atmosphere, artefact: Array, setting: Setting, rng: Generator) -> Atmosphere:
    """Draw the atmosphere and pointing that the subtraction assumes, which are far off for some artefacts (n,)."""
    n = len(artefact)
    bad, worst = np.isin(artefact, (RESIDUAL, CROSSING_TRAIL)), artefact == CRESCENT
    good, poor = setting.psf_error
    width = np.exp(np.where(bad | worst, poor, good) * rng.standard_normal(n))
    ratio = air.ratio * (1 + good * rng.standard_normal(n))
    usual, *off = setting.position_error
    shift = np.select([bad, worst], off, usual)[:, None] * rng.standard_normal((n, 2))
    return Atmosphere(air.fwhm * width, ratio, air.angle, shift, air.exponent)


def mix_pixels(images: Array, weights: tuple[tuple[Any, float], tuple[Any, float]]) -> Array:
    """Mix pixels that are one and two apart along columns, then along rows.

    Parameters
    ----------
    images : ndarray
        (n, SIDE, SIDE).
    weights : tuple of tuple
        Weights of pixels one and two apart, along columns and along rows; scalars or (n, 1, 1).

    Returns
    -------
    ndarray
        Images of the same shape and flux.
    """
    for axis, (near, far) in zip((1, 2), weights, strict=True):
        mixed = images * (1 - 2 * near - 2 * far)
        for steps, weight in ((1, near), (2, far)):
            if np.any(weight):
                mixed += weight * (np.roll(images, steps, axis) + np.roll(images, -steps, axis))
        images = mixed
    return images


def white_noise(n: int, rng: Generator) -> Array:
    """Draw white noise (n, SIDE, SIDE) float32 of unit variance."""
    return rng.standard_normal((n, SIDE, SIDE), dtype=np.float32)


def column_pattern(n: int, rng: Generator) -> Array:
    """Draw offsets of detector columns (n, 1, SIDE) in units of the sky noise, strong in a quarter of the images."""
    strength = np.where(rng.random(n) < 0.75, 0.035, rng.uniform(0.07, 0.28, n))[:, None]
    alternate = rng.choice([-1, 1], (n, 1)) * (-1.0) ** np.arange(SIDE)
    return (strength * (alternate + rng.standard_normal((n, SIDE)))).astype(np.float32)[:, None, :]


def dead_area(artefact: Array, share: float, rng: Generator) -> Array:
    """Draw pixels without data: strips at chip edges, some slanted, or masks, a third of them ragged.

    They do not cover the alert itself, except at the remains of a masked star; artefacts at a mask's edge touch one.

    Parameters
    ----------
    artefact : ndarray
        (n,) int64 indices into `settings.ARTEFACTS`, -1 for none.
    share : float
        Fraction of the other stamps that have a dead area.
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    ndarray
        (n, SIDE, SIDE) bool, True without data.
    """
    n = len(artefact)
    at_edge, on_star = artefact == MASK_EDGE, artefact == MASKED_STAR
    masked = at_edge | on_star | (rng.random(n) < share)
    strip = (rng.random(n) < 0.45) & ~at_edge & ~on_star
    grid = np.arange(SIDE)
    slant = np.where(rng.random(n) < 0.1, rng.uniform(-1, 1, n), 0)[:, None, None]
    strips = grid + slant * (grid[:, None] - CENTRE) < rng.uniform(2, 27, n)[:, None, None]
    half = rng.uniform(3, 9, (2, n, 1))
    gap = np.select([at_edge, on_star], [rng.uniform(1, 2.5, n), -half[0, :, 0]], rng.uniform(2, 20, n))[:, None]
    along = np.select([at_edge, on_star], [3.0, 2.0], 20.0)[:, None] * rng.uniform(-1, 1, (n, 1))
    ragged = np.where(on_star | (rng.random(n) < 1 / 3), 0.25, 0.0)[:, None]
    edge = half[0] * (1 - ragged * np.abs(np.repeat(rng.standard_normal((n, SIDE // 3)), 3, axis=1)))
    across = np.abs(grid - (CENTRE - half[0] - gap)[..., None]) < edge[..., None]
    down = np.abs(grid - CENTRE - along) < half[1]
    dead = np.where(strip[:, None, None], strips, across & down[:, :, None])
    dead &= masked[:, None, None]
    turns = rng.integers(0, 4, n)[:, None, None]
    dead = np.where(turns % 2 == 1, dead.transpose(0, 2, 1), dead)
    return np.where(turns >= 2, dead[:, ::-1, ::-1], dead)


def subtract(
    science: Array, predicted: Array, noise: Array, artefact: Array, setting: Setting, rng: Generator
) -> Array:
    """Subtract the predicted template from the science image.

    Bright stars leave grainy residuals. A "weak star" is one that cloud or a wrong flux scale makes fainter than
    predicted.

    Parameters
    ----------
    science : ndarray
        (n, SIDE, SIDE) counts, without sky.
    predicted : ndarray
        (n, SIDE, SIDE) counts, noiseless template as seen through the assumed atmosphere.
    noise : ndarray
        (n, SIDE, SIDE) noise of the template.
    artefact : ndarray
        (n,) int64 indices into `settings.ARTEFACTS`, -1 for none.
    setting : Setting
        Survey.
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    ndarray
        Difference images (n, SIDE, SIDE) in counts.
    """
    n = len(artefact)
    scale = np.where(artefact == WEAK_STAR, rng.uniform(1.1, 1.4, n), 1 + 0.01 * rng.standard_normal(n))
    good, poor = setting.grain
    grain = np.where(artefact >= 0, poor, good) * np.exp(0.6 * rng.standard_normal(n))
    predicted = np.minimum(predicted * per_stamp(scale), setting.saturation)
    residue = predicted * per_stamp(grain) * mix_pixels(white_noise(n, rng), GRAIN_MIX)
    scatter = setting.mix_scatter * rng.standard_normal((2, n))
    (down, down_far), (across, across_far) = setting.difference_mix
    weights = (down + per_stamp(scatter[0]), down_far), (across + per_stamp(scatter[1]), across_far)
    return mix_pixels(science - predicted + residue + setting.template_share * noise, weights)


def outside_cutout(difference: Array, c: dict[str, Array], rng: Generator) -> Array:
    """Return a mask (n, SIDE, SIDE) of the pixels outside a cutout whose size grows with width and brightness."""
    middle = np.nan_to_num(difference[:, CENTRE - 4 : CENTRE + 5, CENTRE - 4 : CENTRE + 5])
    peak = np.abs(middle.reshape(-1, 3, 3, 3, 3).mean(axis=(2, 4))).max(axis=(1, 2)) / c["noise"]
    ratio = np.maximum(0.7 * c["fwhm"] * peak, 5.0)  # signal to noise of a point source of that peak
    side = c["fwhm"] * (2.2 + 1.55 * np.log10(ratio)) + 2 * rng.standard_normal(len(peak))
    side = np.clip(np.rint(side), *CUTOUT_SIDES).astype(int)
    first = [CENTRE - (side - 1) // 2 - ((side % 2 == 0) & (c[axis] < CENTRE)) for axis in ("x", "y")]
    column, line = (((grid := np.arange(SIDE)) < f[:, None]) | (grid >= (f + side)[:, None]) for f in first)
    return line[:, :, None] | column[:, None, :]


def observe(scene: Scene, rng: Generator) -> tuple[Array, Array]:
    """Observe scenes: paint them through two atmospheres, add noise and subtract.

    Returns
    -------
    images : ndarray
        (n, SIDE, SIDE, 3) float32 in counts: science, template, difference; NaN without data.
    negative : ndarray
        (n,) bool, whether the difference is negative at the centre, before a sign flip.
    """
    n, setting = len(scene.labels), scene.setting
    c = {name: per_stamp(values) for name, values in scene.conditions.items()}
    air = draw_atmosphere(scene.conditions["fwhm"], setting.profile, rng)
    template_air = draw_atmosphere(scene.conditions["template_fwhm"], setting.profile, rng)
    assumed = draw_assumed_atmosphere(air, scene.artefact, setting, rng)
    static, row = Sources.join(scene.static, bleed(scene.static, setting.bleeding)), scene.galaxies["row"]
    galaxies = sersic(scene.galaxies)
    science, template, predicted = (paint(static, a, setting) for a in (air, template_air, assumed))
    for image, a in ((science, air), (template, template_air), (predicted, assumed)):
        image[row] += blur(galaxies, a[row])
    science += paint(scene.change, air, setting)

    noise = white_noise(n, rng) * np.sqrt(c["noise"] ** 2 + np.maximum(science, 0) / setting.gain)
    noise = mix_pixels(noise, setting.science_mix) + setting.pattern * column_pattern(n, rng) * c["noise"]
    science = np.minimum(science, setting.saturation) + noise
    template_noise = white_noise(n, rng) * np.sqrt(c["template_noise"] ** 2 + template / setting.frames / setting.gain)
    template = np.minimum(template, setting.saturation) + mix_pixels(template_noise, setting.template_mix)
    difference = subtract(science, predicted, template_noise, scene.artefact, setting, rng)
    difference += c["noise"] * per_stamp(0.025 * rng.standard_normal(n))  # error of the background
    template += c["sky"] + c["noise"] * per_stamp(0.06 * rng.standard_normal(n))
    negative = difference[:, CENTRE - 1 : CENTRE + 2, CENTRE - 1 : CENTRE + 2].mean(axis=(1, 2)) < 0
    if setting.flipped:
        difference = np.where(negative[:, None, None], -difference, difference)
    images = np.stack([science + c["sky"], template, difference], axis=-1)
    images[dead := dead_area(scene.artefact, setting.masked, rng)] = np.nan
    odd = rng.spawn(1)[0].random(n) < setting.lowest  # a generator of its own keeps the results of existing seeds
    images[..., 1][dead & odd[:, None, None]] = np.finfo(np.float32).min
    if setting.framed:
        images[outside_cutout(images[..., 2], scene.conditions, rng)] = np.nan
    return images, negative
