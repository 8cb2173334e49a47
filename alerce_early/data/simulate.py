"""A simulated survey of ZTF-like alerts: science, template and difference stamps with their metadata.

Each alert starts as a scene in counts: the stars and galaxies that science and template share, and what has
changed since the template (a flare, a supernova, an asteroid, a fault of the detector). Both images see the
scene through an atmosphere of their own. The difference is the science image minus what a slightly wrong
model predicts from the template, turned positive at the centre as the survey's pipeline does.

Depths, seeing, sky levels and magnitudes follow the public alert stream's distributions; no row is copied.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from alerce_early.data.alerce import CLASSES, COLUMNS
from alerce_early.data.simulate_metadata import (
    AGN,
    ASTEROID,
    BOGUS,
    SN,
    VS,
    detection_limit,
    draw_positions,
    metadata_columns,
    to_galactic,
)

Array = NDArray[Any]
Generator = np.random.Generator

COUNTS = np.array([14_966, 1_620, 14_996, 9_899, 10_763])  # stamps of each class in the ALeRCE training file
SMALLEST_CLASS = 2
MASKED, MISSHAPED = 0.09, 0.012  # shares of the stamps
CHUNK = 256  # stamps painted at once: bounds the memory, and belongs to what a seed means

SIDE = 63  # pixels
CENTRE = SIDE // 2
GAIN = 6.2  # electrons a count
SATURATION = 45_000.0  # counts above the sky
BLEEDING = 1.2e5  # counts of a star whose charge runs along its row
ZERO_POINT = 26.2  # mag of one count in a frame of the usual exposure
SHALLOW_ZERO_POINT = 23.2  # the same through clouds or in twilight, where most artefacts come from
SKY_NOISE = 0.25  # variance of the sky (counts squared) a count of sky level
TEMPLATE_DEPTH = 0.255  # template sky noise over science sky noise, before resampling
SHALLOW_TEMPLATE = 1.8  # how much noisier the templates of shallow frames are than their scale explains
TEMPLATE_FRAMES = 20  # exposures stacked
REFERENCE_LIMIT = 23.3  # mag of the faintest sources painted
# Resampling and subtraction mix pixels one and two apart, along columns and along rows, so that these share
# noise; in the grain that bright stars leave, neighbours differ in sign instead.
SCIENCE_MIX = (0.0, 0.0), (-0.03, 0.0)
TEMPLATE_MIX = (0.095, -0.055), (0.075, -0.055)
DIFFERENCE_MIX = (0.025, -0.02), (0.02, -0.03)
GRAIN_MIX = (-0.2, 0.0), (-0.2, 0.0)
MIX_SCATTER = 0.025  # of the subtraction's nearer weight from night to night

MOFFAT_WIDTH = 2 * np.sqrt(2 ** (1 / 3) - 1)  # fwhm over scale radius of a Moffat profile of exponent 3
HALF_PATCH = (7, 21)  # pixels painted to each side of faint and of bright sources
PATCH_LIMIT = 6e4  # flux x fwhm^4 beyond which light outside the small patch would show
GALAXY_FRAME = 80  # pixels; wide enough to keep the Fourier wrap-around out of the stamp

ARTEFACTS = ("dark pixel", "cosmic ray", "weak star", "residual", "glints", "trail", "flash", "mask edge")
DARK_PIXEL, COSMIC_RAY, WEAK_STAR, RESIDUAL, GLINTS, TRAIL, FLASH, MASK_EDGE = range(len(ARTEFACTS))
ARTEFACT_SHARES = np.array([0.28, 0.20, 0.20, 0.11, 0.06, 0.04, 0.06, 0.05])
SHALLOW_SHARES = np.array([0.7, 0.35, 1.0, 0.0, 0.8, 0.3, 0.6, 0.2])


def per_stamp(values: Array) -> Array:
    """(n,) values as float32 (n, 1, 1), to meet images (n, SIDE, SIDE)."""
    return values.astype(np.float32)[:, None, None]


# ---------------------------------------------------------------------------------------------- painting


@dataclass
class Sources:
    """Point-like or mildly extended sources of many stamps in one flat list: each field is (sources,)."""

    row: Array  # the stamp it is in
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
        """Round unresolved stars, unless others says otherwise."""
        usual = {"mag": 99.0, "size": 0.0, "ratio": 1.0, "angle": 0.0, "blurred": 1.0, "star": True} | others
        return cls(row, x, y, flux, **{name: np.broadcast_to(v, row.shape) for name, v in usual.items()})

    @classmethod
    def join(cls, *parts: Sources) -> Sources:
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def __getitem__(self, index: Array) -> Sources:
        return Sources(*(getattr(self, f.name)[index] for f in fields(self)))


@dataclass
class Atmosphere:
    """How each of n images blurs: displaced elliptical Moffat profiles of exponent 3."""

    fwhm: Array  # (n,) pixels, geometric mean of both axes
    ratio: Array  # (n,) minor over major axis
    angle: Array  # (n,) of the major axis, radians from x
    shift: Array  # (n, 2) pixels

    def __getitem__(self, index: Array) -> Atmosphere:
        return Atmosphere(*(getattr(self, f.name)[index] for f in fields(self)))

    def shape(self) -> Array:
        return ellipse(self.fwhm / np.sqrt(self.ratio), self.ratio, self.angle)


def ellipse(major: Array, ratio: Array, angle: Array) -> Array:
    """xx, xy, yy (3, ...) of the matrix with the squared axes as eigenvalues; blurring adds such matrices."""
    c, s = np.cos(angle), np.sin(angle)
    a, b = major**2, (major * ratio) ** 2
    return np.stack([a * c * c + b * s * s, (a - b) * c * s, a * s * s + b * c * c])


def moffat(dx: Array, dy: Array, shape: Array) -> Array:
    """Moffat profile of exponent 3 and unit integral at offsets in pixels; shape: ellipse of the fwhm."""
    xx, xy, yy = (shape / MOFFAT_WIDTH**2).astype(np.float32)
    area = xx * yy - xy * xy
    u = 1 + (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / area
    return 2 / np.pi / np.sqrt(area) / (u * u * u)


def paint(sources: Sources, air: Atmosphere) -> Array:
    """Images (n, SIDE, SIDE) float32 of the sources as seen through the atmosphere."""
    n = len(air.fwhm)
    canvas = np.zeros(n * SIDE * SIDE)
    shape = ellipse(sources.size, sources.ratio, sources.angle)
    shape = shape + air.shape()[:, sources.row] * sources.blurred
    bright = np.abs(sources.flux) * ((shape[0] + shape[2]) / 2) ** 2 > PATCH_LIMIT
    for half, chosen in zip(HALF_PATCH, (~bright, bright), strict=True):
        s, steps = sources[chosen], np.arange(-half, half + 1)
        x, y = (s.x + air.shift[s.row, 0])[:, None], (s.y + air.shift[s.row, 1])[:, None]
        column, line = np.rint(x).astype(int) + steps, np.rint(y).astype(int) + steps
        dx, dy = (column - x).astype(np.float32)[:, None, :], (line - y).astype(np.float32)[:, :, None]
        light = per_stamp(s.flux) * moffat(dx, dy, shape[:, chosen, None, None])
        inside = ((line >= 0) & (line < SIDE))[:, :, None] & ((column >= 0) & (column < SIDE))[:, None, :]
        pixel = (s.row[:, None, None] * SIDE + line[:, :, None]) * SIDE + column[:, None, :]
        canvas += np.bincount(pixel[inside], weights=light[inside], minlength=len(canvas))
    return canvas.reshape(n, SIDE, SIDE).astype(np.float32)


def sersic(galaxies: dict[str, Array]) -> Array:
    """Unblurred Sersic galaxies, some with two spiral arms, (number, GALAXY_FRAME, GALAXY_FRAME) float32."""
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
    """Galaxy frames as seen through the atmosphere, cut to (n, SIDE, SIDE) float32."""
    distance = fft.fftfreq(GALAXY_FRAME, 1 / GALAXY_FRAME).astype(np.float32)
    shift = air.shift.astype(np.float32)[:, :, None]
    dx, dy = (distance - shift[:, 0])[:, None, :], (distance - shift[:, 1])[:, :, None]
    kernel = moffat(dx, dy, air.shape()[:, :, None, None])
    kernel /= kernel.sum(axis=(1, 2), keepdims=True)
    seen = fft.irfft2(fft.rfft2(light) * fft.rfft2(kernel), s=light.shape[1:])
    edge = (GALAXY_FRAME - SIDE) // 2
    return seen[:, edge : edge + SIDE, edge : edge + SIDE]


# -------------------------------------------------------------------------------------- what is in the sky


@dataclass
class Scene:
    """Everything that decides n stamps but their noise."""

    labels: Array  # (n,)
    artefact: Array  # (n,) index into ARTEFACTS, -1 for what is in the sky
    conditions: dict[str, Array]  # of the exposures, as of `draw_conditions`
    static: Sources  # in science and template alike
    galaxies: dict[str, Array]  # resolved ones, also static
    change: Sources  # in the science image alone
    mag: Array  # (n,) of the change, where it is not an artefact


def flux_of(mag: Array, zero_point: Array) -> Array:
    """Counts of a source of that magnitude."""
    return 10 ** (0.4 * (zero_point - mag))


def draw_conditions(labels: Array, artefact: Array, rng: Generator) -> dict[str, Array]:
    """Pointing (degrees), depth (mag), sky (counts), sharpness and the alert's x, y (pixels), each (n,)."""
    n = len(labels)
    ra, dec = draw_positions(labels, rng)
    shallow = (artefact >= 0) & (rng.random(n) < SHALLOW_SHARES[artefact])
    level = np.where(labels == ASTEROID, 108.0, 165.0)  # asteroids are followed in dark time
    sky = np.maximum(level * np.exp(0.42 * rng.standard_normal(n)), 53.0)
    noise = np.sqrt(SKY_NOISE * sky) * np.exp(0.1 * rng.standard_normal(n) + rng.exponential(0.08, n))
    zero_point = ZERO_POINT + 0.15 * rng.standard_normal(n)
    fwhm = np.clip(2.0 * np.exp(0.28 * rng.standard_normal(n)), 1.25, 5.5)
    template_noise = TEMPLATE_DEPTH * noise * np.exp(0.25 * rng.standard_normal(n))
    # The pipeline scales the template to the science image, so that of a shallow frame has hardly any noise.
    shallow_point = SHALLOW_ZERO_POINT + 0.4 * rng.standard_normal(n)
    shallow_noise = rng.uniform(9.5, 16, n)
    scaled = SHALLOW_TEMPLATE * template_noise * 10 ** (0.4 * (shallow_point - zero_point))
    return {
        "ra": ra,
        "dec": dec,
        "gal_lat": to_galactic(ra, dec)[1],
        "sky": np.where(shallow, rng.uniform(5, 28, n), sky),
        "noise": np.where(shallow, shallow_noise, noise),
        "zero_point": np.where(shallow, shallow_point, zero_point),
        "fwhm": np.where(shallow, np.minimum(fwhm, 1.8), fwhm),
        "template_noise": np.where(shallow, scaled, template_noise),
        "template_fwhm": np.clip(2.1 * np.exp(0.12 * rng.standard_normal(n)), 1.6, 3.5),
        "x": CENTRE + rng.uniform(-0.5, 0.5, n),
        "y": CENTRE + rng.uniform(-0.5, 0.5, n),
    }


