"""Sky positions and the 26 metadata columns of the simulated survey, consistent with its stamps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alerce_early.data.coordinates import (
    angles,
    ecliptic_rotation,
    galactic_rotation,
    rotate,
    to_ecliptic,
    to_galactic,
    unit_vectors,
)
from alerce_early.data.readers.stamps_file import CLASSES, COLUMNS
from alerce_early.simulation.settings import Setting

Array = NDArray[np.float64]

AGN, SN, VS, ASTEROID, BOGUS = range(len(CLASSES))
MISSING = -999.0
PIXEL = 1.01  # arcsec
CATALOGUE_RADIUS = 30.0  # arcsec; alert packets list catalogue sources within it only
CATALOGUE_LIMIT = 22.4  # mag; depth of the all-sky catalogue behind sgscore and distpsnr
SOUTHERN_LIMIT = -28.0  # degrees of declination that the telescope reaches

MAX_SIGMAPSF = 0.217  # mag, at five sigma
YOUNG = 5  # maximum detections of a young object
YOUNG_VISITS = np.array([(650.0,), (1.0,)])  # visits of its position: median, and scatter of the logarithm


def draw_positions(labels: NDArray[np.int64], rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw positions on the sky by class, north of `SOUTHERN_LIMIT`.

    Asteroids are concentrated along the ecliptic, most variable stars and artefacts along the galactic plane; AGN and
    SN avoid its dust.

    Parameters
    ----------
    labels : ndarray
        (n,) int64 class indices.
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    tuple of ndarray
        Right ascension and declination (n,), degrees.
    """
    n = len(labels)
    ra, dec = np.empty(n), np.empty(n)
    clustered = (labels == ASTEROID) | (np.isin(labels, (VS, BOGUS)) & (rng.random(n) < 0.65))
    todo = np.arange(n)
    while len(todo):
        near_plane = np.clip(rng.laplace(0, 9, len(todo)), -89, 89)
        anywhere = np.rad2deg(np.arcsin(rng.uniform(-1, 1, len(todo))))
        latitude = np.deg2rad(np.where(clustered[todo], near_plane, anywhere))
        vectors = unit_vectors(rng.uniform(0, 2 * np.pi, len(todo)), latitude)
        galactic = np.isin(labels[todo], (VS, BOGUS))[:, None]
        from_galactic = rotate(vectors, galactic_rotation().T)
        from_ecliptic = rotate(vectors, ecliptic_rotation().T)
        ra[todo], dec[todo] = angles(np.where(galactic, from_galactic, from_ecliptic))
        gal_lat = to_galactic(ra[todo], dec[todo])[1]
        dusty = np.isin(labels[todo], (AGN, SN)) & (np.abs(gal_lat) < rng.exponential(9, len(todo)))
        todo = todo[(dec[todo] < SOUTHERN_LIMIT) | dusty]
    return ra, dec


def nearest(row: NDArray[np.int64], distance: Array, n: int, k: int) -> NDArray[np.int64]:
    """Find the k nearest sources of each stamp.

    Parameters
    ----------
    row : ndarray
        (sources,) int64, stamp of each source.
    distance : ndarray
        (sources,) distance to the alert.
    n : int
        Number of stamps.
    k : int
        Number of neighbours.

    Returns
    -------
    ndarray
        (n, k) int64 indices into the sources, nearest first, padded with -1.
    """
    order = np.lexsort((distance, row))
    first = np.searchsorted(row[order], np.arange(n))
    rank = np.arange(len(order)) - first[row[order]]
    found = np.full((n, k), -1, dtype=np.int64)
    kept = rank < k
    found[row[order][kept], rank[kept]] = order[kept]
    return found


def take_or_missing(values: Array, index: NDArray[np.int64]) -> Array:
    """Return the values at the given indices, `MISSING` for index -1."""
    return np.where(index < 0, MISSING, np.append(values, MISSING)[index])


def star_score(mag: Array, star: NDArray[np.bool_], rng: np.random.Generator) -> Array:
    """Draw star-galaxy scores in [0, 1]: near 1 for stars, near 0 for galaxies, uncertain for faint sources."""
    uncertain = 1 / (1 + np.exp((20.8 - mag) / 0.5))
    sure = np.where(star, 1 - rng.exponential(0.03, len(mag)), rng.exponential(0.05, len(mag)))
    vague = np.where(rng.random(len(mag)) < 0.4, 0.5, rng.beta(0.5, 0.5, len(mag)))
    return np.clip(np.where(rng.random(len(mag)) < uncertain, vague, sure), 0, 1)


