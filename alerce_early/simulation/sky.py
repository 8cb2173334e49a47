"""Scenes: the static stars and galaxies of science and template, and the change between them.

Depths, seeing, sky levels and magnitudes follow the distributions of the public alert stream; no row is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alerce_early.data.coordinates import to_galactic
from alerce_early.simulation.artefacts import draw_artefacts
from alerce_early.simulation.metadata import (
    AGN,
    ASTEROID,
    BOGUS,
    SN,
    VS,
    detection_limit,
    draw_positions,
)
from alerce_early.simulation.painting import CENTRE, SIDE, Sources, flux_of
from alerce_early.simulation.settings import (
    CRESCENT,
    CROSSING_TRAIL,
    DARK_COLUMN,
    MASKED_STAR,
    NOISE_PEAK,
    RESIDUAL,
    SHALLOW_SHARES,
    WEAK_STAR,
    Setting,
)

Array = NDArray[Any]
Generator = np.random.Generator

SHALLOW_ZERO_POINT = 23.2  # mag, through clouds or in twilight, the source of most artefacts
LOST_DEPTH = 2.5  # mag, in shallow exposures
SKY_NOISE = 0.25  # variance of the sky (counts squared) per count of sky level
SHALLOW_TEMPLATE = 1.8  # factor on the template noise of shallow frames, beyond the flux scale


@dataclass
class Scene:
    """Everything that determines n stamps except their noise."""

    labels: Array  # (n,)
    artefact: Array  # (n,) index into ARTEFACTS, -1 for astrophysical sources
    conditions: dict[str, Array]  # of the exposures, see `draw_conditions`
    static: Sources  # in both science and template
    galaxies: dict[str, Array]  # resolved galaxies, also static
    change: Sources  # in the science image only
    mag: Array  # (n,) of the change; meaningless for artefacts
    setting: Setting


def draw_conditions(labels: Array, artefact: Array, setting: Setting, rng: Generator) -> dict[str, Array]:
    """Draw the conditions of the exposures of n alerts.

    Parameters
    ----------
    labels : ndarray
        (n,) int64 class indices.
    artefact : ndarray
        (n,) int64 indices into `settings.ARTEFACTS`, -1 for none.
    setting : Setting
        Survey.
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    dict of str to ndarray
        (n,) each: ``ra``, ``dec`` and ``gal_lat`` (degrees); ``shallow`` (bool); ``sky``, ``noise`` and
        ``template_noise`` (counts); ``zero_point`` (mag of one count); ``fwhm`` and ``template_fwhm`` (pixels); ``x``
        and ``y`` of the alert (pixels).
    """
    n = len(labels)
    ra, dec = draw_positions(labels, rng)
    shallow = (artefact >= 0) & (rng.random(n) < setting.shallow * SHALLOW_SHARES[artefact])
    if setting.cloudy:
        shallow |= (artefact < 0) & (rng.random(n) < setting.cloudy)
    level = np.where(labels == ASTEROID, *setting.level)  # asteroids are followed in dark time
    sky = np.maximum(level * np.exp(setting.level_scatter * rng.standard_normal(n)), setting.floor)
    noise = np.sqrt(SKY_NOISE * sky) * np.exp(0.1 * rng.standard_normal(n) + rng.exponential(0.08, n))
    mean, scatter = setting.zero_point
    zero_point = mean + scatter * rng.standard_normal(n)
    fwhm = np.clip(setting.seeing * np.exp(setting.scatter * rng.standard_normal(n)), *setting.fwhm)
    depth, scatter = setting.depth
    template_noise = depth * noise * np.exp(scatter * rng.standard_normal(n))
    # The pipeline scales the template to the science image; for a shallow frame this leaves hardly any noise.
    shallow_point = SHALLOW_ZERO_POINT + 0.4 * rng.standard_normal(n)
    shallow_noise = rng.uniform(9.5, 16, n)
    scaled = SHALLOW_TEMPLATE * template_noise * 10 ** (0.4 * (shallow_point - zero_point))
    seeing, scatter, sharpest, widest = setting.template_fwhm
    return {
        "ra": ra,
        "dec": dec,
        "gal_lat": to_galactic(ra, dec)[1],
        "shallow": shallow,
        "sky": setting.sky * np.where(shallow, rng.uniform(5, 28, n), sky),
        "noise": np.where(shallow, shallow_noise, noise),
        "zero_point": np.where(shallow, shallow_point, zero_point),
        "fwhm": np.where(shallow, np.minimum(fwhm, 1.8), fwhm),
        "template_noise": np.where(shallow, scaled, template_noise),
        "template_fwhm": np.clip(seeing * np.exp(scatter * rng.standard_normal(n)), sharpest, widest),
        "x": CENTRE + rng.uniform(-0.5, 0.5, n),
        "y": CENTRE + rng.uniform(-0.5, 0.5, n),
    }


def draw_field(c: dict[str, Array], setting: Setting, rng: Generator) -> Sources:
    """Draw unrelated stars and galaxies around every alert; stars are denser towards the galactic plane."""
    n = len(c["sky"])
    usual, galaxies = setting.crowding
    stars = usual * np.exp(4.1 * np.exp(-np.abs(c["gal_lat"]) / 10) + 0.55 * rng.standard_normal(n))
    number = rng.poisson(np.stack([stars, np.full(n, galaxies)]))
    row = np.concatenate([np.repeat(np.arange(n), k) for k in number])
    star = np.arange(len(row)) < number[0].sum()
    slope = np.where(star, 0.25, 0.38)  # of log10 of the number, per magnitude
    brightest, faintest = setting.limits
    mag = np.maximum(faintest + np.log10(1 - rng.random(len(row))) / slope, brightest)
    size = setting.zoom * 10 ** (0.35 - 0.07 * (mag - 20) + 0.2 * rng.standard_normal(len(row)))
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


def draw_hosts(
    labels: Array, artefact: Array, c: dict[str, Array], setting: Setting, rng: Generator
) -> dict[str, Array]:
    """Draw the host galaxies (hosts,) of supernovae, and of some active nuclei and noise peaks, with their ``row``."""
    share, added = setting.nuclear
    some = ((labels == AGN) | (artefact == NOISE_PEAK)) & (rng.random(len(labels)) < share)
    row = np.flatnonzero((labels == SN) | some)
    n, nuclear = len(row), labels[row] != SN
    mean, scatter, brightest, faintest, faint = setting.hosts
    bright = nuclear | (rng.random(n) < 0.75)
    mag = mean + np.where(nuclear, added, 0) + scatter * rng.standard_normal(n)
    mag = np.clip(mag, brightest, faintest)
    mag = np.where(bright, mag, rng.uniform(faint, setting.limits[1], n))
    radius = setting.zoom * 10 ** (0.52 - 0.13 * (mag - 18) + 0.2 * rng.standard_normal(n))
    ratio = rng.uniform(np.where(nuclear, 0.5, 0.25), 1)
    angle, turn = rng.uniform(0, np.pi, n), rng.uniform(0, 2 * np.pi, n)
    # Supernovae follow the light of an exponential disc; active nuclei are in the centre.
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
        "arms": np.where((radius > 4 * setting.zoom) & (rng.random(n) < 0.6), rng.uniform(0.2, 0.7, n), 0),
        "winding": rng.uniform(2, 5, n) * rng.choice([-1, 1], n),
    }


def draw_counterparts(labels: Array, artefact: Array, c: dict[str, Array], setting: Setting, rng: Generator) -> Sources:
    """Draw the star or nucleus at the alert's position in the template, for the alerts that have one."""
    spoilt = np.isin(artefact, (RESIDUAL, CROSSING_TRAIL))
    saturated = np.isin(artefact, (CRESCENT, MASKED_STAR, DARK_COLUMN))
    kinds = [labels == AGN, labels == VS, artefact == WEAK_STAR, spoilt, saturated]
    mean, width = np.select(kinds, [17.9, 16.2, 14.0, 14.8, 12.9]), np.select(kinds, [0.95, 1.9, 0.8, 0.9, 0.6])
    mag = np.clip(mean + setting.fainter[labels] + width * rng.standard_normal(len(labels)), *setting.counterparts)
    # in a shallow exposure only brighter stars and nuclei are seen to vary
    lost = np.where(c["shallow"] & np.isin(labels, (AGN, VS)), LOST_DEPTH, 0)
    mag = np.maximum(mag - lost, setting.counterparts[0])
    outburst = (labels == VS) & (rng.random(len(labels)) < 0.06)  # star too faint for most templates
    mag = np.where(outburst, rng.uniform(setting.outbursts, setting.outbursts + 4, len(labels)), mag)
    row = np.flatnonzero(mean)
    return Sources.of(row, c["x"][row], c["y"][row], flux_of(mag, c["zero_point"])[row], mag=mag[row])