def draw_field(c: dict[str, Array], rng: Generator) -> Sources:
    """Unrelated stars and galaxies around every alert; stars crowd towards the galactic plane."""
    n = len(c["sky"])
    stars = 4 * np.exp(4.1 * np.exp(-np.abs(c["gal_lat"]) / 10) + 0.55 * rng.standard_normal(n))
    number = rng.poisson(np.stack([stars, np.full(n, 9.0)]))
    row = np.concatenate([np.repeat(np.arange(n), k) for k in number])
    star = np.arange(len(row)) < number[0].sum()
    slope = np.where(star, 0.25, 0.38)  # of the logarithm of the number, a magnitude
    mag = np.maximum(REFERENCE_LIMIT + np.log10(1 - rng.random(len(row))) / slope, 12.0)
    size = 10 ** (0.35 - 0.07 * (mag - 20) + 0.2 * rng.standard_normal(len(row)))
    return Sources.of(
        row,
        rng.uniform(-4, SIDE + 4, len(row)),
        rng.uniform(-4, SIDE + 4, len(row)),
        flux_of(mag, c["zero_point"][row]),
        mag=mag,
        size=np.where(star, 0.0, size),
        ratio=rng.uniform(0.3, 1.0, len(row)),
        angle=rng.uniform(0, np.pi, len(row)),
        star=star,
    )


