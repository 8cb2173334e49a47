"""The fields of alert packets in use, by survey, and functions that read a value from a packet.

Schemas: ZTF 3.x and 4.x, https://github.com/ZwickyTransientFacility/ztf-avro-alert; Rubin 7.0 and later,
https://github.com/lsst/alert_packet. Fields are found by name, because brokers add and reorder them.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import NoneType
from typing import Any

import numpy as np

from alerce_early.data import text
from alerce_early.data.readers.stamps_file import CHANNELS, COLUMNS
from alerce_early.data.records import UnreadableError

CUTOUTS = {name: f"cutout{name.capitalize()}" for name in CHANNELS}
SNR = "SNR"  # channel of difference / sqrt(variance), Rubin only
FILE, OBJECT = "#file", "#object"  # keys of a record without ids: alert and object named by its file
NUMBER = (float, int, Decimal, NoneType)


@dataclass(frozen=True)
class Fields:
    """Fields of the packets of one survey.

    Attributes
    ----------
    survey : str
        Name of the survey.
    network : str
        Pretrained network for its packets.
    data : str
        Value of `data=` with which to train on its packets.
    source : str
        Field with the detection; identifies the survey.
    names : tuple of str
        Top-level fields with ids.
    columns : tuple of str
        Numeric fields of the detection that networks can use.
    context : tuple of str
        Further fields of the detection: ids, time and band.
    object : str
        Field with the object, which may be absent from a packet.
    object_columns : tuple of str
        Fields of the object.
    position : tuple of str
        Fields with the row and column of the source on its chip, in pixels counted from 1.
    """

    survey: str
    network: str
    data: str
    source: str
    names: tuple[str, ...]
    columns: tuple[str, ...]
    context: tuple[str, ...]
    object: str = ""
    object_columns: tuple[str, ...] = ()
    position: tuple[str, ...] = ()

    @property
    def usage(self) -> str:
        """How to use packets of this survey, for messages."""
        return f"predict {self.survey} alerts with {self.network}, train on them with data={self.data}"

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that a table of packets must have."""
        return (*self.names, self.source, *CUTOUTS.values())

    @property
    def all_names(self) -> frozenset[str]:
        """Names of all fields in use, of the packet and its records."""
        of_source = (*self.columns, *self.context, *self.position)
        return frozenset((*self.needed, *of_source, self.object, *self.object_columns, "stampData"))


DERIVED = ("ecl_lat", "ecl_long", "gal_lat", "gal_long", "non_detections")  # ZTF columns that are computed, not read
ZTF = Fields(
    survey="ZTF",
    network="ztf",
    data="alerts",
    source="candidate",
    names=("objectId", "candid"),
    columns=tuple(name for name in COLUMNS if name not in DERIVED),
    context=("jd", "fid"),
    position=("ypos", "xpos"),
)
RUBIN = Fields(
    survey="Rubin",
    network="rubin_images",
    data="rubin",
    source="diaSource",
    names=(),
    columns=(
        *("ra", "dec", "snr", "psfFlux", "psfFluxErr", "apFlux"),
        *("extendedness", "reliability", "trailLength"),
    ),
    context=("diaSourceId", "diaObjectId", "ssObjectId", "midpointMjdTai", "band"),
    object="diaObject",
    object_columns=("nDiaSources",),
)


SURVEYS = {one.survey: one for one in (ZTF, RUBIN)}


def fields_for(found: Collection[str]) -> Fields:
    """Return the fields of the survey whose packets have these top-level names; ZTF by default."""
    return RUBIN if RUBIN.source in found else ZTF


def object_by_file(record: Mapping[str, Any]) -> str:
    """Return the object that a record without ids takes from its file name, or ""."""
    name = str(record.get(OBJECT, ""))
    if not text.is_safe_name(name):
        raise UnreadableError(f"file name cannot name an object: {name[:40]!a}")
    return name


def name_in(record: Mapping[str, Any], field: str, kind: type) -> str:
    """Return an id of a packet as text.

    Parameters
    ----------
    record : mapping
        The packet or a record in it.
    field : str
        Name of the field.
    kind : type
        str, or int, which also accepts whole decimals and digits.

    Returns
    -------
    str
        The id.

    Raises
    ------
    UnreadableError
        If the id is missing, of another type, or not printable.
    """
    value = record.get(field)
    if value is None or value == "":
        raise UnreadableError(f"{field} is missing")
    if kind is int and re.fullmatch(r"\d{1,99}", str(value), re.ASCII):
        value = int(str(value))
    if not isinstance(value, kind):
        raise UnreadableError(f"{field} is of type {type(value).__name__}, expected {kind.__name__}")
    if not text.is_safe_name(str(value)):
        raise UnreadableError(f"{field} is not a valid name: {str(value)[:40]!a}")
    return str(value)


def source_in(record: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return the record of the detection; raise UnreadableError if it is missing."""
    source = record.get(field)
    if not isinstance(source, dict):
        raise UnreadableError(f"{field} is missing")
    return source


def numbers_in(source: Mapping[str, Any], fields: Collection[str]) -> np.ndarray:
    """Return the fields as (F,) float64, NaN where missing; raise UnreadableError if one is not a number."""
    row = [source.get(name) for name in fields]
    for name, value in zip(fields, row, strict=True):
        if not isinstance(value, NUMBER):
            raise UnreadableError(f"{name} is not a number: {str(value)[:20]!r}")
    try:
        return np.array(row, np.float64)
    except OverflowError:  # JSON integers can have any length
        raise UnreadableError("a number is too large for float64") from None


def cutout_in(record: Mapping[str, Any], channel: str) -> bytes:
    """Return the FITS file of one channel; raise UnreadableError if it is missing."""
    content = _content_of(record, channel)
    if not isinstance(content, bytes) or not content:
        raise UnreadableError(f"{CUTOUTS[channel]} is missing")
    return content


def pixels_in(record: Mapping[str, Any], channel: str) -> np.ndarray | None:
    """Return a cutout that a table contains as numbers: a list of rows, or one list for a square image.

    Parameters
    ----------
    record : mapping
        The packet.
    channel : str
        Key of `CUTOUTS`.

    Returns
    -------
    ndarray or None
        (H, W) float32; None if the cutout is not a list.

    Raises
    ------
    UnreadableError
        If the list is not an image.
    """
    field, content = CUTOUTS[channel], _content_of(record, channel)
    if not isinstance(content, list):
        return None
    try:
        pixels = np.array(content, np.float32)  # None becomes NaN
    except (TypeError, ValueError, OverflowError):
        raise UnreadableError(f"{field} is not an image: its rows differ in length or are not numbers") from None
    side = math.isqrt(pixels.size)
    if pixels.ndim == 1 and side**2 == pixels.size:
        return pixels.reshape(side, side)
    if pixels.ndim != 2:
        raise UnreadableError(f"{field} is not an image: its shape is {pixels.shape}")
    return pixels


def _content_of(record: Mapping[str, Any], channel: str) -> Any:
    """Return the cutout of a channel, with or without its enclosing record."""
    held = record.get(CUTOUTS[channel])
    return held.get("stampData") if isinstance(held, dict) else held  # some surveys and brokers omit the record
