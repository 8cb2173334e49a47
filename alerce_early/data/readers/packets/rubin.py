"""Convert decoded Rubin alert packets, schema 7.0 and later, to stamps and metadata columns.

A cutout is a FITS file with image (nJy), variance and PSF. It is square, of any size, at 0.2 arcsec per pixel and in
the orientation of the camera. Stamps are these pixels unchanged: a source fainter than in the template is negative.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alerce_early.data.readers.packets import fields, fits_cutout
from alerce_early.data.readers.packets.fields import CUTOUTS, RUBIN, SNR
from alerce_early.data.readers.stamps_file import CHANNELS
from alerce_early.data.records import MISSING, UnreadableError

SIDE = 63  # pixels of a stamp, with the source in the central one; cutouts have 30 to 93
COLUMNS = RUBIN.columns
CONTEXT = ("jd", "fid", "ndethist")  # jd in TAI, 37 s ahead of UTC; ndethist is nDiaSources
BANDS = {"g": 1, "r": 2, "i": 3, "z": 4, "y": 5, "u": 6}  # continues ZTF's fid
MJD = 2400000.5  # JD of MJD 0


def key(record: Mapping[str, Any]) -> str:
    """Return the diaSourceId as text; raise UnreadableError if it is missing or not a number."""
    return record.get(fields.FILE) or fields.name_in(fields.source_in(record, RUBIN.source), "diaSourceId", int)


def read(
    record: Mapping[str, Any], channels: Sequence[str], pad_edges: bool = False
) -> tuple[str, np.ndarray, np.ndarray]:
    """Read the fields and stamps of one packet.

    Parameters
    ----------
    record : mapping
        The decoded packet.
    channels : sequence of str
        Channels to stack, in order: science, template, difference, SNR.
    pad_edges : bool
        Ignored: cutouts of any size are padded.

    Returns
    -------
    object_id : str
        The diaObjectId, or the ssObjectId of a known solar system object.
    numbers : ndarray
        (12,) float64: `COLUMNS` and `CONTEXT`, NaN where missing.
    stamps : ndarray
        (C, 63, 63) float32, NaN outside the cutout.

    Raises
    ------
    UnreadableError
        If a field is missing or invalid, or the cutouts are missing, damaged, empty, off centre or differ in shape.
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
    detections = fields.numbers_in(known if isinstance(known, dict) else {}, RUBIN.object_columns)
    return name, np.concatenate([numbers, [band], detections]), _stamps(record, channels)


def _stamps(record: Mapping[str, Any], channels: Sequence[str]) -> np.ndarray:
    """Return the cutouts of the channels, (C, 63, 63) float32, with the source in the central pixel."""
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
        raise UnreadableError("no cutout has any data")
    return stamps


def _in_sigmas(difference: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return difference / sqrt(variance), NaN where the variance is not positive."""
    if variance.shape != difference.shape:
        raise UnreadableError(
            "differs in shape from its variance: {} x {} and {} x {}".format(*difference.shape, *variance.shape)
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, difference / np.sqrt(variance), np.nan).astype(np.float32)


def _place(shape: tuple[int, ...], source: tuple[float, float] | None) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the slices of the stamp and of a cutout (S, S) that overlap, given its source (y, x)."""
    side = shape[0]
    if shape[1] != side:
        raise UnreadableError("is not square: {} x {}".format(*shape))
    middle = (side - 1) / 2
    centre = [math.floor(at + 0.5) for at in source or (middle, middle)]
    if not all(abs(at - middle) <= 1 for at in source or ()):  # NaN fails as well
        raise UnreadableError(f"has its source more than a pixel off the centre, at {source}")
    inside = tuple(slice(max(0, at - SIDE // 2), at + SIDE // 2 + 1) for at in centre)
    frame = tuple(
        slice(part.start - at + SIDE // 2, min(part.stop, side) - at + SIDE // 2)
        for part, at in zip(inside, centre, strict=True)
    )
    return frame, inside


def derive_columns(raw: np.ndarray) -> np.ndarray:
    """Return `COLUMNS` (n, 9) with -999 instead of NaN; rows without any metadata stay all NaN."""
    return np.where(np.isfinite(raw) | np.isnan(raw).all(1, keepdims=True), raw, MISSING)