def draw_hosts(labels: Array, c: dict[str, Array], rng: Generator) -> dict[str, Array]:
    """The galaxies of the supernovae and of some active nuclei, in one flat list with the row of each."""
    row = np.flatnonzero((labels == SN) | ((labels == AGN) & (rng.random(len(labels)) < 0.33)))
    n, nuclear = len(row), labels[row] == AGN
    bright = nuclear | (rng.random(n) < 0.75)
    mag = np.clip(17.3 + 1.4 * rng.standard_normal(n), 14.0, 22.0)
    mag = np.where(bright, mag, rng.uniform(20.5, REFERENCE_LIMIT, n))
    radius = 10 ** (0.52 - 0.13 * (mag - 18) + 0.2 * rng.standard_normal(n))
    ratio = rng.uniform(np.where(nuclear, 0.5, 0.25), 1)
    angle, turn = rng.uniform(0, np.pi, n), rng.uniform(0, 2 * np.pi, n)
    # Supernovae follow the light of an exponential disc; active nuclei sit in the middle.
    along = np.where(nuclear, 0, radius * rng.gamma(2, 0.52, n))
    u, v = along * np.cos(turn), along * np.sin(turn) * ratio
    return {
        "row": row,
        "x": c["x"][row] - np.cos(angle) * u + np.sin(angle) * v,
        "y": c["y"][row] - np.sin(angle) * u - np.cos(angle) * v,
        "flux": flux_of(mag, c["zero_point"][row]),
        "mag": mag,
        "radius": radius,
        "ratio": ratio,
        "angle": angle,
        "index": np.where(nuclear, rng.uniform(1.5, 4, n), rng.uniform(0.7, 2.5, n)),
        "arms": np.where((radius > 4) & (rng.random(n) < 0.6), rng.uniform(0.2, 0.7, n), 0),
        "winding": rng.uniform(2, 5, n) * rng.choice([-1, 1], n),
    }


