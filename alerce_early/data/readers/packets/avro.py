"""The records of an alert packet's Avro block: only the fields that are read, and never more than the bytes hold."""

import io
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from pyarrow import ipc

from alerce_early.data.readers.packets import exports, fields
from alerce_early.data.readers.packets.compression import inflate
from alerce_early.data.readers.packets.containers import ARROW, LARGEST_BLOCK, MESSAGE, Block
from alerce_early.data.readers.packets.skip_history import Passed, may_be_passed
from alerce_early.data.records import UnreadableError
from alerce_early.errors import require_extra

with require_extra("alert packets", "alerts"):
    from fastavro import parse_schema, schemaless_reader

MOST_LISTS = 8  # of a packet that are passed; a survey has three, and an expression takes time to compile


def records_of(block: Block, wanted: Sequence[int]) -> Iterator[tuple[int, dict[str, Any] | UnreadableError]]:
    """Yield (number, record) of each wanted record; from the first that cannot be decoded on, the reason instead."""
    number = 0
    try:
        if block.damage:
            raise UnreadableError(block.damage)
        if block.codec == ARROW:
            rows = ipc.open_stream(block.data).read_all()  # not by `take`, which does not know every type
            for number in wanted:
                yield number, exports.to_packet(rows.slice(number, 1).to_pylist()[0], block.place(number))
            return
        if read := {exports.JSON: exports.read_json, exports.FITS: exports.read_fits}.get(block.codec):
            yield 0, read(block.data, block.place(0))  # such a block is of one record
            return
        parts = _parts_of(block.schema)
        data = block.data
        if block.codec not in (MESSAGE, "null"):
            data = inflate(data, block.codec, LARGEST_BLOCK, "Avro block")
        content = io.BytesIO(data)
        for number in range(wanted[-1] + 1):
            record: dict[str, Any] = {}
            for writer, reader, passed in parts:
                end = passed.end(data, content.tell()) if passed else None
                if end is not None:
                    content.seek(end)
                else:
                    found: Any = schemaless_reader(content, writer, reader)
                    record |= found
            if block.codec == MESSAGE and content.read(1):
                raise UnreadableError("Avro record ends before the message, so it is of another schema or damaged")
            if number in wanted:
                yield number, record
    except Exception as error:  # damaged bytes may raise nearly anything
        what = "row" if block.codec == ARROW else "Avro record"
        why = UnreadableError(f"{what} cannot be decoded: {error or type(error).__name__}")
        yield from ((i, error if isinstance(error, UnreadableError) else why) for i in wanted if i >= number)


@lru_cache(maxsize=64)  # parsing a schema costs more than a packet, and a night has one
def _parts_of(text: bytes) -> list[tuple[Any, Any, Passed | None]]:
    """Return a packet's fields in parts, each of the lists that nobody reads by itself.

    Of each part: its schema as it is written, the same with the fields that are read, and what passes its list.
    """
    try:
        whole = json.loads(text, object_hook=_without_extras)
        parsed: Any = parse_schema(whole)
        if (kind := parsed["type"] if isinstance(parsed, dict) else parsed) != "record":
            raise UnreadableError(f"Avro schema is not that of a packet: {kind} instead of a record")
        wanted = fields.of([field["name"] for field in whole["fields"]]).wanted
        read = {field["name"]: field for field in _project(parsed, wanted)["fields"]}
        groups: list[list[Any]] = [[]]
        for field in whole["fields"]:
            if field["name"] not in read and may_be_passed(field["type"]) and len(groups) < 2 * MOST_LISTS:
                groups += [[field], []]
            else:
                groups[-1].append(field)
        parts = []
        written: dict[str, Any] = {}
        known: dict[str, Any] = {}
        for number, group in enumerate(groups):
            schema = {**whole, "name": f"{whole['name']}_{number}", "fields": group}
            writer: Any = parse_schema(schema, written)
            kept = [read[field["name"]] for field in group if field["name"] in read]
            reader = parse_schema({**schema, "fields": kept}, known)
            parts.append((writer, reader, Passed(writer["fields"][0]["type"], written) if number % 2 else None))
        return parts
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError(f"Avro schema cannot be used: {error or type(error).__name__}") from None


def _without_extras(held: dict[str, Any]) -> dict[str, Any]:
    """Return a part of a schema without logical types, of a stranger's choice of cost, and without fastavro's own."""
    return {key: value for key, value in held.items() if key != "logicalType" and not key.startswith("__")}


def _project(schema: Any, wanted: frozenset[str] | None, inside: frozenset[str] = frozenset()) -> Any:
    """Return a schema with those fields alone that are wanted, of its record and of records in them; None: all.

    Raises UnreadableError for a schema by which a few bytes could ask for endless time, memory or depth: one that
    contains itself, a type that takes no bytes at all, of which there could be any number, or a list that is wanted.
    """
    if isinstance(schema, list):  # null is welcome here: which branch it is takes a byte
        return [one if one in ("null", {"type": "null"}) else _project(one, wanted, inside) for one in schema]
    kind = schema["type"] if isinstance(schema, dict) else schema
    if isinstance(kind, dict | list):
        return {**schema, "type": _project(kind, wanted, inside)}
    if kind in inside:
        raise UnreadableError("Avro schema contains itself")
    if kind == "null" or (kind == "record" and not schema["fields"]) or (kind == "fixed" and schema["size"] < 1):
        raise UnreadableError("Avro schema has a type of no bytes")
    if kind in ("array", "map"):
        if wanted is not None:
            raise UnreadableError(f"Avro schema is not that of a packet: {kind} instead of a field")
        _project(schema["items" if kind == "array" else "values"], None, inside)
    if kind != "record":
        return schema
    kept = []
    for field in schema["fields"]:
        is_wanted = wanted is None or field["name"] in wanted
        found = _project(field["type"], wanted if is_wanted else None, inside | {schema["name"]})
        kept += [{**field, "type": found}] if is_wanted else []
    return {**schema, "fields": kept}
