"""A simulated survey of ZTF-like alerts: science, template and difference stamps with their metadata.

Every stamp is painted from a scene in counts: stars and galaxies common to science and template, and what
changed since (a flare, a supernova, an asteroid, a detector fault), each blurred by its own image's
atmosphere. The difference is the science image minus the template as a slightly wrong model of the
atmosphere would predict it, turned positive at the centre as the survey does.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from alerce_early.data.alerce import CLASSES
from alerce_early.data.simulate_metadata import (
    AGN,
    ASTEROID,
    BOGUS,
    SN,
    VS,
    draw_positions,
    metadata_columns,
    point_noise,
    to_galactic,
)

Array = NDArray[Any]

COUNTS = np.array([14_966, 1_620, 14_996, 9_899, 10_763])  # of each class in the ALeRCE training file
SMALLEST_CLASS = 2
SIDE = 63  # pixels
CENTRE = SIDE // 2
CHUNK = 256  # stamps painted at once; bounds the memory and is part of what a seed means
GAIN = 6.2  # electrons per count
ZERO_POINT = 26.2  # mag of one count in a frame of the usual exposure
SHALLOW_ZERO_POINT = 23.2  # the same through clouds or twilight; such frames hold most artefacts
SATURATION = 45_000.0  # counts above the sky
TEMPLATE_DEPTH = 0.255  # template sky noise over science sky noise
# Resampling and subtraction share a little noise between pixels one and two apart: weights of these neighbours.
TEMPLATE_KERNEL = (0.075, -0.05)
REFERENCE_LIMIT = 23.3  # mag of the faintest template sources
DETECTION = 7.5  # signal to noise of the faintest alerts in a point source fit
MOFFAT_WIDTH = 2 * np.sqrt(2 ** (1 / 3) - 1)  # fwhm over scale radius of a Moffat profile of exponent 3
HALF_PATCH = (7, 21)  # pixels painted around faint and bright sources
PATCH_LIMIT = 6e4  # flux x fwhm^4 whose light outside the small patch would be noticed
GALAXY_FRAME = 80  # pixels; wide enough that light wrapped around stays out of the stamp
MASKED, MISSHAPED = 0.085, 0.012  # shares of the stamps

ARTEFACTS = (
    "dark pixel",
    "cosmic ray",
    "shallow residual",
    "residual",
    "glints",
    "trail",
    "flash",
    "mask edge",
)
DARK_PIXEL, COSMIC_RAY, SHALLOW_RESIDUAL, RESIDUAL, GLINTS, TRAIL, FLASH, MASK_EDGE = range(len(ARTEFACTS))
ARTEFACT_SHARES = np.array([0.30, 0.20, 0.20, 0.11, 0.05, 0.04, 0.05, 0.05])
SHALLOW_SHARES = np.array([0.7, 0.35, 1.0, 0.0, 0.8, 0.3, 0.8, 0.2])


@dataclass
class Sources:
    """A flat list of point-like or mildly extended sources of many stamps, each field (number of sources,)."""

    row: Array  # stamp that shows it
    x: Array  # pixels
    y: Array
    flux: Array  # counts, may be negative
    size: Array  # intrinsic fwhm along the major axis, pixels
    axis_ratio: Array  # minor over major axis
    angle: Array  # of the major axis, radians from x
    blur: Array  # 1: seen through the atmosphere, 0: made in the detector
    mag: Array
    star: Array  # bool

    @classmethod
    def of(cls, row: Array, x: Array, y: Array, flux: Array, **others: Any) -> Sources:
        usual = {"size": 0.0, "axis_ratio": 1.0, "angle": 0.0, "blur": 1.0, "mag": 99.0, "star": True}
        return cls(row, x, y, flux, **{k: np.broadcast_to(others.get(k, v), row.shape) for k, v in usual.items()})

    @classmethod
    def join(cls, *parts: Sources) -> Sources:
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def __getitem__(self, index: Array) -> Sources:
        return Sources(*(getattr(self, f.name)[index] for f in fields(self)))


# ---------------------------------------------------------------- painting


def moffat(r2: Array) -> Array:
    """Moffat profile of exponent 3, unit integral, of squared radii in units of the scale radius."""
    u = 1 + r2
    return (2 / np.pi) / (u * u * u)


def paint(sources: Sources, fwhm: Array, shift: Array | None = None) -> Array:
    """Images (n, SIDE, SIDE) float32 of the sources seen through an atmosphere of fwhm (n,) pixels, all moved by
    shift (n, 2) pixels."""
    n = len(fwhm)
    canvas = np.zeros(n * SIDE * SIDE)
    major = np.sqrt((fwhm[sources.row] * sources.blur) ** 2 + sources.size**2) / MOFFAT_WIDTH
    minor = np.sqrt((fwhm[sources.row] * sources.blur) ** 2 + (sources.size * sources.axis_ratio) ** 2) / MOFFAT_WIDTH
    bright = np.abs(sources.flux) * (major * MOFFAT_WIDTH) ** 4 > PATCH_LIMIT
    moved = np.zeros((n, 2)) if shift is None else shift
    for half, chosen in zip(HALF_PATCH, (~bright, bright), strict=True):
        s, a, b = sources[chosen], major[chosen], minor[chosen]
        if not len(a):
            continue
        x, y = s.x + moved[s.row, 0], s.y + moved[s.row, 1]
        steps = np.arange(-half, half + 1)
        column, line = np.rint(x)[:, None].astype(int) + steps, np.rint(y)[:, None].astype(int) + steps
        dx = (column - x[:, None]).astype(np.float32)[:, None, :]
        dy = (line - y[:, None]).astype(np.float32)[:, :, None]
        c, d = (
            np.cos(s.angle)[:, None, None].astype(np.float32),
            np.sin(s.angle)[:, None, None].astype(np.float32),
        )
        a, b = a[:, None, None].astype(np.float32), b[:, None, None].astype(np.float32)
        light = (s.flux[:, None, None] / (a * b)).astype(np.float32)
        light = light * moffat(((c * dx + d * dy) / a) ** 2 + ((c * dy - d * dx) / b) ** 2)
        inside = ((line >= 0) & (line < SIDE))[:, :, None] & ((column >= 0) & (column < SIDE))[:, None, :]
        pixel = (s.row[:, None, None] * SIDE + line[:, :, None]) * SIDE + column[:, None, :]
        canvas += np.bincount(pixel[inside], weights=light[inside], minlength=len(canvas))
    return canvas.reshape(n, SIDE, SIDE).astype(np.float32)


def sersic(galaxy: dict[str, Array]) -> Array:
    """Unblurred galaxies (n, GALAXY_FRAME, GALAXY_FRAME) float32 of Sersic profiles with two spiral arms."""
    g = {key: value[:, None, None].astype(np.float32) for key, value in galaxy.items()}
    grid = np.arange(GALAXY_FRAME, dtype=np.float32) - (GALAXY_FRAME - SIDE) // 2
    dx, dy = grid - g["x"], grid[:, None] - g["y"]
    u = np.cos(g["angle"]) * dx + np.sin(g["angle"]) * dy
    v = (np.cos(g["angle"]) * dy - np.sin(g["angle"]) * dx) / g["axis_ratio"]
    r = np.sqrt(u * u + v * v + 0.1)
    light = np.exp(-(2 * g["index"] - 1 / 3) * (r / g["radius"]) ** (1 / g["index"]))
    arms = np.cos(2 * np.arctan2(v, u) - g["winding"] * np.log(r))
    light *= 1 + g["arms"] * arms * (1 - np.exp(-r / g["radius"]))
    return light * (g["flux"] / light.sum(axis=(1, 2), keepdims=True))


def blur(light: Array, fwhm: Array, shift: Array | None = None) -> Array:
    """Galaxy frames seen through an atmosphere of fwhm (n,) pixels, cut to (n, SIDE, SIDE) float32."""
    distance = fft.fftfreq(GALAXY_FRAME, 1 / GALAXY_FRAME).astype(np.float32)
    moved = np.zeros((len(fwhm), 2)) if shift is None else shift
    moved = moved.astype(np.float32)[:, :, None]
    r2 = ((distance - moved[:, 0]) ** 2)[:, None, :] + ((distance - moved[:, 1]) ** 2)[:, :, None]
    kernel = moffat(r2 * (MOFFAT_WIDTH / fwhm[:, None, None].astype(np.float32)) ** 2)
    kernel /= kernel.sum(axis=(1, 2), keepdims=True)
    seen = fft.irfft2(fft.rfft2(light) * fft.rfft2(kernel), s=light.shape[1:])
    edge = (GALAXY_FRAME - SIDE) // 2
    return seen[:, edge : edge + SIDE, edge : edge + SIDE]


# ---------------------------------------------------------------- the survey's scenes


def flux_of(mag: Array, zero_point: Array) -> Array:
    return 10 ** (0.4 * (zero_point - mag))


def draw_artefacts(labels: Array, rng: np.random.Generator) -> Array:
    """Index into ARTEFACTS (n,), -1 for astrophysical alerts."""
    kind = rng.choice(len(ARTEFACTS), len(labels), p=ARTEFACT_SHARES)
    return np.where(labels == BOGUS, kind, -1)


def draw_conditions(labels: Array, artefact: Array, rng: np.random.Generator) -> dict[str, Array]:
    """Sky, depth and sharpness of every exposure, each (n,); counts, magnitudes, pixels, degrees."""
    n = len(labels)
    ra, dec = draw_positions(labels, rng)
    shallow = (artefact >= 0) & (rng.random(n) < SHALLOW_SHARES[artefact])
    level = np.where(labels == ASTEROID, 108.0, 165.0)
    sky = np.maximum(level * np.exp(0.42 * rng.standard_normal(n)), 53.0)
    noise = np.sqrt(0.25 * sky) * np.exp(0.1 * rng.standard_normal(n) + rng.exponential(0.08, n))
    zero_point = ZERO_POINT + 0.15 * rng.standard_normal(n)
    fwhm = np.clip(2.0 * np.exp(0.28 * rng.standard_normal(n)), 1.25, 5.5)
    sky = np.where(shallow, rng.uniform(5, 28, n), sky)
    noise = np.where(shallow, rng.uniform(9.5, 16, n), noise)
    zero_point = np.where(shallow, SHALLOW_ZERO_POINT + 0.4 * rng.standard_normal(n), zero_point)
    fwhm = np.where(shallow, np.minimum(fwhm, 1.8), fwhm)
    depth = TEMPLATE_DEPTH * np.exp(0.25 * rng.standard_normal(n))
    depth *= np.where(shallow, flux_of(ZERO_POINT, zero_point) * 11 / noise, 1)
    return {
        "ra": ra,
        "dec": dec,
        "gal_lat": to_galactic(ra, dec)[1],
        "sky": sky,
        "noise": noise,
        "zero_point": zero_point,
        "fwhm": fwhm,
        "template_noise": depth * noise,
        "template_fwhm": np.clip(2.1 * np.exp(0.12 * rng.standard_normal(n)), 1.6, 3.5),
        "x": CENTRE + rng.uniform(-0.5, 0.5, n),
        "y": CENTRE + rng.uniform(-0.5, 0.5, n),
    }


def draw_field(conditions: dict[str, Array], rng: np.random.Generator) -> Sources:
    """Unrelated stars and galaxies around every alert; stars crowd towards the galactic plane."""
    n = len(conditions["sky"])
    stars = 4 * np.exp(3.9 * np.exp(-np.abs(conditions["gal_lat"]) / 10) + 0.5 * rng.standard_normal(n))
    number = rng.poisson(np.stack([stars, np.full(n, 9.0)]))
    row = np.concatenate([np.repeat(np.arange(n), k) for k in number])
    star = np.arange(len(row)) < number[0].sum()
    slope = np.where(star, 0.25, 0.38)  # of log10 counts a magnitude
    mag = np.maximum(REFERENCE_LIMIT + np.log10(1 - rng.random(len(row))) / slope, 12.0)
    size = np.where(star, 0.0, 10 ** (0.35 - 0.07 * (mag - 20) + 0.2 * rng.standard_normal(len(row))))
    x, y = rng.uniform(-4, SIDE + 4, (2, len(row)))
    return Sources.of(
        row,
        x,
        y,
        flux_of(mag, conditions["zero_point"][row]),
        size=size,
        axis_ratio=np.where(star, 1.0, rng.uniform(0.3, 1.0, len(row))),
        angle=rng.uniform(0, np.pi, len(row)),
        mag=mag,
        star=star,
    )


def spikes(sources: Sources) -> Sources:
    """Charge bled along the rows of the brightest stars."""
    s = sources[sources.flux > 1.2e5]
    return Sources.of(s.row, s.x, s.y, 0.008 * s.flux, size=16.0, axis_ratio=0.03)


def draw_hosts(labels: Array, conditions: dict[str, Array], rng: np.random.Generator) -> dict[str, Array]:
    """The galaxies that supernovae and some active nuclei sit in, flat, with the row of each."""
    active, row = (
        labels == AGN,
        np.flatnonzero((labels == SN) | ((labels == AGN) & (rng.random(len(labels)) < 0.4))),
    )
    n, nuclear = len(row), active[row]
    bright = nuclear | (rng.random(n) < 0.7)
    mag = np.where(bright, np.clip(17.5 + 1.4 * rng.standard_normal(n), 14.0, 22), rng.uniform(20.5, 23.3, n))
    radius = 10 ** (0.52 - 0.13 * (mag - 18) + 0.2 * rng.standard_normal(n))
    angle, axis_ratio = (
        rng.uniform(0, np.pi, n),
        np.where(nuclear, rng.uniform(0.5, 1, n), rng.uniform(0.25, 1, n)),
    )
    # Supernovae follow the light of an exponential disc; active nuclei sit in the middle.
    along = np.where(nuclear, 0, radius * rng.gamma(2, 0.6, n))
    turn = rng.uniform(0, 2 * np.pi, n)
    u, v = along * np.cos(turn), along * np.sin(turn) * axis_ratio
    return {
        "row": row,
        "x": conditions["x"][row] - np.cos(angle) * u + np.sin(angle) * v,
        "y": conditions["y"][row] - np.sin(angle) * u - np.cos(angle) * v,
        "flux": flux_of(mag, conditions["zero_point"][row]),
        "mag": mag,
        "radius": radius,
        "axis_ratio": axis_ratio,
        "angle": angle,
        "index": np.where(nuclear, rng.uniform(1.5, 4, n), rng.uniform(0.7, 2.5, n)),
        "arms": np.where((radius > 4) & (rng.random(n) < 0.6), rng.uniform(0.2, 0.7, n), 0),
        "winding": rng.uniform(2, 5, n) * rng.choice([-1, 1], n),
    }


def draw_counterparts(
    labels: Array, artefact: Array, conditions: dict[str, Array], rng: np.random.Generator
) -> Sources:
    """The static star or nucleus at the alert's own position, where there is one."""
    n = len(labels)
    mean = np.select(
        [labels == AGN, labels == VS, artefact == SHALLOW_RESIDUAL, artefact == RESIDUAL],
        [17.9, 16.2, 14.1, 15.0],
        99,
    )
    width = np.select([labels == AGN, labels == VS, artefact >= 0], [1.1, 1.9, 0.9])
    mag = np.clip(mean + width * rng.standard_normal(n), 12.3, 21.2)
    outburst = (labels == VS) & (rng.random(n) < 0.06)
    mag[outburst] = rng.uniform(19, 23, outburst.sum())
    row = np.flatnonzero(mean < 99)
    flux = flux_of(mag, conditions["zero_point"])
    return Sources.of(row, conditions["x"][row], conditions["y"][row], flux[row], mag=mag[row])


