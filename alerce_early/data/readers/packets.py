"""Alert packets of ZTF's schema: encoded Avro records to stamps and the raw columns beside them.

Schema 3.x and 4.x, https://github.com/ZwickyTransientFacility/ztf-avro-alert; brokers add fields and reorder them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import shorten
from types import NoneType
from typing import Any

import numpy as np

from alerce_early.data import names
from alerce_early.data.readers.avro import (
    CONTEXT,
    CUTOUTS,
    RAW,
    records_of,
)
from alerce_early.data.readers.containers import Block
from alerce_early.data.readers.coordinates import to_ecliptic, to_galactic
from alerce_early.data.readers.cutouts import image
from alerce_early.data.readers.stamps_file import COLUMNS
from alerce_early.data.records import MISSING, Rejected, UnreadableError

SIDE = 63  # pixels of a cutout that is not cut by a chip's edge
LONGEST = 200  # characters of a reason
IS_POSITIVE = {"t": 0.0, "true": 0.0, "1": 0.0, "f": 1.0, "false": 1.0, "0": 1.0}  # as the training file has it
IS_POSITIVE_AT = RAW.index("isdiffpos")
NUMBER = (float, int, NoneType)

Work = Iterable[tuple[Block, range]]  # the numbers, within each block, of the records to decode


@dataclass(frozen=True)
class Packet:
    """One alert: its candid, objectId and place, and what it holds.

    raw: (23,) float64 `RAW` and `CONTEXT`, NaN where missing. stamps: (3, 63, 63) float32.
    """

    key: str
    id: str
    source: str
    raw: np.ndarray
    stamps: np.ndarray


def decode_records(work: Work) -> list[Packet | Rejected]:
    """Decode these records of each block, in order."""
    found: list[Packet | Rejected] = []
    for block, wanted in work:
        for number, record in records_of(block, wanted):
            source = f"{block.source}#{block.first + number}" if block.first + number else block.source
            key = ""
            try:
                if isinstance(record, UnreadableError):
                    raise record
                key = _name(record, "candid", int)
                name = _name(record, "objectId", str)
                found.append(Packet(key, name, source, _row(record.get("candidate")), _stamps(record)))
            except UnreadableError as error:
                reason = names.to_printable(" ".join(str(error).split()))
                found.append(Rejected(source, key, shorten(reason, LONGEST, placeholder="...")))
    return found


def _name(record: dict[str, Any], field: str, kind: type) -> str:
    value = record.get(field)
    if not isinstance(value, kind) or value == "":
        raise UnreadableError(f"{field} is missing")
    if not names.sound(str(value)):
        raise UnreadableError(f"{field} is no name: {str(value)[:40]!a}")
    return str(value)


def _row(candidate: Any) -> np.ndarray:
    if not isinstance(candidate, dict):
        raise UnreadableError("candidate is missing")
    fields = (*RAW, *CONTEXT)
    row = [candidate.get(name) for name in fields]
    positive = row[IS_POSITIVE_AT]
    row[IS_POSITIVE_AT] = None if positive is None else IS_POSITIVE.get(str(positive).lower(), "")
    wrong = [name for name, value in zip(fields, row, strict=True) if not isinstance(value, NUMBER)]
    if wrong:
        wanted = "neither t nor f" if wrong[0] == "isdiffpos" else "no number"
        raise UnreadableError(f"{wrong[0]} is {wanted}: {str(candidate[wrong[0]])[:20]!r}")
    return np.array(row, np.float64)


def _stamps(record: dict[str, Any]) -> np.ndarray:
    planes = np.empty((len(CUTOUTS), SIDE, SIDE), np.float32)
    for plane, name in zip(planes, CUTOUTS, strict=True):
        held = record.get(name)
        content = held.get("stampData") if isinstance(held, dict) else held  # some brokers leave the record out
        if not isinstance(content, bytes) or not content:
            raise UnreadableError(f"{name} is missing")
        try:
            stamp = image(content)
        except UnreadableError as error:
            raise UnreadableError(f"{name} {error}") from None
        if stamp.shape != plane.shape:
            raise UnreadableError("stamp is {} x {}, wanted {} x {}".format(*stamp.shape, *plane.shape))
        plane[:] = stamp
    if not np.isfinite(planes).any():
        raise UnreadableError("no cutout holds data")
    return planes


def derive_columns(raw: np.ndarray) -> np.ndarray:
    """Return (n, 26) float64 `stamps_file.COLUMNS`, -999 where missing, from (n, 21) raw fields, NaN where missing."""
    by_name = dict(zip(RAW, raw.T, strict=True))
    by_name["non_detections"] = by_name["ncovhist"] - by_name["ndethist"]
    by_name["ecl_long"], by_name["ecl_lat"] = to_ecliptic(by_name["ra"], by_name["dec"])
    by_name["gal_long"], by_name["gal_lat"] = to_galactic(by_name["ra"], by_name["dec"])
    columns = np.stack([by_name[name] for name in COLUMNS], axis=1)
    return np.where(np.isfinite(columns), columns, MISSING)
