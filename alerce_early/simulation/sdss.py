"""Simulated SDSS-like spectra: stars, galaxies, quasars and broad-absorption-line quasars, with noise.

Line wavelengths (vacuum, angstrom) and the mean equivalent widths of quasars follow the composite of Vanden
Berk et al. (2001), the mean opacity of the Lyman forest follows Faucher-Giguere et al. (2008). Everything is drawn on
the pixel grid of `spectral_grid`, with lines integrated over each pixel.
"""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.special import ndtr

from alerce_early.data.readers import sdss
from alerce_early.data.readers.sdss import CERTAIN, CLASSES
from alerce_early.data.records import Records, join
from alerce_early.data.spectral_grid import CENTRES, EDGES, PIXELS

Array = np.ndarray
Rng = np.random.Generator

SHARES = np.array([0.25, 0.20, 0.35, 0.20])  # fraction of each of CLASSES
LIGHT = 299_792.458  # km/s
RESOLUTION = 65.0  # km/s, one sigma of the spectrograph
CHUNK = 1024  # spectra drawn at once; bounds memory, and another number changes the result of a seed
LYMAN_ALPHA, LYMAN_LIMIT = 1215.67, 911.75

# Rest wavelength and equivalent width (angstrom) of the broad and the narrow lines of quasars.
BROAD = np.array(
    [
        *([1033.8, 9.8], [1215.67, 75.0], [1240.1, 18.0], [1305.4, 1.8], [1335.3, 0.8], [1397.8, 8.2]),
        *([1549.1, 25.0], [1640.4, 2.5], [1664.7, 1.0], [1857.4, 0.8], [1892.0, 3.0], [1908.7, 18.0]),
        *([2326.4, 2.0], [2798.7, 32.0], [4102.9, 5.0], [4341.7, 13.0], [4686.0, 2.0], [4862.7, 46.0]),
        *([5877.3, 5.0], [6564.6, 180.0]),
    ]
)
NARROW = np.array(
    [
        *([3346.8, 0.4], [3426.8, 1.2], [3728.5, 2.0], [3869.8, 1.5], [4341.7, 0.7], [4862.7, 2.0]),
        *([4960.3, 4.5], [5008.2, 13.5], [6302.0, 0.7], [6549.9, 1.2], [6564.6, 7.0], [6585.3, 3.5]),
        *([6718.3, 1.0], [6732.7, 0.9]),
    ]
)
# Iron and Balmer blends: centre, width (angstrom) and height over the continuum.
BLENDS = np.array(
    [
        *([2080, 60, 0.04], [2270, 90, 0.10], [2490, 110, 0.18], [2960, 110, 0.08], [3250, 350, 0.14]),
        *([4570, 60, 0.16], [5190, 60, 0.10], [5320, 70, 0.10]),
    ]
)
# Lines absorbed by the winds of BAL quasars; the last two only in the rarer low-ionisation winds.
TROUGHS = np.array([1549.1, 1397.8, 1240.1, 1215.67, 1033.8, 1857.4, 2798.7])
GALAXY_ABSORPTION = np.array(
    [[3934.8, 9.0], [3969.6, 7.5], [4305.6, 5.0], [4862.7, 2.0], [5176.6, 5.0], [5270.0, 2.5], [5895.6, 3.5]]
)
BALMER = np.array([3890.2, 3971.2, 4102.9, 4341.7, 4862.7, 6564.6])
METALS = np.array([[3934.8, 11.0], [3969.6, 9.0], [4227.9, 2.0], [4305.6, 5.0], [5176.6, 5.0], [5895.6, 3.0]])
CALCIUM_TRIPLET = np.array([[8500.4, 1.5], [8544.4, 3.5], [8664.5, 2.8]])
TITANIUM_OXIDE = np.array([4761, 4955, 5448, 5847, 6158, 6651, 7054, 7589, 8432, 8859])  # band heads


def read(n: int = 6000, seed: int = 0, test_path: str | Path | None = None) -> Records:
    """Simulate spectra and read them as the reader of real arrays does.

    Parameters
    ----------
    n : int
        Number of spectra.
    seed : int
        Seed of the simulation.
    test_path : path, optional
        File of test spectra, see `readers.sdss.read`.

    Returns
    -------
    Records
        Spectra, labels and redshifts.
    """
    simulated = sdss.from_raw(simulate(n, seed), origin=f"{n:,} simulated spectra, seed {seed}")
    return simulated if test_path is None else join({"train": simulated, "test": sdss.read(test_path)})