def draw_change(
    labels: Array, counterpart: Array, conditions: dict[str, Array], rng: np.random.Generator
) -> tuple[Array, Array]:
    """Magnitude (n,) of what changed and whether the source has faded, for a counterpart of the given magnitude."""
    n = len(labels)
    normal = rng.standard_normal(n)
    mag = np.select(
        [labels == AGN, labels == SN, labels == VS],
        [
            18.8 + 0.5 * (counterpart - 17.9) + 0.8 * normal,
            18.7 + 0.75 * normal,
            counterpart + 1.6 + 1.1 * normal,
        ],
        20.3 - rng.gamma(1.5, 0.8, n),
    )
    outburst = (labels == VS) & (counterpart > 19)
    mag = np.where(outburst, np.minimum(mag, rng.normal(17, 1.8, n)), np.maximum(mag, 13.3))
    limit = conditions["zero_point"] - 2.5 * np.log10(DETECTION * point_noise(conditions["noise"], conditions["fwhm"]))
    mag = np.minimum(mag, limit - rng.exponential(0.3, n))
    fades = np.where(labels == VS, 0.58, 0.5) * np.isin(labels, (AGN, VS))
    return mag, (rng.random(n) < fades) & (mag > counterpart + 0.1)


def draw_moving(labels: Array, mag: Array, fades: Array, c: dict[str, Array], rng: np.random.Generator) -> Sources:
    """What is in the science image alone: flares, fadings (negative flux), supernovae, asteroids, some trailed."""
    row = np.flatnonzero(labels != BOGUS)
    n = len(row)
    trailed = (labels[row] == ASTEROID) & (rng.random(n) < 0.6)
    return Sources.of(
        row,
        c["x"][row],
        c["y"][row],
        flux_of(mag, c["zero_point"])[row] * np.where(fades[row], -1, 1),
        size=np.where(trailed, rng.gamma(2, 1.1, n), 0.0),
        axis_ratio=0.5,
        angle=0.35 * rng.standard_normal(n),
    )