def draw_counterparts(labels: Array, artefact: Array, c: dict[str, Array], rng: Generator) -> Sources:
    """The star or nucleus that was already there, at the alert's position, where there is one."""
    kinds = [labels == AGN, labels == VS, artefact == WEAK_STAR, artefact == RESIDUAL]
    mean, width = np.select(kinds, [17.9, 16.2, 14.0, 14.8]), np.select(kinds, [0.95, 1.9, 0.8, 0.9])
    mag = np.clip(mean + width * rng.standard_normal(len(labels)), 12.3, 21.2)
    outburst = (labels == VS) & (rng.random(len(labels)) < 0.06)  # of a star too faint for most templates
    mag = np.where(outburst, rng.uniform(19, 23, len(labels)), mag)
    row = np.flatnonzero(mean)
    return Sources.of(row, c["x"][row], c["y"][row], flux_of(mag, c["zero_point"])[row], mag=mag[row])


def draw_change(labels: Array, before: Array, c: dict[str, Array], rng: Generator) -> tuple[Array, Array]:
    """Magnitude (n,) of what changed and whether it is a loss of light, given the counterpart's."""
    n = len(labels)
    kinds = [labels == AGN, labels == SN, labels == VS]
    mean = np.select(kinds, [18.8 + 0.7 * (before - 17.9), 18.7, before + 1.65])
    scatter = np.select(kinds, [0.65, 0.75, np.where(rng.random(n) < 0.2, 1.4, 0.65)])
    mag = np.where(labels == ASTEROID, 20.3 - rng.gamma(1.5, 0.8, n), mean + scatter * rng.standard_normal(n))
    outburst = (labels == VS) & (before > 19)
    mag = np.where(outburst, np.minimum(mag, rng.normal(17, 1.8, n)), np.maximum(mag, 13.3))
    limit = detection_limit(c["zero_point"], c["noise"], c["fwhm"])
    mag = np.minimum(mag, limit - rng.exponential(0.3, n))  # the faintest alerts pile up just above the limit
    may_fade = np.select([labels == AGN, labels == VS], [0.65, 0.6], 0.0)
    return mag, (rng.random(n) < may_fade) & (mag > before + 0.1)