def simulate(n: int, seed: int = 0) -> dict[str, Any]:
    """Simulate spectra in the format of arrays, see `readers.sdss`.

    Parameters
    ----------
    n : int
        Number of spectra.
    seed : int
        The same n and seed give the same spectra.

    Returns
    -------
    dict
        ``spectra``, (n, 886) float32, fluxes and then inverse variances; ``class``, (n,) str; ``z``, (n,) float64;
        ``Z_CONF_PERSON``, (n,) int, 3 for certain redshifts; and ``id``, n strings.
    """
    rng = np.random.default_rng([seed, 0x5D55])
    label = rng.permutation(
        np.repeat(np.arange(len(CLASSES)), np.diff(np.rint(np.cumsum([0, *SHARES]) * n)).astype(int))
    )
    spectra = np.empty((n, 2 * PIXELS), np.float32)
    z, snr = np.empty(n), np.exp(rng.normal(np.log(9.0), 0.8, n)).clip(1.0, 80.0)
    makers = (stars, galaxies, quasars, lambda m, rng: quasars(m, rng, bal=True))
    for start in range(0, n, CHUNK):
        rows = np.arange(start, min(start + CHUNK, n))
        flux = np.empty((len(rows), PIXELS))
        for index, make in enumerate(makers):
            here = label[rows] == index
            z[rows[here]], flux[here] = make(int(here.sum()), rng)
        spectra[rows, :PIXELS], spectra[rows, PIXELS:] = observe(flux, snr[rows], rng)
    # half of the faintest are uncertain, and some of those redshifts are wrong
    conf = np.where(rng.random(n) < np.where(snr < 2.5, 0.5, 0.04), rng.integers(0, CERTAIN, n), CERTAIN)
    wrong = (conf < CERTAIN) & (label > 0) & (rng.random(n) < 0.3)
    z = np.where(wrong, rng.uniform(0, 4, n), z)
    ids = [f"simulated-{seed}-{i}" for i in range(n)]
    return {"spectra": spectra, "class": np.array(CLASSES)[label], "z": z, "Z_CONF_PERSON": conf, "id": ids}


# ---------------------------------------------------------------- sources: n spectra (z (n,), flux (n, PIXELS))


def stars(n: int, rng: Rng) -> tuple[Array, Array]:
    """Draw n white dwarfs and stars of type A to M; returns redshift (n,) and flux (n, PIXELS).

    They are black bodies with Balmer, metal and molecular absorption that depends on the temperature.
    """
    kind = rng.choice(5, n, p=[0.1, 0.22, 0.28, 0.2, 0.2])  # white dwarf, A, F-G, K, M
    low, high = np.array([[9_000, 25_000], [7_400, 11_000], [5_500, 7_400], [4_000, 5_500], [2_700, 3_900]]).T
    kelvin = rng.uniform(low[kind], high[kind])
    z = rng.normal(0, 100, n) / LIGHT
    flux = black_body(CENTRES / (1 + z[:, None]), kelvin)
    hydrogen = np.exp(-(((np.log(kelvin) - np.log(9_500)) / 0.28) ** 2))
    metal = np.clip((7_800 - kelvin) / 3_000, 0, 1) * np.exp(rng.normal(0, 0.3, n))
    # white dwarfs have no Balmer jump and lines broadened by pressure
    dwarf = kind == 0
    jump = np.where(dwarf, 0, 0.55 * hydrogen)[:, None] * ndtr((3_720 - CENTRES) / 60)
    balmer = np.where(dwarf, 28, 13) * np.where(dwarf, 1.0, hydrogen) + 1.0
    strength = balmer[:, None] * np.array([0.7, 0.9, 1, 1, 0.9, 0.8])
    absorbed = lines(z, BALMER, strength, np.where(dwarf, 2_200, 700 * hydrogen + 100)[:, None])
    absorbed += lines(z, METALS[:, 0], metal[:, None] * METALS[:, 1], 350.0)
    absorbed += lines(z, CALCIUM_TRIPLET[:, 0], (0.2 + metal[:, None]) * CALCIUM_TRIPLET[:, 1], 150.0)
    molecular = np.clip((4_000 - kelvin) / 900, 0, 1)[:, None, None] * rng.uniform(
        0.5, 0.8, (n, 1, len(TITANIUM_OXIDE))
    )
    redward = CENTRES[:, None] - TITANIUM_OXIDE  # a band has a sharp head and fades to the red
    bands = 1 - molecular * np.where(redward > 0, np.exp(-redward / 130), 0)
    return z, flux * (1 - jump) * np.exp(-absorbed) * bands.prod(2)