def profile_fit(mag: Array, star: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw chi and sharpness of the PSF fit to reference sources: poor for galaxies, scattered for faint sources."""
    n, faint = len(mag), mag > 21.3
    chi = np.where(star | faint, 0.65, 2.2) * np.exp(rng.normal(0, 0.45, n))
    width = np.where(faint, 0.25, np.where(star, 0.035, 0.2))
    sharp = np.where(faint, -0.2, np.where(star, -0.015, 0.22)) + width * rng.standard_normal(n)
    return chi, sharp


def detection_limit(c: dict[str, Array], setting: Setting) -> Array:
    """Compute the five sigma limit (n,) of the difference image in mag.

    Parameters
    ----------
    c : dict of str to ndarray
        Conditions (n,) of the exposures: zero_point (mag), noise (counts) and fwhm (pixels).
    setting : Setting
        Survey.
    """
    # The effective area of a fit of a Moffat profile of exponent 3 to a point source is 3.77 fwhm^2 pixels.
    return c["zero_point"] - 2.5 * np.log10(5 * setting.alert_noise * c["noise"] * np.sqrt(3.77) * c["fwhm"])


def calibration_error(n: int, rng: np.random.Generator) -> Array:
    """Draw the calibration error (n,) in mag, which limits the precision of the brightest detections."""
    return 0.02 + 0.02 * np.exp(0.5 * rng.standard_normal(n))


def draw_history(labels: NDArray[np.int64], setting: Setting, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw the previous detections and visits, (n,) each, of each position.

    Moving objects and most artefacts have a single detection.
    """
    n = len(labels)
    median, scatter = setting.detections[labels].T
    detections = np.ceil(median * np.exp(scatter * rng.standard_normal(n)))
    repeated = (labels == BOGUS) & (rng.random(n) < 0.3)
    detections[repeated] = np.ceil(8 * np.exp(2 * rng.standard_normal(repeated.sum())))
    detections += (labels == ASTEROID) & (rng.random(n) < 0.04)
    median, scatter = setting.visits[labels].T
    if setting.young:
        young = (rng.random(n) < setting.young) & np.isin(labels, (AGN, SN, VS))
        detections = np.where(young, rng.integers(1, YOUNG + 1, n), detections)
        median, scatter = np.where(young, YOUNG_VISITS, (median, scatter))
    return detections, detections + np.floor(median * np.exp(scatter * rng.standard_normal(n)))


def metadata_columns(
    labels: NDArray[np.int64],
    conditions: dict[str, Array],
    catalogue: dict[str, NDArray[Any]],
    mag: Array,
    negative: NDArray[np.bool_],
    setting: Setting,
    rng: np.random.Generator,
) -> Array:
    """Draw the metadata of alerts.

    Parameters
    ----------
    labels : ndarray
        (n,) int64 class indices.
    conditions : dict of str to ndarray
        ra, dec (degrees), zero_point (mag), noise (counts) and fwhm (pixels), (n,) each.
    catalogue : dict of str to ndarray
        Static sources of all stamps: row (the stamp), distance (pixels from the alert), mag and star (bool), (sources,)
        each.
    mag : ndarray
        (n,) magnitudes of the difference.
    negative : ndarray
        (n,) bool, whether the source is fainter than in the template.
    setting : Setting
        Survey.
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    ndarray
        (n, 26) float64, in the order of `stamps_file.COLUMNS`; `MISSING` if unknown.
    """
    n = len(labels)
    row, distance, known_mag, star = (catalogue[key] for key in ("row", "distance", "mag", "star"))
    score = star_score(known_mag, star, rng)
    chi, sharp = profile_fit(known_mag, star, rng)
    listed = np.flatnonzero((known_mag < CATALOGUE_LIMIT) & (distance * PIXEL < CATALOGUE_RADIUS))
    three = nearest(row[listed], distance[listed], n, 3)
    three = np.where(three < 0, -1, np.append(listed, -1)[three])
    one = nearest(row, distance, n, 1)[:, 0]
    detections, visits = draw_history(labels, setting, rng)
    ecl_long, ecl_lat = to_ecliptic(conditions["ra"], conditions["dec"])
    gal_long, gal_lat = to_galactic(conditions["ra"], conditions["dec"])
    limit = detection_limit(conditions, setting)
    sigma = np.hypot(MAX_SIGMAPSF * 10 ** (0.4 * (mag - limit)), calibration_error(n, rng))
    sigma = np.minimum(sigma, MAX_SIGMAPSF)
    score_of_class, scatter_of_class = setting.real_bogus[labels].T
    # the measured width of galaxies, trails and ghosts includes their extent
    wide = np.where(rng.random(n) < setting.extended, rng.uniform(1.5, 4.5, n), 1.0) if setting.extended else 1.0
    columns = {
        "isdiffpos": negative.astype(float),
        "fwhm": np.clip(1.08 * wide * conditions["fwhm"] * np.exp(0.12 * rng.standard_normal(n)), 1.0, 7.0 * wide),
        "magpsf": mag + 0.4 * sigma * rng.standard_normal(n),
        "sigmapsf": sigma,
        "ra": conditions["ra"],
        "dec": conditions["dec"],
        "diffmaglim": limit,
        "rb": np.clip(score_of_class + scatter_of_class * rng.standard_normal(n), 0, 1),
        "distnr": take_or_missing(distance, one),
        "magnr": take_or_missing(known_mag, one),
        "classtar": np.clip(1 - rng.exponential(0.03, n) * np.exp(rng.exponential(0.5, n)), 0, 1),
        "ndethist": detections,
        "ncovhist": visits,
        "ecl_lat": ecl_lat,
        "ecl_long": ecl_long,
        "gal_lat": gal_lat,
        "gal_long": gal_long,
        "non_detections": visits - detections,
        "chinr": take_or_missing(chi, one),
        "sharpnr": take_or_missing(sharp, one),
    }
    for k in range(3):
        columns[f"sgscore{k + 1}"] = take_or_missing(score, three[:, k])
        columns[f"distpsnr{k + 1}"] = take_or_missing(distance * PIXEL, three[:, k])
    return np.stack([columns[name] for name in COLUMNS], axis=1)
