"""The grid all spectra are brought to: 443 pixels of equal width in log10(wavelength / angstrom).

On it a redshift is a shift, by log10(1 + z) / STEP pixels, and nothing else.
"""

import math

import numpy as np

FIRST = math.log10(3600.0)  # blue edge of the first pixel
STEP = 1e-3  # 690 km/s
PIXELS = int((math.log10(10_000.0) - FIRST) / STEP)

EDGES = 10 ** (FIRST + STEP * np.arange(PIXELS + 1))  # angstrom
CENTRES = 10 ** (FIRST + STEP * (np.arange(PIXELS) + 0.5))  # angstrom


def rebin(loglam: np.ndarray, flux: np.ndarray, ivar: np.ndarray) -> np.ndarray:
    """One spectrum on the grid: the mean flux of each pixel, weighted by ivar, and the summed ivar.

    loglam: (M,) log10 of angstrom; flux, ivar: (M,). Values that are not finite and samples outside the grid
    do not count. Returns (PIXELS, 2) float32: flux and its inverse variance, both 0 where nothing is known.
    """
    pixel = np.floor((np.asarray(loglam, np.float64) - FIRST) / STEP)
    usable = np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0) & (pixel >= 0) & (pixel < PIXELS)
    index, weight = pixel[usable].astype(np.int64), np.asarray(ivar, np.float64)[usable]
    summed = np.bincount(index, weight, PIXELS)
    moment = np.bincount(index, weight * np.asarray(flux, np.float64)[usable], PIXELS)
    return np.stack([moment / np.where(summed > 0, summed, 1.0), summed], 1).astype(np.float32)
