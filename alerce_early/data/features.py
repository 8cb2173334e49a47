"""Metadata columns: the clips of the published model, before standardisation by training statistics."""

from collections.abc import Sequence

import numpy as np

MISSING = -999.0

# Carrasco-Davis et al. 2021: lower and upper bound; -1 stands for missing (-999) where a column has a floor.
CLIPS: dict[str, tuple[float, float]] = {
    **{f"sgscore{i}": (-1.0, np.inf) for i in (1, 2, 3)},
    **{f"distpsnr{i}": (-1.0, np.inf) for i in (1, 2, 3)},
    "distnr": (-1.0, np.inf),
    "magnr": (-1.0, np.inf),
    "fwhm": (-np.inf, 10.0),
    "ndethist": (-np.inf, 20.0),
    "ncovhist": (-np.inf, 3000.0),
    "non_detections": (-np.inf, 2000.0),
    "chinr": (-1.0, 15.0),
    "sharpnr": (-1.0, 1.5),
}


def clip(features: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Clip raw columns (N, F) float64 to their physical ranges; NaN counts as missing (-999).

    Returns a new (N, F) array. Columns without a known range pass unchanged.
    """
    low, high = np.array([CLIPS.get(name, (-np.inf, np.inf)) for name in names]).reshape(-1, 2).T
    return np.clip(np.where(np.isfinite(features), features, MISSING), low, high)
