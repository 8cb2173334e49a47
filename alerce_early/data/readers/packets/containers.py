"""Avro containers, Parquet, JSON, FITS, folders and archives of them, as encoded blocks; no record is decoded here.

The format of a file is found by its first bytes, see `formats`, not by its name.
An archive is read as a stream and nothing of it is written to disk.
What is held of a file at once is bounded by the constants below, whatever lengths it declares.
"""

import io
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import unquote

import pyarrow
from pyarrow import ipc, parquet, types

from alerce_early.data import raw_files
from alerce_early.data.readers import formats
from alerce_early.data.readers.packets import exports, fields
from alerce_early.data.readers.packets.compression import DAMAGE, unzipped
from alerce_early.data.readers.packets.schemas import Schemas
from alerce_early.data.records import CUT_SHORT, LOST_ROWS, UnreadableError
from alerce_early.data.text import to_printable
from alerce_early.errors import InputError, one_line, require_extra

with require_extra("alert packets", "alerts"):
    from fastavro import parse_schema, schemaless_reader
    from fastavro.read import HEADER_SCHEMA

LARGEST_HEADER = 1 << 20  # bytes of an Avro file's schema, or of the headers before a member of an archive
LARGEST_MEMBER = 1 << 26  # bytes of one file in an archive
LARGEST_BLOCK = 1 << 26  # bytes, also unzipped; a real one is about that of one packet, 60,000
PARQUET_ROWS = 64  # rows of a Parquet file that make a block
MOST_RECORDS = 1 << 10  # of a block, since to reach one all before it are decoded
HIVE = re.compile(r"([^/=]+)=([^/]*)/")  # a column in the names of folders, which Spark and pyarrow write by its values
MESSAGE, ARROW = "message", "arrow"  # the codecs of a block that is one record and ends with it, and of rows
DEEPEST = 4  # files within files, as an .avro.gz in a .tar.gz
PARQUET_ERRORS = (ValueError, OSError, MemoryError, NotImplementedError)  # pyarrow's own are of these
ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError)
BROKEN: tuple[type[Exception], ...] = (tarfile.TarError, ValueError, RecursionError, MemoryError, *DAMAGE)

HEADER = parse_schema(HEADER_SCHEMA)  # of an Avro file
_LONGS = [{"name": name, "type": "long"} for name in ("count", "size")]
LEAD = parse_schema({"type": "record", "name": "lead", "fields": _LONGS})  # what a block begins with


@dataclass(frozen=True)
class Block:
    """Encoded records of one schema that lie together in a file, or the damage found instead of one.

    source: file, and member of an archive. first: number of the first record in its file. schema: JSON. codec: of
    Avro, `MESSAGE`, `ARROW`, or of `exports`.
    """

    source: str
    first: int = 0
    count: int = 1
    schema: bytes = b""
    codec: str = "null"
    data: bytes = b""
    damage: str = ""

    def place(self, number: int) -> str:
        """Name the place of one of its records."""
        return f"{self.source}#{self.first + number}" if self.first + number else self.source


def find(paths: Sequence[str | Path], apart: Collection[Path] = ()) -> list[Path]:
    """Return the files that these files, folders and patterns stand for, each once, but not a folder's labels.csv.

    apart: files to leave out as well. Raises InputError where a path has none.
    """
    left_out = {Path(path) / raw_files.LABELS for path in paths} | set(apart)
    found = dict.fromkeys(file for path in paths for file in raw_files.expand_path(path) if file not in left_out)
    if not found:
        raise InputError(f"{paths[0]}: holds no alert packet.")
    return list(found)


def read_blocks(found: Sequence[Path], schemas: Schemas | None = None) -> Iterator[Block]:
    """Yield all blocks of these files in order; what cannot be read is a block of one record with the damage named.

    schemas: of files that are one message without its own, see `schemas`.
    """
    for file in found:
        try:
            with file.open("rb") as content:
                yield from look_into(content, to_printable(str(file)), schemas)
        except OSError as error:
            yield Block(to_printable(str(file)), damage=f"file cannot be read: {error.strerror}")