def galaxies(n: int, rng: Rng) -> tuple[Array, Array]:
    """Draw n galaxies; returns redshift (n,) and flux (n, PIXELS).

    They are mixtures of old and young stars with the 4000 A break, absorption lines and, where young, nebular emission.
    """
    z = rng.beta(1.6, 2.4, n)
    young = np.where(rng.random(n) < 0.5, rng.beta(1, 12, n), rng.beta(2.5, 2, n))[:, None]
    rest = CENTRES / (1 + z[:, None])
    level = ndtr((rest - 3_960) / 45)
    old = (
        black_body(rest, rng.uniform(4_600, 5_400, n)) * (0.5 + 0.5 * level) * (0.6 + 0.4 * ndtr((rest - 3_000) / 400))
    )
    hot = black_body(rest, rng.uniform(9_000, 14_000, n)) * (0.62 + 0.38 * ndtr((rest - 3_700) / 60))
    strength = np.exp(rng.normal(0, 0.25, (n, 1))) * (1 - 0.7 * young) * GALAXY_ABSORPTION[:, 1]
    speed = rng.uniform(100, 300, n)[:, None]
    absorbed = lines(z, GALAXY_ABSORPTION[:, 0], strength, speed + 250)
    flux = ((1 - young) * old + young * hot) * np.exp(-absorbed) * dust(rest, rng.exponential(0.1, n))
    ionising = 55 * young * np.exp(rng.normal(0, 0.6, (n, 1)))  # equivalent width of H-alpha, angstrom
    excited = np.exp(rng.normal(-0.3, 0.7, (n, 1)))  # [O III] over H-beta
    nitrogen = rng.uniform(0.1, 0.5, (n, 1))
    wave = np.array([3728.5, 4102.9, 4341.7, 4862.7, 4960.3, 5008.2, 6549.9, 6564.6, 6585.3, 6718.3, 6732.7])
    one = np.ones((n, 1))
    ratios = [0.6 * one, 0.06 * one, 0.12 * one, 0.25 * one, 0.08 * excited, 0.25 * excited]
    ratios += [nitrogen / 3, one, nitrogen, 0.15 * one, 0.11 * one]
    return z, flux * (1 + lines(z, wave, ionising * np.hstack(ratios), speed))


def quasars(n: int, rng: Rng, bal: bool = False) -> tuple[Array, Array]:
    """Draw n quasars; returns redshift (n,) and flux (n, PIXELS).

    They are power laws with iron blends and broad and narrow lines, behind the Lyman forest.

    Parameters
    ----------
    n : int
        Number of quasars.
    rng : numpy.random.Generator
        Source of random numbers.
    bal : bool
        Whether to add the broad absorption lines of winds.
    """
    z = np.where(rng.random(n) < 0.5, rng.normal(2.4, 0.4, n), rng.uniform(0.05, 4.2, n))
    z = np.where(rng.random(n) < 0.05, rng.uniform(3.5, 5.0, n), z)
    z = (np.where(z < 1.6, rng.normal(2.4, 0.35, n), z) if bal else z).clip(1.4 if bal else 0.02, 5.0)
    rest = CENTRES / (1 + z[:, None])
    slope = rng.normal(-1.5, 0.35, (n, 1))
    flux = (rest / 3_000) ** slope * np.where(rest > 4_800, (rest / 4_800) ** rng.uniform(0, 1.3, (n, 1)), 1.0)
    flux *= np.where(rest < 1_200, (rest / 1_200) ** rng.normal(0.5, 0.4, (n, 1)), 1.0)

    # the strength varies by object (Baldwin 1977, ApJ 214, 679), by line, and by object for all blends
    scatter = np.exp(rng.normal(0, 0.35, (n, 1)) + rng.normal(0, 0.35, (n, len(BROAD))))
    speed = np.exp(rng.normal(np.log(2_000), 0.35, (n, 1))) * np.exp(rng.normal(0, 0.1, (n, len(BROAD))))
    shift = -np.abs(rng.normal(0, 600, (n, 1))) * (BROAD[:, 0] < 1_700) + rng.normal(0, 150, (n, len(BROAD)))
    light = 0.6 * lines(z, BROAD[:, 0], scatter * BROAD[:, 1], speed, shift)
    light += 0.4 * lines(z, BROAD[:, 0], scatter * BROAD[:, 1], 2.3 * speed, shift)
    scatter = np.exp(rng.normal(-0.3, 0.9, (n, 1)) + rng.normal(0, 0.3, (n, len(NARROW))))
    light += lines(z, NARROW[:, 0], scatter * NARROW[:, 1], rng.uniform(120, 400, (n, 1)))
    height = np.exp(rng.normal(0, 0.5, (n, 1)) + rng.normal(0, 0.3, (n, len(BLENDS)))) * BLENDS[:, 2]
    light += np.einsum("nk,npk->np", height, np.exp(-(((rest[:, :, None] - BLENDS[:, 0]) / BLENDS[:, 1]) ** 2) / 2))
    flux = flux * (1 + light)
    if bal:
        flux *= winds(z, rng)
    flux *= dust(rest, rng.exponential(0.09 if bal else 0.03, n))
    host_z, host = galaxies(n, rng)  # drawn at another redshift and shifted below
    share = np.where(z < 1, rng.beta(1, 3, n) * (1 - z), 0)[:, None]
    host = _shifted(host, np.log10((1 + z) / (1 + host_z)))
    flux = flux / flux.mean(1, keepdims=True) * (1 - share) + host / host.mean(1, keepdims=True) * share
    return z, flux * forest(z, rng)