def draw_faults(artefact: Array, c: dict[str, Array], rng: np.random.Generator) -> Sources:
    """What no sky holds: pixels gone dark or hit by particles, glints and trails of satellites, flashes."""
    n = len(artefact)
    compact = np.flatnonzero(np.isin(artefact, (DARK_PIXEL, COSMIC_RAY, MASK_EDGE)))
    k = len(compact)
    sign = np.where(artefact[compact] == DARK_PIXEL, -1, 1)
    size = rng.uniform(1.2, 3.0, k)
    ratio = rng.uniform(0.3, 1, k)
    strength = 22 * np.exp(0.6 * rng.standard_normal(k))
    peak_to_flux = 1.6 * size * np.maximum(size * ratio, 0.9)
    pixels = Sources.of(
        compact,
        c["x"][compact],
        c["y"][compact],
        sign * strength * c["noise"][compact] * peak_to_flux,
        size=size,
        axis_ratio=ratio,
        angle=np.pi / 2 + 0.4 * rng.standard_normal(k),
        blur=0.0,
    )
    moving = np.isin(artefact, (GLINTS, TRAIL))
    spacing = np.where(artefact == GLINTS, rng.uniform(5, 24, n), 1.5)
    direction = np.where(artefact == GLINTS, 0.15 * rng.standard_normal(n), rng.uniform(0, np.pi, n))
    bright = np.where(artefact == GLINTS, 12.0, 2.5) * np.exp(0.5 * rng.standard_normal(n)) * c["noise"]
    steps = np.arange(-50, 51)
    row = np.repeat(np.flatnonzero(moving), len(steps))
    along = np.tile(steps, moving.sum()) * spacing[row]
    x, y = c["x"][row] + along * np.cos(direction[row]), c["y"][row] + along * np.sin(direction[row])
    inside = (np.abs(x - CENTRE) < SIDE) & (np.abs(y - CENTRE) < SIDE)
    trains = Sources.of(row, x, y, (bright * c["fwhm"] ** 2)[row], size=1.0, axis_ratio=0.5)[inside]
    row = np.flatnonzero(artefact == FLASH)
    k = len(row)
    flux = 30 * c["noise"][row] * c["fwhm"][row] ** 2 * np.exp(0.6 * rng.standard_normal(k))
    size = rng.uniform(1, 4, k)
    flashes = Sources.of(row, c["x"][row], c["y"][row], flux, size=size, axis_ratio=rng.uniform(0.3, 1, k))
    return Sources.join(pixels, trains, flashes)


