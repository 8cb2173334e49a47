"""Alert packets of ZTF's schema: encoded Avro records to stamps and the raw columns beside them.

Schema 3.x and 4.x, https://github.com/ZwickyTransientFacility/ztf-avro-alert; brokers add fields and reorder them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten
from types import NoneType
from typing import Any

import numpy as np

from alerce_early.data import names
from alerce_early.data.alerce import COLUMNS
from alerce_early.data.avro import CUTOUTS, RAW, Unreadable, decoded
from alerce_early.data.chunks import Rejected
from alerce_early.data.containers import Block
from alerce_early.data.coordinates import to_ecliptic, to_galactic
from alerce_early.data.cutouts import image
from alerce_early.data.records import MISSING

SIDE = 63  # pixels of a cutout that is not cut by a chip's edge
LONGEST = 200  # characters of a reason
PLANES = (len(CUTOUTS), SIDE, SIDE)
IS_POSITIVE = {"t": 0.0, "1": 0.0, "f": 1.0, "0": 1.0, None: None}  # as the training file has it
IS_POSITIVE_AT = RAW.index("isdiffpos")
NUMBER = (float, int, NoneType)

Work = Sequence[tuple[Block, range]]  # the numbers, within each block, of the records to decode


@dataclass(frozen=True)
class Packets:
    """Decoded packets in order.

    features: (n, 26) float64 named by `alerce.COLUMNS`, -999 where missing. keys, ids, sources: n candids, objectIds
    and places. rejected: the others.
    """

    features: np.ndarray
    keys: list[str]
    ids: list[str]
    sources: list[str]
    rejected: list[Rejected]


def decode(work: Work, planes: np.ndarray) -> Packets:
    """Decode these records of each block; their stamps are written into the first of planes (n or more, *PLANES)."""
    raw = np.empty((sum(len(wanted) for _, wanted in work), len(RAW)))
    keys: list[str] = []
    ids: list[str] = []
    sources: list[str] = []
    rejected: list[Rejected] = []
    for block, wanted in work:
        for number, record in decoded(block, wanted):
            source = f"{block.source}#{block.first + number}" if block.first + number else block.source
            row, key = len(keys), ""
            try:
                if isinstance(record, Unreadable):
                    raise record
                key = _name(record, "candid", int)
                name = _name(record, "objectId", str)
                raw[row] = _row(record.get("candidate"))
                _fill(planes[row], record)
            except Unreadable as error:
                reason = names.shown(" ".join(str(error).split()))
                rejected.append(Rejected(source, key, shorten(reason, LONGEST, placeholder="...")))
            else:
                keys.append(key)
                ids.append(name)
                sources.append(source)
    return Packets(_columns(raw[: len(keys)]), keys, ids, sources, rejected)


def _name(record: dict[str, Any], field: str, kind: type) -> str:
    value = record.get(field)
    if not isinstance(value, kind) or value == "":
        raise Unreadable(f"{field} is missing")
    if not names.sound(str(value)):
        raise Unreadable(f"{field} is no name: {str(value)[:40]!a}")
    return str(value)


def _row(candidate: Any) -> list[Any]:
    """The values of RAW, None where missing."""
    if not isinstance(candidate, dict):
        raise Unreadable("candidate is missing")
    row = [candidate.get(name) for name in RAW]
    positive = row[IS_POSITIVE_AT]
    try:
        row[IS_POSITIVE_AT] = IS_POSITIVE[positive]
    except KeyError:
        raise Unreadable(f"isdiffpos is neither t nor f: {str(positive)[:20]!r}") from None
    wrong = [name for name, value in zip(RAW, row, strict=True) if not isinstance(value, NUMBER)]
    if wrong:
        raise Unreadable(f"{wrong[0]} is no number: {str(candidate[wrong[0]])[:20]!r}")
    return row


def _fill(planes: np.ndarray, record: dict[str, Any]) -> None:
    """Write the packet's cutouts into (3, 63, 63)."""
    for plane, name in zip(planes, CUTOUTS, strict=True):
        held = record.get(name)
        zipped = held.get("stampData") if isinstance(held, dict) else None
        if not isinstance(zipped, bytes) or not zipped:
            raise Unreadable(f"{name} is missing")
        try:
            stamp = image(zipped)
        except Unreadable as error:
            raise Unreadable(f"{name} {error}") from None
        if stamp.shape != plane.shape:
            raise Unreadable("stamp is {} x {}, wanted {} x {}".format(*stamp.shape, *plane.shape))
        plane[:] = stamp
    if not np.isfinite(planes).any():
        raise Unreadable("no cutout holds data")


def _columns(raw: np.ndarray) -> np.ndarray:
    """(n, 26) float64 columns as the training file has them from (n, 21) raw fields, NaN where missing."""
    by_name = dict(zip(RAW, raw.T, strict=True))
    by_name["non_detections"] = by_name["ncovhist"] - by_name["ndethist"]
    by_name["ecl_long"], by_name["ecl_lat"] = to_ecliptic(by_name["ra"], by_name["dec"])
    by_name["gal_long"], by_name["gal_lat"] = to_galactic(by_name["ra"], by_name["dec"])
    columns = np.stack([by_name[name] for name in COLUMNS], axis=1)
    return np.where(np.isfinite(columns), columns, MISSING)