def draw_variables(labels: Array, mag: Array, fades: Array, c: dict[str, Array], rng: Generator) -> Sources:
    """Flares, losses of light, supernovae, and asteroids, some of them trailed about along the ecliptic."""
    row = np.flatnonzero(labels != BOGUS)
    n = len(row)
    trailed = (labels[row] == ASTEROID) & (rng.random(n) < 0.6)
    return Sources.of(
        row,
        c["x"][row],
        c["y"][row],
        np.where(fades, -1, 1)[row] * flux_of(mag, c["zero_point"])[row],
        size=np.where(trailed, rng.gamma(2, 1.1, n), 0.0),
        ratio=0.5,
        angle=0.35 * rng.standard_normal(n),
    )


def draw_pixel_faults(artefact: Array, c: dict[str, Array], rng: Generator) -> Sources:
    """Pixels gone dark and pixels hit by particles, sharper than any atmosphere lets a star be."""
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


def draw_satellites(artefact: Array, c: dict[str, Array], rng: Generator) -> Sources:
    """Trains of glints, unbroken trails, and single flashes."""
    n = len(artefact)
    kinds = [artefact == GLINTS, artefact == TRAIL, artefact == FLASH]
    spacing = np.select(kinds, [rng.uniform(5, 24, n), 1.5, 3 * SIDE])
    direction = np.where(artefact == TRAIL, rng.uniform(0, np.pi, n), 0.15 * rng.standard_normal(n))
    peak = np.select(kinds, [18.0, 3.0, 45.0]) * np.exp(0.5 * rng.standard_normal(n)) * c["noise"]
    size = np.select(kinds, [1.0, 1.0, rng.uniform(1, 4, n)])
    steps = np.arange(-50, 51)
    satellites = np.flatnonzero(np.logical_or.reduce(kinds))
    row = np.repeat(satellites, len(steps))
    along = np.tile(steps, len(satellites)) * spacing[row]
    x, y = c["x"][row] + along * np.cos(direction[row]), c["y"][row] + along * np.sin(direction[row])
    inside = np.maximum(np.abs(x - CENTRE), np.abs(y - CENTRE)) < SIDE
    flux = 1.5 * peak * (c["fwhm"] ** 2 + size**2)
    return Sources.of(row, x, y, flux[row], size=size[row], ratio=0.6, angle=direction[row])[inside]