def draw_mismatch(artefact: Array, rng: np.random.Generator) -> dict[str, Array]:
    """How the predicted template errs: shift (n, 2) pixels, width and flux ratios (n,), and grain, the high frequency
    residue as a share of the light."""
    n = len(artefact)
    bad = artefact == RESIDUAL
    return {
        "shift": rng.standard_normal((n, 2)) * np.where(bad, 0.15, 0.05)[:, None],
        "width": np.exp(rng.standard_normal(n) * np.where(bad, 0.08, 0.04)),
        "flux": np.where(artefact == SHALLOW_RESIDUAL, rng.uniform(1.1, 1.4, n), 1 + 0.01 * rng.standard_normal(n)),
        "grain": 0.03 * np.exp(0.6 * rng.standard_normal(n)) * np.where(bad, 2.5, 1),
    }


# ---------------------------------------------------------------- exposures


def resample(image: Array, near: Array, far: Array, axis: int) -> Array:
    """Mix each pixel of images (n, SIDE, SIDE) with its neighbours one and two pixels away along an axis, by weights
    (n, 1, 1) each; the flux stays."""
    mixed = image * (1 - 2 * near - 2 * far)
    for steps, weight in ((1, near), (2, far)):
        mixed += weight * (np.roll(image, steps, axis) + np.roll(image, -steps, axis))
    return mixed


