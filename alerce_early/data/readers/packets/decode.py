"""Decode encoded records to stamps and raw columns, with the module for the survey of each packet."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import numpy as np

from alerce_early.data import text
from alerce_early.data.readers.packets import fields, rubin, ztf
from alerce_early.data.readers.packets.avro import iter_records
from alerce_early.data.readers.packets.containers import Block
from alerce_early.data.readers.stamps_file import CHANNELS
from alerce_early.data.records import Rejected, UnreadableError

MAX_REASON_CHARS = 200  # of a reason in the table of rejected rows

Work = Iterable[tuple[Block, range]]  # blocks, each with the numbers of the records to decode


# Modules with the functions `key`, `read` and `derive_columns`.
SURVEYS: dict[str, Any] = {fields.ZTF.survey: ztf, fields.RUBIN.survey: rubin}


@dataclass(frozen=True)
class Packet:
    """One decoded alert.

    Attributes
    ----------
    survey : str
        "ZTF" or "Rubin".
    key : str
        candid or diaSourceId.
    id : str
        Name of the object.
    source : str
        File and record number.
    raw : ndarray
        (F + K,) float64: columns and context of the survey's module, NaN where missing.
    stamps : ndarray
        (C, S, S) float32.
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
    """Decode records of several blocks, in order.

    Parameters
    ----------
    work : iterable of (Block, range)
        Blocks, each with the numbers of the records to decode.
    survey : str
        Survey to accept; "" accepts all.
    channels : sequence of str
        Channels to stack, in order.
    pad_edges : bool
        Whether to pad ZTF cutouts at the edge of a chip, see `ztf.read`.

    Returns
    -------
    list of Packet or Rejected
        One entry per record.
    """
    found: list[Packet | Rejected] = []
    for block, selected in work:
        for number, record in iter_records(block, selected):
            source = block.place(number)
            key = ""
            try:
                if isinstance(record, UnreadableError):
                    raise record
                held = fields.fields_for(record)
                if fields.FILE in record and held.source not in record:  # stamps without any metadata
                    held = fields.SURVEYS.get(survey, held)
                    record |= {held.source: {}}
                name = held.survey
                key = SURVEYS[name].key(record)
                if survey and name != survey:
                    raise UnreadableError(f"packet of {name}, expected {survey}; {held.usage}")
                of, raw, stamps = SURVEYS[name].read(record, channels, pad_edges)
                found.append(Packet(name, key, of, source, raw, stamps))
            except UnreadableError as error:
                reason = text.to_printable(" ".join(str(error).split()))
                found.append(Rejected(source, key, shorten(reason, MAX_REASON_CHARS, placeholder="...")))
    return found