def draw_change(
    labels: Array, before: Array, c: dict[str, Array], setting: Setting, rng: Generator
) -> tuple[Array, Array]:
    """Draw the change in brightness of n alerts.

    Parameters
    ----------
    labels : ndarray
        (n,) int64 class indices.
    before : ndarray
        (n,) magnitude of the counterpart, 99 without one.
    c : dict of str to ndarray
        Conditions of the exposures, see `draw_conditions`.
    setting : Setting
        Survey.
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    tuple of ndarray
        Magnitude (n,) of the difference, and whether the source has faded (n,) bool.
    """
    n = len(labels)
    kinds = [labels == AGN, labels == SN, labels == VS]
    change, slope = setting.agn_change
    mean = np.select(kinds, [change + slope * (before - 17.9), 18.7 + setting.fainter[SN], before + 1.65])
    scatter = np.select(kinds, [0.65, 0.75, np.where(rng.random(n) < 0.2, 1.4, 0.65)])
    mag = np.where(
        labels == ASTEROID,
        20.3 + setting.fainter[ASTEROID] - rng.gamma(1.5, setting.asteroids, n),
        mean + scatter * rng.standard_normal(n),
    )
    outburst = (labels == VS) & (before > setting.outbursts)
    mag = np.where(outburst, np.minimum(mag, rng.normal(setting.outbursts - 2, 1.8, n)), np.maximum(mag, 13.3))
    limit = detection_limit(c, setting)
    mag = np.minimum(mag, limit - rng.exponential(0.3, n))  # the faintest alerts accumulate just above the limit
    may_fade = np.select([labels == AGN, labels == VS], setting.fading, 0.0)
    return mag, (rng.random(n) < may_fade) & (mag > before + 0.1)