def column_pattern(n: int, rng: np.random.Generator) -> Array:
    """Fixed offsets of the detector columns (n, 1, SIDE) in units of the sky noise; strong on a few detectors."""
    strength = np.where(rng.random(n) < 0.75, 0.05, rng.uniform(0.1, 0.4, n))[:, None]
    alternate = rng.choice([-1, 1], (n, 1)) * (-1.0) ** np.arange(SIDE)
    return (strength * (0.7 * alternate + 0.7 * rng.standard_normal((n, SIDE))))[:, None, :].astype(np.float32)


def dead_area(artefact: Array, rng: np.random.Generator) -> Array:
    """Pixels without data (n, SIDE, SIDE) bool: strips at chip edges, some slanted, and masked rectangles."""
    n = len(artefact)
    masked = (rng.random(n) < MASKED) | (artefact == MASK_EDGE)
    strip = rng.random(n) < 0.45
    grid = np.arange(SIDE)
    width = np.where(strip, rng.uniform(2, 26, n), 0)[:, None, None]
    slant = np.where(rng.random(n) < 0.1, rng.uniform(-1, 1, n), 0)[:, None, None]
    edge = grid[None, None, :] + slant * (grid[None, :, None] - CENTRE) < width
    turned = rng.integers(0, 4, n)[:, None, None]
    edge = np.where(turned % 2 == 1, edge.transpose(0, 2, 1), edge)
    edge = np.where(turned >= 2, edge[:, ::-1, ::-1], edge)
    half = rng.uniform(3, 9, (2, n, 1))
    middle = rng.uniform(0, SIDE, (2, n, 1))
    middle = np.where((artefact == MASK_EDGE)[:, None], CENTRE + 1.5 + half, middle)
    inside = np.abs(grid - middle) < half
    rectangle = inside[0][:, None, :] & inside[1][:, :, None] & ~strip[:, None, None]
    return masked[:, None, None] & (edge | rectangle)


