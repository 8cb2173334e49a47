"""Convert decoded ZTF alert packets to stamps and the metadata columns of the stamps file."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alerce_early.data.coordinates import to_ecliptic, to_galactic
from alerce_early.data.readers.packets import fields
from alerce_early.data.readers.packets.fields import CUTOUTS, ZTF
from alerce_early.data.readers.packets.fits_cutout import image
from alerce_early.data.readers.stamps_file import COLUMNS
from alerce_early.data.records import MISSING, UnreadableError

SIDE = 63  # pixels of a complete cutout
CHIP = (3080, 3072)  # rows and columns of a readout channel, at whose edges cutouts are truncated
MAX_MISSING = 20  # rows or columns to pad; keeps the central 21 x 21 pixels complete
# Sign convention of the training file.
IS_POSITIVE = {"t": 0.0, "true": 0.0, "1": 0.0, "f": 1.0, "false": 1.0, "0": 1.0}
CONTEXT = ZTF.context


def key(record: Mapping[str, Any]) -> str:
    """Return the candid as text; raise UnreadableError if it is missing or not a number."""
    return record.get(fields.FILE) or fields.name_in(record, "candid", int)


def read(
    record: Mapping[str, Any], channels: Sequence[str], pad_edges: bool = False
) -> tuple[str, np.ndarray, np.ndarray]:
    """Read the fields and stamps of one packet.

    Parameters
    ----------
    record : mapping
        The decoded packet.
    channels : sequence of str
        Channels to stack, in order: science, template, difference.
    pad_edges : bool
        Whether to pad cutouts at the edge of a chip with NaN, up to `MAX_MISSING` rows or columns.

    Returns
    -------
    object_id : str
        The objectId.
    numbers : ndarray
        (23,) float64: the columns and the context of `fields.ZTF`, NaN where missing.
    stamps : ndarray
        (C, 63, 63) float32, NaN for missing pixels.

    Raises
    ------
    UnreadableError
        If a field is missing or invalid, or a cutout is missing, damaged, empty or of another size.
    """
    name = fields.object_by_file(record) or fields.name_in(record, "objectId", str)
    candidate = dict(fields.source_in(record, ZTF.source))
    if (positive := candidate.get("isdiffpos")) is not None:
        candidate["isdiffpos"] = IS_POSITIVE.get(str(positive).lower())
        if candidate["isdiffpos"] is None:
            raise UnreadableError(f"isdiffpos is neither t nor f: {str(positive)[:20]!r}")
    return name, fields.numbers_in(candidate, (*ZTF.columns, *CONTEXT)), _stamps(record, channels, pad_edges)


def _stamps(record: Mapping[str, Any], channels: Sequence[str], pad_edges: bool) -> np.ndarray:
    """Return the cutouts of the channels, (C, 63, 63) float32."""
    planes = np.full((len(channels), SIDE, SIDE), np.nan, np.float32)
    for plane, channel in zip(planes, channels, strict=True):
        if channel not in CUTOUTS:
            raise UnreadableError(f"{ZTF.survey} packets have no channel {channel}")
        stamp = fields.pixels_in(record, channel)
        if stamp is None:
            content = fields.cutout_in(record, channel)
            try:
                stamp = image(content)
            except UnreadableError as error:
                raise UnreadableError(f"{CUTOUTS[channel]} {error}") from None
        place = _place(stamp.shape, fields.numbers_in(record[ZTF.source], ZTF.position)) if pad_edges else None
        if place is None and stamp.shape != plane.shape:
            raise UnreadableError("stamp is {} x {}, expected {} x {}".format(*stamp.shape, *plane.shape))
        plane[place or ...] = stamp
    if not np.isfinite(planes).any():
        raise UnreadableError("no cutout has any data")
    return planes


def _place(shape: tuple[int, ...], position: np.ndarray) -> tuple[slice, ...] | None:
    """Locate a truncated cutout in the complete stamp, given the row and column of the source, counted from 1.

    Returns None if the edges of the chip do not explain the shape, or more than `MAX_MISSING` rows or columns are
    missing.
    """
    place = []
    for length, source, side in zip(shape, np.floor(position + 0.5).tolist(), CHIP, strict=True):
        # NaN, without a position, gives a complete stamp
        first, after = max(0, SIDE // 2 + 1 - source), min(SIDE, side - source + SIDE // 2 + 1)
        if after - first != length or SIDE - length > MAX_MISSING:
            return None
        place.append(slice(int(first), int(after)))
    return tuple(place)


def derive_columns(raw: np.ndarray) -> np.ndarray:
    """Compute the metadata columns of the stamps file.

    Parameters
    ----------
    raw : ndarray
        (n, 21) float64: the columns of `fields.ZTF`, NaN where missing.

    Returns
    -------
    ndarray
        (n, 26) float64: `stamps_file.COLUMNS`, -999 where missing. Rows without any metadata are all NaN.
    """
    by_name = dict(zip(ZTF.columns, raw.T, strict=True))
    by_name["non_detections"] = by_name["ncovhist"] - by_name["ndethist"]
    by_name["ecl_long"], by_name["ecl_lat"] = to_ecliptic(by_name["ra"], by_name["dec"])
    by_name["gal_long"], by_name["gal_lat"] = to_galactic(by_name["ra"], by_name["dec"])
    columns = np.stack([by_name[name] for name in COLUMNS], axis=1)
    return np.where(np.isfinite(columns) | np.isnan(raw).all(1, keepdims=True), columns, MISSING)
