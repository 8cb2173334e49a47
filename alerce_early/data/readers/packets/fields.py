"""Which fields of an alert packet are read, by name, of ZTF's schema and of Rubin's; and how a value is taken from one.

ZTF: 3.x and 4.x, https://github.com/ZwickyTransientFacility/ztf-avro-alert. Rubin: 7.0 and later,
https://github.com/lsst/alert_packet. Brokers add fields and reorder them.
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
SNR = "SNR"  # the channel of difference / sqrt(variance), of Rubin
FILE, OBJECT = "#file", "#object"  # of a record without ids: names of the alert and its object, of its file's name
NUMBER = (float, int, Decimal, NoneType)


@dataclass(frozen=True)
class Fields:
    """Those of one survey's packets.

    survey: its name. network: the pretrained one for its packets, and data: the choice of data that reads them to
    train. source: the record of the detection, which no other survey's packets have. names: what else there
    is of the packet beside its cutouts. columns: numbers of the source that networks may take. context: more of the
    source, for people, and what names it. object: the record of the object, which may be absent, and of_object: what is
    read of it. position: names of the row and column of the source on its chip, in pixels from 1. needed: whatever a
    table of packets must have.
    """

    survey: str
    network: str
    data: str
    source: str
    names: tuple[str, ...]
    columns: tuple[str, ...]
    context: tuple[str, ...]
    object: str = ""
    of_object: tuple[str, ...] = ()
    position: tuple[str, ...] = ()

    @property
    def takers(self) -> str:
        """What takes its packets, in words."""
        return f"predict {self.survey} alerts with {self.network}, train on them with data={self.data}"

    @property
    def needed(self) -> tuple[str, ...]:
        return (*self.names, self.source, *CUTOUTS.values())

    @property
    def wanted(self) -> frozenset[str]:
        """All of them, of the packet and of records in it."""
        of_source = (*self.columns, *self.context, *self.position)
        return frozenset((*self.needed, *of_source, self.object, *self.of_object, "stampData"))


DERIVED = ("ecl_lat", "ecl_long", "gal_lat", "gal_long", "non_detections")  # of ZTF's columns, not from the packet
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
    of_object=("nDiaSources",),
)


SURVEYS = {one.survey: one for one in (ZTF, RUBIN)}


def of(found: Collection[str]) -> Fields:
    """Return the fields to read of a packet that has these."""
    return RUBIN if RUBIN.source in found else ZTF


def object_by_file(record: Mapping[str, Any]) -> str:
    """Return the object that the name of its file gives to a record without ids, else ""."""
    name = str(record.get(OBJECT, ""))
    if not text.is_safe_name(name):
        raise UnreadableError(f"file name is not a name for an object: {name[:40]!a}")
    return name


def name_in(record: Mapping[str, Any], field: str, kind: type) -> str:
    """Return what names an alert or object; raises UnreadableError where it is missing or no name.

    A number may be a decimal of a table, or its digits.
    """
    value = record.get(field)
    if value is None or value == "":
        raise UnreadableError(f"{field} is missing")
    if kind is int and re.fullmatch(r"\d{1,99}", str(value), re.ASCII):
        value = int(str(value))
    if not isinstance(value, kind):
        raise UnreadableError(f"{field} is of type {type(value).__name__}, expected {kind.__name__}")
    if not text.is_safe_name(str(value)):
        raise UnreadableError(f"{field} is no name: {str(value)[:40]!a}")
    return str(value)


def source_in(record: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return the record of the detection; raises UnreadableError where there is none."""
    source = record.get(field)
    if not isinstance(source, dict):
        raise UnreadableError(f"{field} is missing")
    return source


def numbers_in(source: Mapping[str, Any], fields: Collection[str]) -> np.ndarray:
    """Return (F,) float64, NaN where missing; raises UnreadableError for what is no number."""
    row = [source.get(name) for name in fields]
    for name, value in zip(fields, row, strict=True):
        if not isinstance(value, NUMBER):
            raise UnreadableError(f"{name} is no number: {str(value)[:20]!r}")
    try:
        return np.array(row, np.float64)
    except OverflowError:  # JSON has integers of any length
        raise UnreadableError("a number of the detection is too large") from None


def cutout_in(record: Mapping[str, Any], channel: str) -> bytes:
    """Return the FITS file of one channel; raises UnreadableError where it is missing."""
    content = _content_of(record, channel)
    if not isinstance(content, bytes) or not content:
        raise UnreadableError(f"{CUTOUTS[channel]} is missing")
    return content


def pixels_in(record: Mapping[str, Any], channel: str) -> np.ndarray | None:
    """Return the (H, W) float32 image that a table holds as numbers, None where it holds the file.

    The numbers are lists of rows or, of a square image, one list. Raises UnreadableError for a list that is no image.
    """
    field, content = CUTOUTS[channel], _content_of(record, channel)
    if not isinstance(content, list):
        return None
    try:
        pixels = np.array(content, np.float32)  # of None NaN
    except (TypeError, ValueError, OverflowError):
        raise UnreadableError(f"{field} is no image: its rows differ in length or hold no numbers") from None
    side = math.isqrt(pixels.size)
    if pixels.ndim == 1 and side**2 == pixels.size:
        return pixels.reshape(side, side)
    if pixels.ndim != 2:
        raise UnreadableError(f"{field} is no image: its shape is {pixels.shape}")
    return pixels


def _content_of(record: Mapping[str, Any], channel: str) -> Any:
    held = record.get(CUTOUTS[channel])
    return held.get("stampData") if isinstance(held, dict) else held  # some surveys and brokers leave the record out