def expose(labels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Stamps (n, SIDE, SIDE, 3) float32 and their metadata (n, 26) float64."""
    n = len(labels)
    artefact = draw_artefacts(labels, rng)
    c = draw_conditions(labels, artefact, rng)
    counterparts = draw_counterparts(labels, artefact, c, rng)
    hosts = draw_hosts(labels, c, rng)
    static = Sources.join(draw_field(c, rng), counterparts)
    counterpart_mag = np.full(n, 99.0)
    counterpart_mag[counterparts.row] = counterparts.mag
    mag, fades = draw_change(labels, counterpart_mag, c, rng)
    change = Sources.join(draw_moving(labels, mag, fades, c, rng), draw_faults(artefact, c, rng))
    error = draw_mismatch(artefact, rng)

    bleeding = Sources.join(static, spikes(static))
    galaxies = sersic(hosts)
    k = hosts["row"]
    science, template, predicted = (
        paint(bleeding, fwhm, shift)
        for fwhm, shift in (
            (c["fwhm"], None),
            (c["template_fwhm"], None),
            (c["fwhm"] * error["width"], error["shift"]),
        )
    )
    science[k] += blur(galaxies, c["fwhm"][k])
    template[k] += blur(galaxies, c["template_fwhm"][k])
    predicted[k] += blur(galaxies, (c["fwhm"] * error["width"])[k], error["shift"][k])
    science += paint(change, c["fwhm"])

    each = {key: value[:, None, None].astype(np.float32) for key, value in c.items()}
    grain = rng.standard_normal(science.shape, dtype=np.float32) * error["grain"][:, None, None].astype(np.float32)
    noise = (
        rng.standard_normal(science.shape, dtype=np.float32)
        * np.sqrt(each["noise"] ** 2 + np.maximum(science, 0) / GAIN)
        + column_pattern(n, rng) * each["noise"]
    )
    science = np.minimum(science, SATURATION) + resample(noise, -0.03, 0.0, 2)
    ratio = error["flux"][:, None, None].astype(np.float32)
    predicted = np.minimum(predicted * ratio, SATURATION)
    difference = science - predicted + grain * predicted
    noise = rng.standard_normal(science.shape, dtype=np.float32) * np.sqrt(
        each["template_noise"] ** 2 + template / (20 * GAIN)
    )
    for axis in (1, 2):
        noise = resample(noise, *TEMPLATE_KERNEL, axis)
    offset = 0.06 * rng.standard_normal((2, n, 1, 1)).astype(np.float32) * each["noise"]
    template = np.minimum(template, SATURATION) + noise + offset[0]
    difference += 0.4 * offset[1]
    near = (0.025 * rng.standard_normal((2, n, 1, 1)) + np.array([0.025, 0.01])[:, None, None, None]).astype(np.float32)
    for axis in (1, 2):
        difference = resample(difference, near[axis - 1], -0.025, axis)
    middle = difference[:, CENTRE - 1 : CENTRE + 2, CENTRE - 1 : CENTRE + 2].mean(axis=(1, 2))
    negative = np.where(labels == BOGUS, middle < 0, fades)
    difference *= np.where(negative, -1, 1)[:, None, None].astype(np.float32)
    images = np.stack([science + each["sky"], template + each["sky"], difference], axis=-1)
    images[dead_area(artefact, rng)] = np.nan

    catalogue = {
        "row": np.concatenate([static.row, k]),
        "distance": np.concatenate(
            [
                np.hypot(static.x - c["x"][static.row], static.y - c["y"][static.row]),
                np.hypot(hosts["x"] - c["x"][k], hosts["y"] - c["y"][k]),
            ]
        ),
        "mag": np.concatenate([static.mag, hosts["mag"]]),
        "star": np.concatenate([static.star, np.zeros(len(k), bool)]),
    }
    catalogue["distance"] = np.hypot(catalogue["distance"], 0.25 * rng.standard_normal(len(catalogue["row"])))
    half = 3
    aperture = images[:, CENTRE - half : CENTRE + half + 1, CENTRE - half : CENTRE + half + 1, 2]
    flux = np.maximum(np.nansum(aperture, axis=(1, 2)), 5 * point_noise(c["noise"], c["fwhm"]))
    measured = c["zero_point"] - 2.5 * np.log10(flux)
    detection = {
        "mag": np.where(labels == BOGUS, measured, mag),
        "negative": negative,
        "fwhm": c["fwhm"] * 1.08,
    }
    return images, metadata_columns(labels, c, catalogue, detection, rng)


def class_counts(n: int) -> Array:
    """How many of n stamps each class gets: the shares of the training file, none below SMALLEST_CLASS."""
    if n < SMALLEST_CLASS * len(CLASSES):
        raise ValueError(f"{n} stamps are too few; ask for at least {SMALLEST_CLASS * len(CLASSES)}")
    exact = n * COUNTS / COUNTS.sum()
    counts = np.maximum(np.floor(exact).astype(np.int64), SMALLEST_CLASS)
    while counts.sum() > n:
        counts[np.argmax(counts)] -= 1
    while counts.sum() < n:
        counts[np.argmax(exact - counts)] += 1
    return counts


def trim(stamp: Array, rng: np.random.Generator) -> Array:
    """A stamp that runs over the chip's edge: some lines or columns on one side are missing."""
    kept = int(rng.integers(35, SIDE))
    side = slice(0, kept) if rng.random() < 0.5 else slice(SIDE - kept, SIDE)
    return (stamp[side] if rng.random() < 0.5 else stamp[:, side]).copy()


def simulate(n: int = 52_244, seed: int = 0) -> dict[str, Any]:
    """A survey of n alerts, a pure function of (n, seed).

    images: list of n (height, width, 3) float32 stamps in counts, science, template, difference; 63 x 63 but for
    about 1.2 %; NaN where the detector has no data. labels: (n,) int64 in CLASSES order, shuffled, in the proportions
    of the ALeRCE training file. metadata: (n, 26) float64, columns as in COLUMNS, -999 where missing. oid: n names.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(CLASSES)), class_counts(n)))
    misshaped = rng.random(n) < MISSHAPED
    images: list[Array] = []
    metadata = np.empty((n, 26))
    for start in range(0, n, CHUNK):
        chunk = slice(start, start + CHUNK)
        stamps, metadata[chunk] = expose(labels[chunk], rng)
        images += [trim(s, rng) if cut else s.copy() for s, cut in zip(stamps, misshaped[chunk], strict=True)]
    return {
        "images": images,
        "labels": labels,
        "metadata": metadata,
        "oid": [f"SIM{i:07d}" for i in range(n)],
    }
