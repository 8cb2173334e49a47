"""Artefacts that look like changes in the sky: pixel faults, noise, trails, flashes and ghosts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alerce_early.simulation.metadata import detection_limit
from alerce_early.simulation.painting import CENTRE, SIDE, Sources, flux_of
from alerce_early.simulation.settings import (
    COSMIC_RAY,
    CROSSING_TRAIL,
    DARK_COLUMN,
    DARK_PIXEL,
    FLASH,
    GHOST,
    GLINTS,
    MASK_EDGE,
    NOISE_PEAK,
    TRAIL,
    Setting,
)

Array = NDArray[Any]
Generator = np.random.Generator


def draw_artefacts(artefact: Array, c: dict[str, Array], setting: Setting, rng: Generator) -> Sources:
    """Draw the light that artefacts add to the science images.

    Parameters
    ----------
    artefact : ndarray
        (n,) int64 indices into `settings.ARTEFACTS`, -1 for none.
    c : dict of str to ndarray
        Conditions of the exposures, see `sky.draw_conditions`.
    setting : Setting
        Survey.
    rng : numpy.random.Generator
        Source of random numbers.
    """
    return Sources.join(
        draw_pixel_faults(artefact, c, rng),
        draw_noise_peaks(artefact, c, setting, rng),
        draw_lines(artefact, c, rng),
        draw_ghosts(artefact, c, rng),
    )


def draw_pixel_faults(artefact: Array, c: dict[str, Array], rng: Generator) -> Sources:
    """Draw dark pixels and cosmic rays, sharper than the seeing allows for a star."""
    row = np.flatnonzero(np.isin(artefact, (DARK_PIXEL, COSMIC_RAY, MASK_EDGE)))
    n = len(row)
    size, ratio = rng.uniform(1.0, 2.5, n), rng.uniform(0.3, 1, n)
    peak = 25 * np.exp(0.5 * rng.standard_normal(n)) * c["noise"][row]
    return Sources.of(
        row,
        c["x"][row],
        c["y"][row],
        np.where(artefact[row] == DARK_PIXEL, -1.6, 1.6) * peak * size * np.maximum(size * ratio, 0.9),
        size=size,
        ratio=ratio,
        angle=np.pi / 2 + 0.4 * rng.standard_normal(n),
        blurred=0.0,
    )


def draw_noise_peaks(artefact: Array, c: dict[str, Array], setting: Setting, rng: Generator) -> Sources:
    """Draw noise peaks: the mean profile of noise whose sum over a source exceeds the detection limit."""
    row = np.flatnonzero(artefact == NOISE_PEAK)
    n = len(row)
    mag = detection_limit(c, setting)[row] - rng.exponential(0.12, n)
    return Sources.of(row, c["x"][row], c["y"][row], flux_of(mag, c["zero_point"][row]))


def draw_lines(artefact: Array, c: dict[str, Array], rng: Generator) -> Sources:
    """Draw trains of glints, trails through the alert or next to it, single flashes and dark columns."""
    n = len(artefact)
    kinds = [artefact == k for k in (GLINTS, TRAIL, FLASH, CROSSING_TRAIL, DARK_COLUMN)]
    spacing = np.select(kinds, [rng.uniform(5, 24, n), 1.5, 3 * SIDE, 1.5, 1.5])
    any_way = rng.uniform(0, np.pi, n)
    along_rows = 0.15 * rng.standard_normal(n)
    direction = np.select(kinds, [along_rows, any_way, along_rows, any_way, np.pi / 2])
    beside = np.select(kinds[3:], [rng.uniform(4, 15, n) * rng.choice([-1, 1], n), rng.standard_normal(n)])
    peak = np.select(kinds, [18.0, 3.0, 45.0, 4.0, -4.0]) * np.exp(0.5 * rng.standard_normal(n)) * c["noise"]
    size = np.select(kinds, [1.0, 1.0, rng.uniform(1, 4, n), 1.0, 1.2])
    blurred = np.where(kinds[4], 0.0, 1.0)
    steps = np.arange(-50, 51)
    lines = np.flatnonzero(np.logical_or.reduce(kinds))
    row = np.repeat(lines, len(steps))
    along = np.tile(steps, len(lines)) * spacing[row]
    cos, sin = np.cos(direction[row]), np.sin(direction[row])
    x, y = c["x"][row] + along * cos - beside[row] * sin, c["y"][row] + along * sin + beside[row] * cos
    inside = np.maximum(np.abs(x - CENTRE), np.abs(y - CENTRE)) < SIDE
    flux = 1.5 * peak * (blurred * c["fwhm"] ** 2 + size**2)
    shape = {"size": size[row], "ratio": 0.6, "angle": direction[row], "blurred": blurred[row]}
    return Sources.of(row, x, y, flux[row], **shape)[inside]


def draw_ghosts(artefact: Array, c: dict[str, Array], rng: Generator) -> Sources:
    """Draw ghosts: light of a bright star outside the stamp, spread by reflections over much of it."""
    row = np.flatnonzero(artefact == GHOST)
    n = len(row)
    size, ratio = rng.uniform(7, 18, n), rng.uniform(0.3, 1, n)
    x, y = (c[axis][row] + 3 * rng.standard_normal(n) for axis in ("x", "y"))
    flux = rng.uniform(0.8, 3, n) * c["noise"][row] * size**2 * ratio
    return Sources.of(row, x, y, flux, size=size, ratio=ratio, angle=rng.uniform(0, np.pi, n))