def draw_scene(labels: Array, rng: Generator) -> Scene:
    """Scenes for alerts of the given classes (n,)."""
    artefact = np.where(labels == BOGUS, rng.choice(len(ARTEFACTS), len(labels), p=ARTEFACT_SHARES), -1)
    conditions = draw_conditions(labels, artefact, rng)
    galaxies = draw_hosts(labels, conditions, rng)
    counterparts = draw_counterparts(labels, artefact, conditions, rng)
    counterpart_mag = np.full(len(labels), 99.0)
    counterpart_mag[counterparts.row] = counterparts.mag
    host_mag = np.full(len(labels), 99.0)
    host_mag[galaxies["row"]] = galaxies["mag"]
    # A host that outshines its nucleus makes the two a galaxy to the catalogue.
    counterparts.star = counterparts.mag < host_mag[counterparts.row] + 0.7
    mag, fades = draw_change(labels, counterpart_mag, conditions, rng)
    change = Sources.join(
        draw_variables(labels, mag, fades, conditions, rng),
        draw_pixel_faults(artefact, conditions, rng),
        draw_satellites(artefact, conditions, rng),
    )
    static = Sources.join(draw_field(conditions, rng), counterparts)
    return Scene(labels, artefact, conditions, static, galaxies, change, mag)


# ------------------------------------------------------------------------------------ what the camera makes


def bleed(sources: Sources) -> Sources:
    """The charge that runs along the rows of the brightest stars."""
    s = sources[sources.flux > BLEEDING]
    return Sources.of(s.row, s.x, s.y, 0.008 * s.flux, size=16.0, ratio=0.03)


def draw_atmosphere(fwhm: Array, rng: Generator) -> Atmosphere:
    n = len(fwhm)
    ratio = np.maximum(1 - np.abs(0.08 * rng.standard_normal(n)), 0.6)
    return Atmosphere(fwhm, ratio, rng.uniform(0, np.pi, n), np.zeros((n, 2)))


def draw_belief(air: Atmosphere, bad: Array, rng: Generator) -> Atmosphere:
    """The atmosphere and pointing that the subtraction believes in; far off where bad (n,) is set."""
    n = len(bad)
    width = np.exp(np.where(bad, 0.08, 0.04) * rng.standard_normal(n))
    ratio = air.ratio * (1 + 0.04 * rng.standard_normal(n))
    shift = np.where(bad, 0.15, 0.05)[:, None] * rng.standard_normal((n, 2))
    return Atmosphere(air.fwhm * width, ratio, air.angle, shift)


def mix(images: Array, weights: tuple[tuple[Any, float], tuple[Any, float]]) -> Array:
    """Images (n, SIDE, SIDE) with pixels one and two apart mixed along columns, then rows; flux is kept."""
    for axis, (near, far) in zip((1, 2), weights, strict=True):
        mixed = images * (1 - 2 * near - 2 * far)
        for steps, weight in ((1, near), (2, far)):
            if np.any(weight):
                mixed += weight * (np.roll(images, steps, axis) + np.roll(images, -steps, axis))
        images = mixed
    return images


def white(n: int, rng: Generator) -> Array:
    """Noise (n, SIDE, SIDE) float32 of unit variance."""
    return rng.standard_normal((n, SIDE, SIDE), dtype=np.float32)


def column_pattern(n: int, rng: Generator) -> Array:
    """Offsets of the detector columns (n, 1, SIDE), in units of the sky noise; strong on a few detectors."""
    strength = np.where(rng.random(n) < 0.75, 0.035, rng.uniform(0.07, 0.28, n))[:, None]
    alternate = rng.choice([-1, 1], (n, 1)) * (-1.0) ** np.arange(SIDE)
    return (strength * (alternate + rng.standard_normal((n, SIDE)))).astype(np.float32)[:, None, :]


