"""Decode the records of Avro blocks: only the fields in use, with time and memory bounded by the size of the block."""

import io
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from pyarrow import ipc

from alerce_early.data.readers.packets import exports, fields
from alerce_early.data.readers.packets.compression import inflate
from alerce_early.data.readers.packets.containers import ARROW, MAX_BLOCK_BYTES, MESSAGE, Block
from alerce_early.data.readers.packets.skip_history import ListSkipper, is_skippable_list
from alerce_early.data.records import UnreadableError
from alerce_early.errors import MissingExtraError, require_extra

with require_extra("alert packets", "alerts"):
    from fastavro import parse_schema, schemaless_reader

MAX_SKIPPED_LISTS = 8  # per packet; surveys have three, and every pattern takes time to compile


def iter_records(block: Block, selected: Sequence[int]) -> Iterator[tuple[int, dict[str, Any] | UnreadableError]]:
    """Decode some records of a block.

    Parameters
    ----------
    block : Block
        Encoded records.
    selected : sequence of int
        Numbers of the records to decode, in ascending order.

    Yields
    ------
    number : int
        Number of the record in the block.
    record : dict or UnreadableError
        The record, or why it cannot be decoded. Nothing after a damaged record can be decoded.
    """
    number = 0
    try:
        if block.damage:
            raise UnreadableError(block.damage)
        if block.codec == ARROW:
            rows = ipc.open_stream(block.data).read_all()  # `take` does not support every type
            for number in selected:
                yield number, exports.to_packet(rows.slice(number, 1).to_pylist()[0], block.place(number))
            return
        if read := {exports.JSON: exports.read_json, exports.FITS: exports.read_fits}.get(block.codec):
            yield 0, read(block.data, block.place(0))  # such a block has a single record
            return
        parts = _parts_of(block.schema)
        data = block.data
        if block.codec not in (MESSAGE, "null"):
            data = inflate(data, block.codec, MAX_BLOCK_BYTES, "Avro block")
        content = io.BytesIO(data)
        for number in range(selected[-1] + 1):
            record: dict[str, Any] = {}
            for writer, reader, skipper in parts:
                end = skipper.end(data, content.tell()) if skipper else None
                if end is not None:
                    content.seek(end)
                else:
                    found: Any = schemaless_reader(content, writer, reader)
                    record |= found
            if block.codec == MESSAGE and content.read(1):
                raise UnreadableError("message continues after its Avro record: it has another schema or is damaged")
            if number in selected:
                yield number, record
    except MissingExtraError:  # no record of this kind can be decoded
        raise
    except Exception as error:  # damaged bytes can raise almost anything
        what = "row" if block.codec == ARROW else "Avro record"
        why = UnreadableError(f"{what} cannot be decoded: {error or type(error).__name__}")
        yield from ((i, error if isinstance(error, UnreadableError) else why) for i in selected if i >= number)


@lru_cache(maxsize=64)  # parsing a schema takes longer than a packet, and a night has one schema
def _parts_of(text: bytes) -> list[tuple[Any, Any, ListSkipper | None]]:
    """Split the fields of a packet into groups, with every skippable list in a group of its own.

    Returns the writer schema, the reader schema with the fields in use, and the skipper of the list for each group.
    """
    try:
        whole = json.loads(text, object_hook=_strip_annotations)
        parsed: Any = parse_schema(whole)
        if (kind := parsed["type"] if isinstance(parsed, dict) else parsed) != "record":
            raise UnreadableError(f"Avro schema does not describe an alert packet: {kind} instead of a record")
        names = fields.fields_for([field["name"] for field in whole["fields"]]).all_names
        read = {field["name"]: field for field in _project(parsed, names)["fields"]}
        groups: list[list[Any]] = [[]]
        for field in whole["fields"]:
            if field["name"] not in read and is_skippable_list(field["type"]) and len(groups) < 2 * MAX_SKIPPED_LISTS:
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
            parts.append((writer, reader, ListSkipper(writer["fields"][0]["type"], written) if number % 2 else None))
        return parts
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError(f"Avro schema cannot be used: {error or type(error).__name__}") from None


def _strip_annotations(held: dict[str, Any]) -> dict[str, Any]:
    """Drop logical types, whose cost the sender could choose, and annotations of fastavro from part of a schema."""
    return {key: value for key, value in held.items() if key != "logicalType" and not key.startswith("__")}


def _project(schema: Any, names: frozenset[str] | None, inside: frozenset[str] = frozenset()) -> Any:
    """Return a schema reduced to the fields in `names`, also in nested records; None keeps all.

    Raises UnreadableError for a schema with which a few bytes could cost unlimited time, memory or recursion: a schema
    that contains itself, a type of zero bytes, which could repeat without end, or a list among the fields in use.
    """
    if isinstance(schema, list):  # null is allowed here: the branch number takes a byte
        return [one if one in ("null", {"type": "null"}) else _project(one, names, inside) for one in schema]
    kind = schema["type"] if isinstance(schema, dict) else schema
    if isinstance(kind, dict | list):
        return {**schema, "type": _project(kind, names, inside)}
    if kind in inside:
        raise UnreadableError("Avro schema contains itself")
    if kind == "null" or (kind == "record" and not schema["fields"]) or (kind == "fixed" and schema["size"] < 1):
        raise UnreadableError("Avro schema has a type of zero bytes")
    if kind in ("array", "map"):
        if names is not None:
            raise UnreadableError(f"Avro schema does not describe an alert packet: {kind} instead of a field")
        _project(schema["items" if kind == "array" else "values"], None, inside)
    if kind != "record":
        return schema
    kept = []
    for field in schema["fields"]:
        is_read = names is None or field["name"] in names
        found = _project(field["type"], names if is_read else None, inside | {schema["name"]})
        kept += [{**field, "type": found}] if is_read else []
    return {**schema, "fields": kept}
