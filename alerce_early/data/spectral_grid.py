"""Wavelength grid of all spectra: 443 pixels of equal width in log10(wavelength / angstrom).

On this grid a redshift z is a shift by log10(1 + z) / STEP pixels.
"""

import math

import numpy as np

FIRST = math.log10(3600.0)  # blue edge of the first pixel
STEP = 1e-3  # 690 km/s
PIXELS = int((math.log10(10_000.0) - FIRST) / STEP)

EDGES = 10 ** (FIRST + STEP * np.arange(PIXELS + 1))  # angstrom
CENTRES = 10 ** (FIRST + STEP * (np.arange(PIXELS) + 0.5))  # angstrom


def rebin(loglam: np.ndarray, flux: np.ndarray, ivar: np.ndarray) -> np.ndarray:
    """Rebin a spectrum to the grid, as the mean flux weighted by inverse variance.

    Parameters
    ----------
    loglam : ndarray
        (M,) log10 of the wavelengths in angstrom; samples outside the grid are ignored.
    flux, ivar : ndarray
        (M,) flux and inverse variance; samples that are not finite, or have no positive `ivar`, are ignored.

    Returns
    -------
    ndarray
        (PIXELS, 2) float32: flux and inverse variance, both 0 in pixels without samples.
    """
    pixel = np.floor((np.asarray(loglam, np.float64) - FIRST) / STEP)
    usable = np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0) & (pixel >= 0) & (pixel < PIXELS)
    index, weight = pixel[usable].astype(np.int64), np.asarray(ivar, np.float64)[usable]
    summed = np.bincount(index, weight, PIXELS)
    moment = np.bincount(index, weight * np.asarray(flux, np.float64)[usable], PIXELS)
    return np.stack([moment / np.where(summed > 0, summed, 1.0), summed], 1).astype(np.float32)