def dead_area(artefact: Array, rng: Generator) -> Array:
    """Pixels without data (n, SIDE, SIDE) bool: strips at chip edges, some slanted, or masked rectangles.
    They spare the alert itself, though an artefact may touch one."""
    n = len(artefact)
    at_edge = artefact == MASK_EDGE
    masked = at_edge | (rng.random(n) < MASKED)
    strip = (rng.random(n) < 0.45) & ~at_edge
    grid = np.arange(SIDE)
    slant = np.where(rng.random(n) < 0.1, rng.uniform(-1, 1, n), 0)[:, None, None]
    strips = grid + slant * (grid[:, None] - CENTRE) < rng.uniform(2, 27, n)[:, None, None]
    half = rng.uniform(3, 9, (2, n, 1))
    gap = np.where(at_edge, rng.uniform(1, 2.5, n), rng.uniform(2, 20, n))[:, None]
    across = np.abs(grid - (CENTRE - half[0] - gap)) < half[0]
    along = np.where(at_edge, 3, 20)[:, None] * rng.uniform(-1, 1, (n, 1))
    down = np.abs(grid - CENTRE - along) < half[1]
    dead = np.where(strip[:, None, None], strips, across[:, None, :] & down[:, :, None])
    dead &= masked[:, None, None]
    turns = rng.integers(0, 4, n)[:, None, None]
    dead = np.where(turns % 2 == 1, dead.transpose(0, 2, 1), dead)
    return np.where(turns >= 2, dead[:, ::-1, ::-1], dead)


def subtract(science: Array, predicted: Array, noise: Array, artefact: Array, rng: Generator) -> Array:
    """Difference images (n, SIDE, SIDE): science without sky, less the template as its atmosphere shows it.

    Bright stars leave grain behind; a star too weak in a shallow frame is what cloud or a wrong scale leaves.
    """
    n = len(artefact)
    scale = np.where(artefact == WEAK_STAR, rng.uniform(1.1, 1.4, n), 1 + 0.01 * rng.standard_normal(n))
    grain = np.where(artefact >= 0, 0.042, 0.014) * np.exp(0.6 * rng.standard_normal(n))
    predicted = np.minimum(predicted * per_stamp(scale), SATURATION)
    residue = predicted * per_stamp(grain) * mix(white(n, rng), GRAIN_MIX)
    scatter = MIX_SCATTER * rng.standard_normal((2, n))
    (down, down_far), (across, across_far) = DIFFERENCE_MIX
    weights = (down + per_stamp(scatter[0]), down_far), (across + per_stamp(scatter[1]), across_far)
    return mix(science - predicted + residue + 0.5 * noise, weights)


def observe(scene: Scene, rng: Generator) -> tuple[Array, Array]:
    """Stamps (n, SIDE, SIDE, 3) float32 in counts, and whether each difference was negative (n,) bool."""
    n = len(scene.labels)
    c = {name: per_stamp(values) for name, values in scene.conditions.items()}
    air = draw_atmosphere(scene.conditions["fwhm"], rng)
    template_air = draw_atmosphere(scene.conditions["template_fwhm"], rng)
    belief = draw_belief(air, scene.artefact == RESIDUAL, rng)
    static, row = Sources.join(scene.static, bleed(scene.static)), scene.galaxies["row"]
    galaxies = sersic(scene.galaxies)
    science, template, predicted = (paint(static, a) for a in (air, template_air, belief))
    for image, a in ((science, air), (template, template_air), (predicted, belief)):
        image[row] += blur(galaxies, a[row])
    science += paint(scene.change, air)

    noise = white(n, rng) * np.sqrt(c["noise"] ** 2 + np.maximum(science, 0) / GAIN)
    noise = mix(noise, SCIENCE_MIX) + column_pattern(n, rng) * c["noise"]
    science = np.minimum(science, SATURATION) + noise
    template_noise = white(n, rng) * np.sqrt(c["template_noise"] ** 2 + template / TEMPLATE_FRAMES / GAIN)
    template = np.minimum(template, SATURATION) + mix(template_noise, TEMPLATE_MIX)
    difference = subtract(science, predicted, template_noise, scene.artefact, rng)
    difference += c["noise"] * per_stamp(0.025 * rng.standard_normal(n))  # the background is not quite known
    template += c["sky"] + c["noise"] * per_stamp(0.06 * rng.standard_normal(n))
    negative = difference[:, CENTRE - 1 : CENTRE + 2, CENTRE - 1 : CENTRE + 2].mean(axis=(1, 2)) < 0
    difference = np.where(negative[:, None, None], -difference, difference)
    images = np.stack([science + c["sky"], template, difference], axis=-1)
    images[dead_area(scene.artefact, rng)] = np.nan
    return images, negative


