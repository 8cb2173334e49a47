"""A simulated spectrograph: what sky, detector and calibration do to a true spectrum."""

import numpy as np
from scipy.ndimage import gaussian_filter1d

from alerce_early.data.spectral_grid import CENTRES, PIXELS

Array = np.ndarray

SKY_LINES = np.array([5578.9, 5891.6, 6301.7, 6365.5])


def sky_noise() -> Array:
    """Noise of each pixel (PIXELS,) relative to the quietest: blind ends, sky lines, OH bands in the red."""
    rng = np.random.default_rng(0x5C1)  # the same spectrograph in every survey
    blind = 1 + 3.5 * np.exp(-(CENTRES - 3_600) / 230) + 1.5 * np.exp((CENTRES - 10_000) / 350)
    bands = 1.8 * rng.gamma(0.6, 1.0, PIXELS) * np.clip((CENTRES - 7_100) / 2_000, 0, 1)
    bright = 2.5 * np.exp(-(((CENTRES[:, None] - SKY_LINES) / 8) ** 2)) @ np.array([1.6, 0.5, 0.6, 0.3])
    return blind + bands + bright


def observe(flux: Array, snr: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Noisy fluxes and their inverse variances, both (n, PIXELS), of true fluxes; snr (n,): median a pixel.

    Sky and source both give photon noise; the calibration is off by a smooth few percent; some pixels are
    bad, and a few spectra lack their blue end, as those of the older spectrograph do.
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
