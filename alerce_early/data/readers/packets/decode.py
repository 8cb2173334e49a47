"""Alert packets: encoded Avro records to stamps and the raw columns beside them, by what reads each survey's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import numpy as np

from alerce_early.data import text
from alerce_early.data.readers.packets import fields, rubin, ztf
from alerce_early.data.readers.packets.avro import records_of
from alerce_early.data.readers.packets.containers import Block
from alerce_early.data.readers.stamps_file import CHANNELS
from alerce_early.data.records import Rejected, UnreadableError

LONGEST = 200  # characters of a reason

Work = Iterable[tuple[Block, range]]  # the numbers, within each block, of the records to decode


SURVEYS: dict[str, Any] = {fields.ZTF.survey: ztf, fields.RUBIN.survey: rubin}  # what reads the packets of each


@dataclass(frozen=True)
class Packet:
    """One alert: its survey, what names it, its object and place, and what it holds.

    raw: (F + K,) float64, NaN where missing. stamps: (C, S, S) float32. Both as of `read` of the survey's module.
    """

    survey: str
    key: str
    id: str
    source: str
    raw: np.ndarray
    stamps: np.ndarray


def decode_records(
    work: Work, survey: str = "", channels: Sequence[str] = CHANNELS, pad_edges: bool = False
) -> list[Packet | Rejected]:
    """Decode these records of each block, in order.

    survey: the one whose packets are wanted; "": any. pad_edges: as of `ztf.read`.
    """
    found: list[Packet | Rejected] = []
    for block, wanted in work:
        for number, record in records_of(block, wanted):
            source = block.place(number)
            key = ""
            try:
                if isinstance(record, UnreadableError):
                    raise record
                held = fields.of(record)
                if fields.FILE in record and held.source not in record:  # stamps of which nothing else is known
                    held = fields.SURVEYS.get(survey, held)
                    record |= {held.source: {}}
                name = held.survey
                key = SURVEYS[name].key(record)
                if survey and name != survey:
                    raise UnreadableError(f"packet of {name}, wanted {survey}; {held.takers}")
                of, raw, stamps = SURVEYS[name].read(record, channels, pad_edges)
                found.append(Packet(name, key, of, source, raw, stamps))
            except UnreadableError as error:
                reason = text.to_printable(" ".join(str(error).split()))
                found.append(Rejected(source, key, shorten(reason, LONGEST, placeholder="...")))
    return found
