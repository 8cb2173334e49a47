"""The records of an alert packet's Avro block: only the fields that are read, and never more than the bytes hold."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pyarrow import ipc

from alerce_early.data.readers.packets import fields
from alerce_early.data.readers.packets.compression import NotWholeError, inflate
from alerce_early.data.readers.packets.containers import LARGEST_BLOCK, MESSAGE, Block
from alerce_early.data.readers.packets.skip_history import Passed, may_be_passed
from alerce_early.data.records import UnreadableError
from alerce_early.errors import require_extra

with require_extra("alert packets", "alerts"):
    from fastavro import parse_schema, schemaless_reader

MOST_LISTS = 8  # of a packet that are passed; a survey has three, and an expression takes time to compile
PRIMITIVE = {"null", "boolean", "int", "long", "float", "double", "string", "bytes"}


def records_of(block: Block, wanted: Sequence[int]) -> Iterator[tuple[int, dict[str, Any] | UnreadableError]]:
    """Yield (number, record) of each wanted record; from the first that cannot be decoded on, the reason instead."""
    number = 0
    try:
        if block.damage:
            raise UnreadableError(block.damage)
        if block.codec == "arrow":
            rows = ipc.open_stream(block.data).read_all()  # not by `take`, which does not know every type
            yield from ((i, rows.slice(i, 1).to_pylist()[0]) for i in wanted)
            return
        layout = _layout_of(block.schema)
        data = inflate(block.data, "null" if block.codec == MESSAGE else block.codec, LARGEST_BLOCK)
        content = io.BytesIO(data)
        while number <= wanted[-1]:
            record: dict[str, Any] = {}
            for part in layout:
                end = part.passed.end(data, content.tell()) if part.passed else None
                if end is not None:
                    content.seek(end)
                else:
                    found: Any = schemaless_reader(content, part.writer, part.reader)
                    record |= found
            if block.codec == MESSAGE and content.read(1):
                raise UnreadableError("Avro record ends before the message, so it is of another schema or damaged")
            if number in wanted:
                yield number, record
            number += 1
    except Exception as error:  # damaged bytes may raise nearly anything
        why: Any = error
        if isinstance(error, NotWholeError):
            why = UnreadableError(f"Avro block is {error}")
        elif block.codec == "arrow":
            why = UnreadableError(f"row cannot be decoded: {error or type(error).__name__}")
        elif not isinstance(error, UnreadableError):
            why = UnreadableError(f"Avro record cannot be decoded: {error or type(error).__name__}")
        yield from ((i, why) for i in wanted if i >= number)


@dataclass(frozen=True)
class Part:
    """Consecutive fields of a packet: as they are written, as they are read, and how they are passed if nobody does."""

    writer: Any
    reader: Any
    passed: Passed | None = None


@lru_cache(maxsize=64)  # parsing a schema costs more than a packet, and a night has one
def _layout_of(text: bytes) -> list[Part]:
    """Return the parts of a packet of this schema."""
    try:
        whole = json.loads(text, object_hook=_without_extras)
        _check(parse_schema(whole), frozenset())
        if not isinstance(whole, dict) or whole["type"] != "record":
            _reduced(whole, frozenset())  # says why not
        return _split(whole, fields.of([field["name"] for field in whole["fields"]]).wanted)
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError(f"Avro schema cannot be used: {error or type(error).__name__}") from None


def _without_extras(held: dict[str, Any]) -> dict[str, Any]:
    """Return a part of a schema without what is not the survey's to say.

    A logical type turns numbers into dates and decimals, at a stranger's choice of cost; what begins with "__" is
    fastavro's own, and says that a schema was looked at already.
    """
    return {key: value for key, value in held.items() if key != "logicalType" and not key.startswith("__")}


def _split(whole: dict[str, Any], wanted: frozenset[str]) -> list[Part]:
    """Return a packet's fields in parts, each of the lists that nobody wants by itself."""
    written: dict[str, Any] = {}
    read: dict[str, Any] = {}
    groups: list[list[Any]] = [[]]
    for field in whole["fields"]:
        if field["name"] not in wanted and may_be_passed(field["type"]) and len(groups) < 2 * MOST_LISTS:
            groups += [[field], []]
        else:
            groups[-1].append(field)
    parts = []
    for number, group in enumerate(groups):
        schema = {**whole, "name": f"{whole['name']}_{number}", "fields": group}
        writer: Any = parse_schema(schema, written)
        reader = parse_schema(_reduced(schema, wanted), read)
        passed = Passed.of(writer["fields"][0]["type"], written) if number % 2 else None
        parts.append(Part(writer, reader, passed))
    return parts


def _check(schema: Any, inside: frozenset[str]) -> None:
    """Raise UnreadableError for a schema by which a few bytes could ask for endless time, memory or depth.

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
        raise UnreadableError("Avro schema contains itself")
    elif kind == "null" or (kind == "record" and not schema["fields"]) or (kind == "fixed" and schema["size"] < 1):
        raise UnreadableError("Avro schema has a type of no bytes")
    elif kind == "record":
        for field in schema["fields"]:
            _check(field["type"], inside | {schema["name"]})
    elif kind in ("array", "map"):
        _check(schema["items" if kind == "array" else "values"], inside)


def _reduced(schema: Any, wanted: frozenset[str], depth: int = 0) -> Any:
    """Return a schema with those fields alone that are wanted: a packet's, and of records within it theirs.

    Raises UnreadableError where such a field is of a kind it cannot be, e.g. a list.
    """
    if isinstance(schema, list):
        return [_reduced(branch, wanted, depth) for branch in schema]
    kind = schema["type"] if isinstance(schema, dict) else schema
    if kind == "record" and depth < 2:
        kept = [field for field in schema["fields"] if field["name"] in wanted]
        return {**schema, "fields": [{**field, "type": _reduced(field["type"], wanted, depth + 1)} for field in kept]}
    if isinstance(kind, dict | list):
        return {**schema, "type": _reduced(kind, wanted, depth)}
    # a name in place of a record: that of one seen before, the first cutout's
    if (depth and kind in PRIMITIVE) or (depth == 1 and isinstance(schema, str)):
        return schema
    raise UnreadableError(
        f"Avro schema is not that of a packet: {kind} instead of a {('record', 'field', 'value')[depth]}"
    )