def measure(scene: Scene, images: Array, negative: Array, rng: Generator) -> Array:
    """Metadata (n, 26) float64 of observed scenes."""
    c, static, hosts = scene.conditions, scene.static, scene.galaxies
    # A nucleus and its host are one catalogue entry; a supernova's host is one of its own.
    own = scene.labels[hosts["row"]] == SN
    row = np.concatenate([static.row, hosts["row"][own]])
    x, y = np.concatenate([static.x, hosts["x"][own]]), np.concatenate([static.y, hosts["y"][own]])
    distance = np.hypot(x - c["x"][row], y - c["y"][row])
    catalogue = {
        "row": row,
        "distance": np.hypot(distance, 0.35 * rng.standard_normal(len(row))),
        "mag": np.concatenate([static.mag, hosts["mag"][own]]),
        "star": np.concatenate([static.star, np.zeros(own.sum(), bool)]),
    }
    aperture = slice(CENTRE - 3, CENTRE + 4)
    counts = np.nansum(images[:, aperture, aperture, 2], axis=(1, 2))
    artefact_mag = c["zero_point"] - 2.5 * np.log10(np.maximum(counts, 1))
    limit = detection_limit(c["zero_point"], c["noise"], c["fwhm"])
    mag = np.where(scene.labels == BOGUS, np.minimum(artefact_mag, limit), scene.mag)
    return metadata_columns(scene.labels, c, catalogue, mag, negative, rng)


# ------------------------------------------------------------------------------------------------ the survey


def class_counts(n: int) -> Array:
    """How many of n stamps each class gets: its share of the training file, none below SMALLEST_CLASS."""
    if n < SMALLEST_CLASS * len(CLASSES):
        raise ValueError(f"{n} stamps are too few: ask for at least {SMALLEST_CLASS * len(CLASSES)}.")
    exact = n * COUNTS / COUNTS.sum()
    counts = np.maximum(np.floor(exact).astype(np.int64), SMALLEST_CLASS)
    while counts.sum() > n:
        counts[np.argmax(counts)] -= 1
    while counts.sum() < n:
        counts[np.argmax(exact - counts)] += 1
    return counts


def trim(stamp: Array, rng: Generator) -> Array:
    """A stamp that runs over the chip's edge: lines or columns of one side are missing."""
    kept = int(rng.integers(35, SIDE))
    part = slice(0, kept) if rng.random() < 0.5 else slice(SIDE - kept, SIDE)
    return (stamp[part] if rng.random() < 0.5 else stamp[:, part]).copy()


def simulate(n: int = 52_244, seed: int = 0) -> dict[str, Any]:
    """A survey of n alerts, a pure function of (n, seed); the default size is the ALeRCE training file's.

    images: list of n (height, width, 3) float32 stamps in counts, science, template, difference; 63 x 63 but
    for about 1.2 %; NaN where the detector has no data.
    labels: (n,) int64 indices into CLASSES, shuffled, in the training file's proportions.
    metadata: (n, 26) float64 in COLUMNS order, -999 where missing.
    oid: list of n str, one object an alert.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(CLASSES)), class_counts(n)))
    misshaped = rng.random(n) < MISSHAPED
    images: list[Array] = []
    metadata = np.empty((n, len(COLUMNS)))
    for start in range(0, n, CHUNK):
        chunk = slice(start, start + CHUNK)
        scene = draw_scene(labels[chunk], rng)
        stamps, negative = observe(scene, rng)
        metadata[chunk] = measure(scene, stamps, negative, rng)
        images += [trim(s, rng) if cut else s.copy() for s, cut in zip(stamps, misshaped[chunk], strict=True)]
    oid = [f"SIM{i:07d}" for i in range(n)]
    return {"images": images, "labels": labels, "metadata": metadata, "oid": oid}