# ---------------------------------------------------------------- physics


def black_body(wavelength: Array, kelvin: Array) -> Array:
    """Return Planck's flux per wavelength (n, P) with mean 1, given wavelengths (n, P) in angstrom and kelvin (n,)."""
    flux = wavelength**-5.0 / np.expm1(1.4388e8 / (wavelength * kelvin[:, None]))
    return flux / flux.mean(1, keepdims=True)


def lines(z: Array, rest: Array, width: Array, speed: Array | float, shift: Array | float = 0.0) -> Array:
    """Compute Gaussian lines relative to the continuum, averaged over each pixel.

    Parameters
    ----------
    z : ndarray
        (n,) redshifts.
    rest : ndarray
        (K,) rest wavelengths, angstrom.
    width : ndarray
        Rest equivalent widths, angstrom, that broadcast to (n, K).
    speed, shift : ndarray or float
        Standard deviation and velocity of the lines, km/s, that broadcast to (n, K).

    Returns
    -------
    ndarray
        (n, PIXELS), to use as emission, 1 + lines, or as optical depth, exp(-lines).
    """
    shape = (len(z), len(rest))
    width, speed, shift = (np.broadcast_to(value, shape) for value in (width, speed, shift))
    sigma = np.hypot(speed, RESOLUTION) / LIGHT
    total = np.zeros((len(z), PIXELS))
    for k, wavelength in enumerate(rest):
        centre = wavelength * (1 + z) * (1 + shift[:, k] / LIGHT)
        below = ndtr(np.log(EDGES / centre[:, None]) / sigma[:, k, None])
        total += (width[:, k] / wavelength)[:, None] * np.diff(below, axis=1)
    return total / np.log(EDGES[1] / EDGES[0])


def winds(z: Array, rng: Rng, most: int = 3) -> Array:
    """Draw the transmission (n, PIXELS) of up to `most` outflows, which absorb blueward of each of `TROUGHS`."""
    n = len(z)
    depth = np.zeros((n, PIXELS))
    ionised = np.ones((n, len(TROUGHS)))
    ionised[:, 1:5] = rng.uniform(0.2, 1.0, (n, 4))
    ionised[:, 5:] = rng.uniform(0.3, 0.8, (n, 2)) * (rng.random((n, 1)) < 0.15)
    for trough in range(most):
        present = rng.random(n) < (1.0, 0.45, 0.2)[trough]
        half = np.exp(rng.normal(np.log(1_900), 0.45, n)).clip(900, 7_000)
        speed = np.minimum(half + rng.gamma(2.0, 3_500, n), 25_000)
        tau = present * rng.gamma(2.0, 0.8, n) + 0.35 * present
        for k, rest in enumerate(TROUGHS):
            blue = LIGHT * -np.log(CENTRES / (rest * (1 + z[:, None])))  # km/s towards us
            depth += (tau * ionised[:, k])[:, None] * np.exp(-(((blue - speed[:, None]) / half[:, None]) ** 4))
    return np.exp(-depth)


