"""Alert packets of ZTF's schema: encoded Avro records to stamps and the raw columns beside them.

Schema 3.x and 4.x, https://github.com/ZwickyTransientFacility/ztf-avro-alert; brokers add fields and reorder them.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import NoneType
from typing import Any

import numpy as np

from alerce_early.data.alerce import COLUMNS
from alerce_early.data.chunks import Rejected
from alerce_early.data.containers import LARGEST_BLOCK, Block
from alerce_early.data.coordinates import to_ecliptic, to_galactic
from alerce_early.data.cutouts import Unreadable, image
from alerce_early.data.features import MISSING
from alerce_early.data.inflate import BARE, NotWhole, inflate
from alerce_early.errors import InputError

try:
    from fastavro import parse_schema, schemaless_reader
except ImportError:
    raise InputError("alert packets need fastavro: pip install 'alerce-early[alerts]'.") from None

SIDE = 63  # pixels of a cutout that is not cut by a chip's edge
CUTOUTS = ("cutoutScience", "cutoutTemplate", "cutoutDifference")
DERIVED = ("ecl_lat", "ecl_long", "gal_lat", "gal_long", "non_detections")
RAW = tuple(name for name in COLUMNS if name not in DERIVED)  # fields of `candidate`
IS_POSITIVE = {"t": 0.0, "1": 0.0, "f": 1.0, "0": 1.0, None: None}  # as the training file has it
IS_POSITIVE_AT = RAW.index("isdiffpos")
NUMBER = (float, int, NoneType)
WANTED = {"objectId", "candid", "candidate", *CUTOUTS, "stampData", *RAW}
PRIMITIVE = {"null", "boolean", "int", "long", "float", "double", "string", "bytes"}


@dataclass(frozen=True)
class Packets:
    """Decoded packets in order.

    images: (n, 63, 63, 3) float32, NaN kept. features: (n, 26) float64 named by `alerce.COLUMNS`, -999 where
    missing. keys, ids, sources: n candids, objectIds and places. rejected: the others.
    """

    images: np.ndarray
    features: np.ndarray
    keys: list[str]
    ids: list[str]
    sources: list[str]
    rejected: list[Rejected]


def decode(work: Sequence[tuple[Block, range]]) -> Packets:
    """Decode these records (numbers within the block) of each block."""
    n = sum(len(wanted) for _, wanted in work)
    planes = np.empty((n, len(CUTOUTS), SIDE, SIDE), np.float32)
    raw = np.empty((n, len(RAW)))
    keys: list[str] = []
    ids: list[str] = []
    sources: list[str] = []
    rejected: list[Rejected] = []
    for block, wanted in work:
        for number, record in _records(block, wanted):
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
                rejected.append(Rejected(source, key, " ".join(str(error).split())))
            else:
                keys.append(key)
                ids.append(name)
                sources.append(source)
    kept = len(keys)
    # planes lie one after the other, as a network wants them; the shape is that of a stamps file
    return Packets(np.moveaxis(planes[:kept], 1, 3), _columns(raw[:kept]), keys, ids, sources, rejected)


def _records(block: Block, wanted: Sequence[int]) -> Iterator[tuple[int, dict[str, Any] | Unreadable]]:
    """(number, record) of each wanted record; from the first that cannot be decoded on, the reason instead."""
    number = 0
    last = max(wanted) + 1
    try:
        if block.damage:
            raise Unreadable(block.damage)
        content, (writer, reader) = io.BytesIO(_plain(block)), _schemas(block.schema)
        while number < last:
            record: Any = schemaless_reader(content, writer, reader)
            if number in wanted:
                yield number, record
            number += 1
    except Unreadable as error:
        yield from ((i, error) for i in wanted if i >= number)
    except Exception as error:  # damaged bytes may raise nearly anything
        why = Unreadable(f"Avro record cannot be decoded: {error or type(error).__name__}")
        yield from ((i, why) for i in wanted if i >= number)


def _plain(block: Block) -> bytes:
    if block.codec == "null":
        return block.data
    if block.codec != "deflate":
        raise Unreadable(f"Avro codec {block.codec!r}, wanted null or deflate")
    try:
        return inflate(block.data, BARE, LARGEST_BLOCK)
    except NotWhole as error:
        raise Unreadable(f"Avro block is {error}") from None


@lru_cache(maxsize=64)  # parsing a schema costs more than a packet, and a night has one
def _schemas(text: bytes) -> tuple[Any, Any]:
    """The schema of the writer, and the same without what nobody needs, which then is skipped."""
    try:
        # a logical type turns numbers into dates and decimals, at a stranger's choice of cost
        schema = json.loads(text, object_hook=lambda held: {k: v for k, v in held.items() if k != "logicalType"})
        writer = parse_schema(schema)
        _check(writer, frozenset())
        reader = parse_schema(_reduced(schema))
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(f"Avro schema cannot be used: {error or type(error).__name__}") from None
    return writer, reader


def _check(schema: Any, inside: frozenset[str]) -> None:
    """Raise Unreadable for a schema by which a few bytes could ask for endless time, memory or depth.

    That is one that contains itself, or a type that takes no bytes at all, of which there could be any number.
    """
    if isinstance(schema, list):
        for branch in schema:  # null is welcome here: which branch it is takes a byte
            if branch not in ("null", {"type": "null"}):
                _check(branch, inside)
        return
    kind = schema["type"] if isinstance(schema, dict) else schema
    if isinstance(kind, dict | list):
        _check(kind, inside)
    elif kind in inside:
        raise Unreadable("Avro schema contains itself")
    elif kind == "null" or (kind == "record" and not schema["fields"]) or (kind == "fixed" and schema["size"] < 1):
        raise Unreadable("Avro schema has a type of no bytes")
    elif kind == "record":
        for field in schema["fields"]:
            _check(field["type"], inside | {schema["name"]})
    elif kind in ("array", "map"):
        _check(schema["items" if kind == "array" else "values"], inside)


def _reduced(schema: Any, depth: int = 0) -> Any:
    """A schema with those fields alone that are read: a packet's, and in them those of records, which hold no more.

    Raises Unreadable where such a field is of a kind it cannot be, e.g. a list.
    """
    if isinstance(schema, list):
        return [_reduced(branch, depth) for branch in schema]
    kind = schema["type"] if isinstance(schema, dict) else schema
    if kind == "record" and depth < 2:
        fields = [field for field in schema["fields"] if field["name"] in WANTED]
        return {**schema, "fields": [{**field, "type": _reduced(field["type"], depth + 1)} for field in fields]}
    if isinstance(kind, dict | list):
        return {**schema, "type": _reduced(kind, depth)}
    # a name in place of a record: that of one seen before, the first cutout's
    if kind in PRIMITIVE or (depth == 1 and isinstance(schema, str)):
        return schema
    raise Unreadable(f"Avro schema is not that of a packet: {kind} instead of a {('record', 'field', 'value')[depth]}")


def _name(record: dict[str, Any], field: str, kind: type) -> str:
    value = record.get(field)
    if not isinstance(value, kind) or value == "":
        raise Unreadable(f"{field} is missing")
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
        raise Unreadable(f"isdiffpos is {str(positive)[:20]!r}, wanted t or f") from None
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
            raise Unreadable(f"{name}: {error}") from None
        if stamp.shape != plane.shape:
            raise Unreadable("stamp is {} x {}, wanted {} x {}".format(*stamp.shape, *plane.shape))
        plane[:] = stamp


def _columns(raw: np.ndarray) -> np.ndarray:
    """(n, 26) float64 columns as the training file has them from (n, 21) raw fields, NaN where missing."""
    by_name = dict(zip(RAW, raw.T, strict=True))
    by_name["non_detections"] = by_name["ncovhist"] - by_name["ndethist"]
    by_name["ecl_long"], by_name["ecl_lat"] = to_ecliptic(by_name["ra"], by_name["dec"])
    by_name["gal_long"], by_name["gal_lat"] = to_galactic(by_name["ra"], by_name["dec"])
    columns = np.stack([by_name[name] for name in COLUMNS], axis=1)
    return np.where(np.isfinite(columns), columns, MISSING)
