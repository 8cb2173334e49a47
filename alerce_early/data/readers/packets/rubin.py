"""Alert packets of Rubin: a decoded record, of any schema from 7.0 on, to stamps and a few columns beside them.

A cutout is a FITS file of image (nJy), variance and PSF, square and of any size, at .2 arcsec per pixel and rotated as
the telescope was. The stamps are these pixels as they are: a detection that is fainter than the template is negative.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alerce_early.data.readers.packets import fields, fits_cutout
from alerce_early.data.readers.packets.fields import CUTOUTS, RUBIN, SNR
from alerce_early.data.readers.stamps_file import CHANNELS
from alerce_early.data.records import MISSING, UnreadableError

SIDE = 63  # pixels of a stamp, whose central one is the nearest to the source; cutouts have 30 to 93
COLUMNS = RUBIN.columns
CONTEXT = ("jd", "fid", "ndethist")  # jd of TAI, 37 s ahead of UTC; ndethist is nDiaSources
BANDS = {"g": 1, "r": 2, "i": 3, "z": 4, "y": 5, "u": 6}  # numbered on from ZTF's fid
MJD = 2400000.5  # jd of mjd 0


def key(record: Mapping[str, Any]) -> str:
    """Return the diaSourceId."""
    return record.get(fields.FILE) or fields.name_in(fields.source_in(record, RUBIN.source), "diaSourceId", int)


def read(
    record: Mapping[str, Any], channels: Sequence[str], pad_edges: bool = False
) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the object, (12,) float64 of the source, NaN where missing, and stamps (C, 63, 63) float32.

    The object is diaObjectId, or ssObjectId of what is known to move. The numbers are `COLUMNS` and `CONTEXT`. Stamps
    are NaN beyond the cutout. Raises UnreadableError where the packet lacks one of them, or its cutouts differ in
    shape.
    """
    source = fields.source_in(record, RUBIN.source)
    name = fields.object_by_file(record) or fields.name_in(
        source, "diaObjectId" if source.get("diaObjectId") else "ssObjectId", int
    )
    if name == "0":
        raise UnreadableError("diaObjectId and ssObjectId are both 0")
    numbers = fields.numbers_in(source, (*COLUMNS, "midpointMjdTai"))
    numbers[-1] += MJD
    band = BANDS.get(str(source.get("band")), math.nan)
    known = record.get(RUBIN.object)
    detections = fields.numbers_in(known if isinstance(known, dict) else {}, RUBIN.of_object)
    return name, np.concatenate([numbers, [band], detections]), _stamps(record, channels)


def _stamps(record: Mapping[str, Any], channels: Sequence[str]) -> np.ndarray:
    stamps = np.full((len(channels), SIDE, SIDE), np.nan, np.float32)
    frame: tuple[slice, ...] = ()
    first: tuple[int, ...] = ()
    for stamp, channel in zip(stamps, channels, strict=True):
        field = CUTOUTS[CHANNELS[-1] if channel == SNR else channel]
        pixels = None if channel == SNR else fields.pixels_in(record, channel)
        content = b"" if pixels is not None else fields.cutout_in(record, CHANNELS[-1] if channel == SNR else channel)
        try:
            image = fits_cutout.image(content) if pixels is None else pixels
            if channel == SNR:
                image = _in_sigmas(image, fits_cutout.image(content, fits_cutout.VARIANCE))
            if not first:
                first = image.shape
                frame, inside = _place(first, fits_cutout.source(content) if content else None)
        except UnreadableError as error:
            raise UnreadableError(f"{field} {error}") from None
        if image.shape != first:
            raise UnreadableError("cutouts differ in shape: {} x {} and {} x {}".format(*first, *image.shape))
        stamp[frame] = image[inside]
    if not np.isfinite(stamps).any():
        raise UnreadableError("no cutout holds data")
    return stamps


def _in_sigmas(difference: np.ndarray, variance: np.ndarray) -> np.ndarray:
    if variance.shape != difference.shape:
        raise UnreadableError(
            "differs in shape from its variance: {} x {} and {} x {}".format(*difference.shape, *variance.shape)
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, difference / np.sqrt(variance), np.nan).astype(np.float32)


def _place(shape: tuple[int, ...], source: tuple[float, float] | None) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return which pixels of the stamp are filled from which of a cutout (S, S), its source at these pixels (y, x)."""
    side = shape[0]
    if shape[1] != side:
        raise UnreadableError("is not square: {} x {}".format(*shape))
    middle = (side - 1) / 2
    centre = [math.floor(at + 0.5) for at in source or (middle, middle)]
    if not all(abs(at - middle) <= 1 for at in source or ()):  # NaN counts
        raise UnreadableError(f"has its source away from the middle, at {source}")
    inside = tuple(slice(max(0, at - SIDE // 2), at + SIDE // 2 + 1) for at in centre)
    frame = tuple(
        slice(part.start - at + SIDE // 2, min(part.stop, side) - at + SIDE // 2)
        for part, at in zip(inside, centre, strict=True)
    )
    return frame, inside


def derive_columns(raw: np.ndarray) -> np.ndarray:
    """Return (n, 9) float64 `COLUMNS`, -999 where missing, from those, NaN where missing; all NaN for stamps alone."""
    return np.where(np.isfinite(raw) | np.isnan(raw).all(1, keepdims=True), raw, MISSING)