def forest(z: Array, rng: Rng) -> Array:
    """Draw the transmission (n, PIXELS) of the Lyman alpha and beta forest and of Lyman limit systems."""
    n = len(z)
    total = np.ones((n, PIXELS))
    for rest, ratio in ((LYMAN_ALPHA, 1.0), (1025.72, 0.19)):
        absorber = CENTRES / rest
        tau = ratio * 0.0018 * absorber**3.92 * np.exp(rng.normal(-0.25, 0.7, (n, PIXELS)))
        total *= np.where(absorber < 1 + z[:, None], np.exp(-tau), 1.0)
    limit = LYMAN_LIMIT * (1 + z - rng.exponential(0.35, n))[:, None]
    opaque = rng.gamma(1.5, 1.5, n)[:, None] * (CENTRES / limit) ** 3
    return total * np.exp(-np.where(limit > CENTRES, opaque, 0))


def dust(rest: Array, reddening: Array) -> Array:
    """Return the transmission (n, P) of SMC-like dust, given rest wavelengths in angstrom and E(B-V) (n,) in mag."""
    return 10 ** (-0.4 * reddening[:, None] * 1.39 * (rest / 1e4) ** -1.2)


def _shifted(flux: Array, dex: Array) -> Array:
    """Shift spectra by dex (n,) in log10 wavelength, repeating the values at the ends."""
    step = np.log10(CENTRES[1] / CENTRES[0])
    wanted = np.rint(np.arange(PIXELS) - dex[:, None] / step).astype(int).clip(0, PIXELS - 1)
    return np.take_along_axis(flux, wanted, 1)


SKY_LINES = np.array([5578.9, 5891.6, 6301.7, 6365.5])


def sky_noise() -> Array:
    """Compute the relative noise of each pixel (PIXELS,): insensitive ends, sky lines and OH bands in the red."""
    rng = np.random.default_rng(0x5C1)  # the same spectrograph in every survey
    blind = 1 + 3.5 * np.exp(-(CENTRES - 3_600) / 230) + 1.5 * np.exp((CENTRES - 10_000) / 350)
    bands = 1.8 * rng.gamma(0.6, 1.0, PIXELS) * np.clip((CENTRES - 7_100) / 2_000, 0, 1)
    bright = 2.5 * np.exp(-(((CENTRES[:, None] - SKY_LINES) / 8) ** 2)) @ np.array([1.6, 0.5, 0.6, 0.3])
    return blind + bands + bright


def observe(flux: Array, snr: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Add noise to spectra.

    Sky and source add photon noise, and the flux calibration has a smooth error of a few percent. Some pixels are bad,
    and a fifth of the spectra lack their blue end, like spectra of the older SDSS spectrograph.

    Parameters
    ----------
    flux : ndarray
        (n, PIXELS) true fluxes in any unit.
    snr : ndarray
        (n,) median signal-to-noise ratio per pixel.
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    tuple of ndarray
        Fluxes in 1e-17 erg / s / cm2 / angstrom and their inverse variances, (n, PIXELS) each; both are 0 in bad
        pixels.
    """
    n = len(flux)
    flux = flux / np.maximum(np.median(flux, 1, keepdims=True), 0.05 * flux.mean(1, keepdims=True))
    wiggles = gaussian_filter1d(rng.normal(0, 1, (n, PIXELS)), 40, axis=1)
    flux = flux * (1 + 0.04 * wiggles / wiggles.std())
    variance = sky_noise() ** 2 + 0.05 * snr[:, None] * flux.clip(0)
    sigma = np.sqrt(variance)
    sigma /= np.median(sigma, 1, keepdims=True) * snr[:, None]
    bad = rng.random((n, PIXELS)) < 0.002
    bad |= (rng.random((n, 1)) < 0.2) & (CENTRES < 3_820)
    bad |= (rng.random((n, 1)) < 0.3) & (np.abs(CENTRES - SKY_LINES[0]) < 8)
    scale = np.exp(rng.normal(0.5, 1.0, (n, 1)))  # 1e-17 erg / s / cm2 / angstrom
    noisy = scale * (flux + sigma * rng.normal(size=flux.shape))
    return np.where(bad, 0, noisy), np.where(bad, 0, (scale * sigma) ** -2.0)