def look_into(file: IO[bytes], source: str, schemas: Schemas | None = None, depth: int = 0) -> Iterator[Block]:
    """Yield the blocks of one open file, which can seek; depth: how many files it lies within."""
    head, is_archive = b"", source.lower().endswith(raw_files.ARCHIVES)
    try:
        head = file.read(tarfile.BLOCKSIZE)
        file.seek(0)
        form = formats.recognise(head)
        if form.key in SINGLE:
            yield from SINGLE[form.key](file, source)
        elif form.key in ARCHIVES and depth == DEEPEST:
            yield Block(source, damage=f"lies within more than {DEEPEST} archives")
        elif form.key in ARCHIVES:
            is_archive |= form.key != "gzip"
            yield from ARCHIVES[form.key](file, source, schemas, depth + 1)
        elif schemas and schemas.takes(head):
            schema, record = schemas.split(file.read(LARGEST_BLOCK))
            yield Block(source, schema=schema, codec=MESSAGE, data=record)
        elif is_archive:
            yield Block(source, damage=f"{CUT_SHORT}: it is {form.name}")
        else:
            seen = formats.describe(file)
            yield Block(source, damage=f"is {seen}" if ";" in seen else f"is {seen}{_advise(form)}")
    except UnreadableError as error:
        yield Block(source, damage=str(error))
    except BROKEN as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        yield Block(source, damage=f"{CUT_SHORT if is_archive else 'file cannot be read further'}: {reason}")


def _advise(form: formats.Format) -> str:
    """Name the formats to use instead of this one, or the command for it."""
    if form.reader == "arrays":
        return ", not an alert packet; train on it with data=alerce"
    return ", wanted an Avro container, Parquet, JSON or FITS file, or an archive of them"


class _Member(tarfile.TarInfo):
    """A member whose damaged header is an error, not the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"header cannot be read: {error}") from None


class _Feed:
    """An archive's bytes, of which tarfile may take `left` more: it trusts whatever lengths headers declare."""

    def __init__(self, file: IO[bytes]):
        self.file, self.left = file, LARGEST_HEADER

    def read(self, size: int) -> bytes:
        if self.left < 0:
            raise tarfile.ReadError("it ends too early, or a header is too large")
        data = self.file.read(size)
        self.left = self.left - len(data) if data else -1  # a member may end years after the archive
        return data


def _members(file: IO[bytes], source: str, schemas: Schemas | None, depth: int) -> Iterator[Block]:
    feed: Any = _Feed(file)
    with tarfile.open(fileobj=feed, mode="r|", tarinfo=_Member, bufsize=1 << 15) as opened:
        archive: Any = opened
        while (member := archive.next()) is not None:
            feed.left = archive.offset - member.offset_data + LARGEST_HEADER
            archive.members, archive.pax_headers = [], {}  # kept for a rewind, which a stream has not
            inside = f"{source}/{to_printable(member.name)}"
            if member.isdir() or Path(member.name).name.startswith("."):
                continue
            if not member.isreg() or member.issparse():
                yield Block(inside, damage="is a link, a sparse or a special file of the archive")
            elif member.size > LARGEST_MEMBER:
                yield Block(inside, damage=f"is larger than a member may be: {member.size:,} bytes")
            else:
                yield from look_into(io.BytesIO(archive.extractfile(member).read()), inside, schemas, depth)


