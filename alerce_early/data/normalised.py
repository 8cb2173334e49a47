"""Detection of stamps that were normalised before they were saved, as BTSbot, BOOM and braai do.

Dividing each cutout by its norm, or scaling it to [0, 1], discards the relative brightness of the cutouts. A network
trained on raw stamps would misclassify such stamps without an error, so they are recognised by their values and
rejected, unless the recipe begins with a step that normalises raw stamps in the same way.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alerce_early.construct import PACKAGE
from alerce_early.data.records import MAX_PIXEL_VALUE

TOLERANCE = 1e-3  # of a norm of 1: float16 has errors of 1e-4, and norms of raw cutouts are in the hundreds
NORM, RANGE = "every cutout has norm 1", "all values are in [0, 1]"
RECIPES = {NORM: "l2", RANGE: "minmax"}  # recipe that accepts such stamps and raw ones
REJECTION = "stamp was normalised before ({}); give raw stamps, or a network trained with recipe={}"
SCALE_FREE = ("NanToZero", "Crop", "Mask", "TwoScales")  # steps that commute with a change of scale


def find_normalised(images: np.ndarray, *recipes: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Find stamps that were normalised in a way that at least one of these recipes does not allow.

    Parameters
    ----------
    images : ndarray
        Stamps (N, H, W, C) as read; NaN, infinity and values from `MAX_PIXEL_VALUE` on are invalid. Other
        arrays, such as spectra, count as raw.
    *recipes : sequence of mapping
        The steps of each recipe as plain configs.

    Returns
    -------
    ndarray
        (N,) str: `NORM`, `RANGE`, or "" for a raw stamp. A stamp without valid pixels, or with only one value, is raw.
    """
    found = np.full(len(images), "", dtype=f"U{max(map(len, RECIPES))}")
    disallowed = RECIPES.keys() - set.intersection(*map(_allowed, recipes))
    if images.ndim != 4 or not disallowed:
        return found
    # the middle line of pixels is enough to recognise nearly all raw stamps
    middle = np.abs(images[:, images.shape[1] // 2].astype(np.float32))
    for row in np.flatnonzero(~((middle > 1 + TOLERANCE) & (middle < MAX_PIXEL_VALUE)).any((1, 2))).tolist():
        if (kind := _describe(images[row])) in disallowed:
            found[row] = kind
    return found


def _describe(image: np.ndarray) -> str:
    """Return the normalisation of a stamp (H, W, C), "" for a raw one."""
    values = image.astype(np.float64)
    present = np.abs(values) < MAX_PIXEL_VALUE
    values[~present] = 0
    norms = np.sqrt(np.square(values).sum((0, 1)))
    norms = norms[norms > 0]  # a cutout of zeros cannot be normalised
    if not len(norms) or np.ptp(values[present]) == 0:
        return ""
    if (np.abs(norms - 1) < TOLERANCE).all():
        return NORM
    return RANGE if values.min() >= 0 and values.max() <= 1 else ""


def _allowed(steps: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the normalisations that do not change the output of a recipe."""
    for step in steps:
        module, _, name = str(step["_target_"]).rpartition(".")
        if not module.startswith(f"{PACKAGE}."):
            break  # a user-defined step is trusted
        if name == "UnitNorm":
            return {NORM}
        if name not in SCALE_FREE:
            return {NORM, RANGE} if name == "MinMax" or step.get("each") else set()
    return {NORM, RANGE}  # without normalisation, the network is trained on the stamps as they are