def draw_variables(
    labels: Array, mag: Array, fades: Array, c: dict[str, Array], setting: Setting, rng: Generator
) -> Sources:
    """Draw flares, fading sources, supernovae and asteroids, some of which are trailed."""
    row = np.flatnonzero(labels != BOGUS)
    n = len(row)
    trailed = (labels[row] == ASTEROID) & (rng.random(n) < 0.6)
    return Sources.of(
        row,
        c["x"][row],
        c["y"][row],
        np.where(fades, -1, 1)[row] * flux_of(mag, c["zero_point"])[row],
        size=setting.zoom * np.where(trailed, rng.gamma(2, setting.trails, n), 0.0),
        ratio=0.5,
        angle=setting.trail_angle * rng.standard_normal(n),
    )


def draw_scene(labels: Array, setting: Setting, rng: Generator) -> Scene:
    """Draw scenes of alerts, given their classes (n,) int64."""
    artefact = np.where(labels == BOGUS, rng.choice(len(setting.artefacts), len(labels), p=setting.artefacts), -1)
    conditions = draw_conditions(labels, artefact, setting, rng)
    galaxies = draw_hosts(labels, artefact, conditions, setting, rng)
    counterparts = draw_counterparts(labels, artefact, conditions, setting, rng)
    counterpart_mag = np.full(len(labels), 99.0)
    counterpart_mag[counterparts.row] = counterparts.mag
    host_mag = np.full(len(labels), 99.0)
    host_mag[galaxies["row"]] = galaxies["mag"]
    # The catalogue classifies a nucleus that is outshone by its host as a galaxy.
    counterparts.star = counterparts.mag < host_mag[counterparts.row] + 0.7
    mag, fades = draw_change(labels, counterpart_mag, conditions, setting, rng)
    change = Sources.join(
        draw_variables(labels, mag, fades, conditions, setting, rng),
        draw_artefacts(artefact, conditions, setting, rng),
    )
    static = Sources.join(draw_field(conditions, setting, rng), counterparts)
    return Scene(labels, artefact, conditions, static, galaxies, change, mag, setting)