def _zip_members(file: IO[bytes], source: str, schemas: Schemas | None, depth: int) -> Iterator[Block]:
    """Yield the blocks of a zip archive, member by member; one that declares more than it may hold is refused."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            most = raw_files.most_bytes(file.seek(0, io.SEEK_END))
            if (declared := sum(member.file_size for member in members)) > most:
                raise ValueError(f"its members declare {declared:,} bytes, more than the {most:,} of one of its size")
            for member in members:
                inside = f"{source}/{to_printable(member.filename)}"
                if Path(member.filename).name.startswith("."):
                    continue
                if stat.S_ISLNK(member.external_attr >> 16):
                    yield Block(inside, damage="is a link, a sparse or a special file of the archive")
                elif member.flag_bits & 1:
                    yield Block(inside, damage="is encrypted")
                elif member.file_size > LARGEST_MEMBER:
                    yield Block(inside, damage=f"is larger than a member may be: {member.file_size:,} bytes")
                else:
                    try:
                        with archive.open(member) as opened:
                            content = opened.read(LARGEST_MEMBER + 1)
                    except (*ZIP_ERRORS, *BROKEN) as error:  # type: ignore[misc]  # the others may be whole
                        yield Block(inside, damage=f"file cannot be read: {one_line(error)}")
                        continue
                    yield from look_into(io.BytesIO(content), inside, schemas, depth)
    except ZIP_ERRORS as error:
        raise ValueError(str(error)) from None


def _json(file: IO[bytes], source: str) -> Iterator[Block]:
    """Yield a block for each record of JSON; where it is damaged, the last has the damage named."""
    number = 0
    try:
        records = (row for record in exports.split_json(file) for row in exports.find_rows(record))
        for number, record in enumerate(records, 1):
            yield Block(source, number - 1, codec=exports.JSON, data=record)
        if not number:
            yield Block(source, damage="JSON holds no record")
    except UnreadableError as error:
        yield Block(source, number, damage=str(error))


def _fits(file: IO[bytes], source: str) -> Iterator[Block]:
    content = file.read(exports.LARGEST + 1)
    if len(content) > exports.LARGEST:
        raise UnreadableError(f"FITS file is larger than {exports.LARGEST:,} bytes, so it is not one of stamps")
    yield Block(source, codec=exports.FITS, data=content)


def _container(file: Any, source: str) -> Iterator[Block]:
    """Yield the blocks of one Avro file; where it is damaged, the last is of one record with the damage named."""
    number = 0
    file = io.BufferedReader(file) if isinstance(file, io.BytesIO) else file
    try:
        head = io.BytesIO(file.read(LARGEST_HEADER))
        header: Any = schemaless_reader(head, HEADER, None)
        file.seek(head.tell())
        schema, codec = header["meta"].get("avro.schema", b""), header["meta"].get("avro.codec", b"null")
        while file.peek(1):
            lead: Any = schemaless_reader(file, LEAD, None)
            count, size = lead["count"], lead["size"]
            if not (0 <= size <= LARGEST_BLOCK and 0 < count <= min(MOST_RECORDS, max(1, size))):
                raise ValueError(f"a block declares {count:,} records in {size:,} bytes")
            data, sync = file.read(size), file.read(len(header["sync"]))
            if len(sync) < len(header["sync"]):
                raise EOFError
            if sync != header["sync"]:
                raise ValueError("a block does not end where it says")
            yield Block(source, number, count, schema, codec.decode("latin1"), data)
            number += count
    except EOFError:
        yield Block(source, number, damage="Avro file is cut short")
    except (ValueError, IndexError, MemoryError) as error:
        yield Block(source, number, damage=f"Avro file is damaged: {error}")


def pack(rows: pyarrow.RecordBatch | pyarrow.Table, source: str, first: int = 0) -> Iterator[Block]:
    """Yield rows that are packets as blocks, a few each. Raises ValueError as of `_find_columns`."""
    _, names = _find_columns(rows.schema)
    for start in range(0, len(rows), PARQUET_ROWS):
        yield _block(rows.select(names).slice(start, PARQUET_ROWS), source, first + start)


def _find_columns(schema: pyarrow.Schema, elsewhere: Collection[str] = ()) -> tuple[fields.Fields, list[str]]:
    """Return the fields of a table of packets and the columns that are read, in packets' layout or flat as Fink's.

    elsewhere: columns that the names of its folders give. Raises ValueError where a column is lacking or of a type that
    cannot be read.
    """
    plain = {formats.plain_name(name): name for name in schema.names}
    flat = not {fields.ZTF.source, fields.RUBIN.source} & plain.keys() and bool(
        {"candid", "diaSourceId"} & plain.keys()
    )
    wanted = fields.RUBIN if flat and "diaSourceId" in plain else fields.of(plain)
    ids = wanted.context[:1] if flat and wanted is fields.RUBIN else wanted.names
    needed = [*ids, *([] if flat else [wanted.source]), *fields.CUTOUTS.values()]
    if lacking := [name for name in needed if name not in plain and name not in elsewhere]:
        seen = "alerts" if any(map(formats.CUTOUT.search, schema.names)) else "a table without stamps"
        raise ValueError(f"{seen}: no column {', '.join(lacking)}; columns {', '.join(schema.names)[:120]}")
    for name in set(needed) & plain.keys():
        kind = schema.field(plain[name]).type
        if name in ids and (types.is_floating(kind) or types.is_nested(kind)):  # floats have lost digits
            raise ValueError(f"column {plain[name]} is of type {kind}, expected whole numbers or text")
        if name == wanted.source and not (types.is_struct(kind) or types.is_null(kind)):
            raise ValueError(f"column {plain[name]} is of type {kind}, expected a struct")
    used = wanted.wanted if flat else {*needed, wanted.object}
    return wanted, [column for name, column in plain.items() if name in used]


def _block(rows: pyarrow.RecordBatch | pyarrow.Table, source: str, first: int) -> Block:
    sink = pyarrow.BufferOutputStream()
    with ipc.new_stream(sink, rows.schema) as out:
        out.write(rows)
    return Block(source, first, len(rows), codec=ARROW, data=sink.getvalue().to_pybytes())


def _parquet(file: Any, source: str) -> Iterator[Block]:
    """Yield the rows of a Parquet file of packets, as brokers export them, a few at a time.

    Of a damaged row group the rest of its rows follow with the damage named: as many as the footer says, and no more
    than the row group has bytes.
    """
    try:
        with parquet.ParquetFile(file) as held:
            present = held.schema_arrow.names
            folders = {name: unquote(value) for name, value in HIVE.findall(source) if name in fields.ZTF.names}
            wanted, columns = _find_columns(held.schema_arrow, folders)
            records = {wanted.source: (*wanted.columns, *wanted.context), wanted.object: wanted.of_object}
            names = [f"{column}.{part}" for column in columns for part in records.get(column, ())]
            names += [column for column in columns if column not in records]
            end = 0
            for group in range(held.num_row_groups):
                declared = held.metadata.row_group(group)
                number, end = end, end + declared.num_rows
                try:
                    for rows in held.iter_batches(PARQUET_ROWS, row_groups=[group], columns=names):
                        if rows.nbytes > LARGEST_BLOCK:
                            raise ValueError(f"{len(rows)} rows take {rows.nbytes:,} bytes")
                        for name in folders.keys() - set(present):
                            rows = rows.append_column(name, pyarrow.array([folders[name]] * len(rows)))
                        yield _block(rows, source, number)
                        number += len(rows)
                except PARQUET_ERRORS as error:
                    damage = f"{LOST_ROWS} {group + 1} of {held.num_row_groups}: {one_line(error)}"
                    last = min(end, number + max(1, declared.total_byte_size))
                    for first in range(number, last, MOST_RECORDS):
                        yield Block(source, first, min(MOST_RECORDS, last - first), damage=damage)
    except PARQUET_ERRORS as error:
        yield Block(source, damage=f"Parquet file cannot be read as alerts: {one_line(error)}")


SINGLE: dict[str, Callable[[Any, str], Iterator[Block]]] = {  # by the key of the format, what reads a file
    "avro": _container,
    "parquet": _parquet,
    exports.JSON: _json,
    exports.FITS: _fits,
}
ARCHIVES: dict[str, Callable[[Any, str, Schemas | None, int], Iterator[Block]]] = {
    "gzip": lambda file, source, schemas, depth: look_into(unzipped(file), source, schemas, depth),
    "tar": _members,
    "zip": _zip_members,
}
