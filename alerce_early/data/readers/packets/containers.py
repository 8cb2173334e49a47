"""Read Avro containers, Parquet, JSON, FITS, and folders and archives of them as encoded blocks.

Records are decoded elsewhere, see `decode`. The first bytes of a file determine its format, see `formats`, not its
name. Archives are read as streams, and nothing is unpacked to disk. The constants below limit how much of a file is in
memory at once, even if it declares larger sizes.
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
from alerce_early.data.readers.packets.compression import DAMAGE, open_gzip
from alerce_early.data.readers.packets.schemas import Schemas
from alerce_early.data.records import CUT_SHORT, LOST_ROWS, UnreadableError
from alerce_early.data.text import to_printable
from alerce_early.errors import InputError, one_line, require_extra

with require_extra("alert packets", "alerts"):
    from fastavro import parse_schema, schemaless_reader
    from fastavro.read import HEADER_SCHEMA

MAX_HEADER_BYTES = 1 << 20  # schema of an Avro file, or headers before a member of an archive
MAX_MEMBER_BYTES = 1 << 26  # one file in an archive
MAX_BLOCK_BYTES = 1 << 26  # compressed and decompressed; a real block is one packet of about 60,000
N_PARQUET_ROWS = 64  # rows of a Parquet file per block
MAX_BLOCK_RECORDS = 1 << 10  # a record is reached by decoding all before it in its block
HIVE = re.compile(r"([^/=]+)=([^/]*)/")  # column=value in a folder name of a partitioned data set
MESSAGE, ARROW = "message", "arrow"  # codecs of a block with one bare record, and of table rows
MAX_DEPTH = 4  # nested files, as an .avro.gz in a .tar.gz
PARQUET_ERRORS = (ValueError, OSError, MemoryError, NotImplementedError)  # include pyarrow's own errors
ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError)
READ_ERRORS: tuple[type[Exception], ...] = (tarfile.TarError, ValueError, RecursionError, MemoryError, *DAMAGE)

HEADER = parse_schema(HEADER_SCHEMA)  # start of an Avro file
_LONGS = [{"name": name, "type": "long"} for name in ("count", "size")]
BLOCK_START = parse_schema({"type": "record", "name": "start", "fields": _LONGS})  # start of an Avro block


@dataclass(frozen=True)
class Block:
    """Consecutive encoded records of a file, or the damage found in their place.

    Attributes
    ----------
    source : str
        File, and member of an archive.
    first : int
        Number of the first record in its file.
    count : int
        Number of records.
    schema : bytes
        Avro schema as JSON.
    codec : str
        A codec of Avro, `MESSAGE`, `ARROW`, `exports.JSON` or `exports.FITS`.
    data : bytes
        The encoded records.
    damage : str
        Why the records cannot be read, or "".
    """

    source: str
    first: int = 0
    count: int = 1
    schema: bytes = b""
    codec: str = "null"
    data: bytes = b""
    damage: str = ""

    def place(self, number: int) -> str:
        """Return the source and number of one of its records."""
        return f"{self.source}#{self.first + number}" if self.first + number else self.source


def find(paths: Sequence[str | Path], apart: Collection[Path] = ()) -> list[Path]:
    """Expand files, folders and patterns to files, without duplicates and without the labels.csv of a folder.

    Parameters
    ----------
    paths : sequence of path
        Files, folders and patterns.
    apart : collection of Path
        Further files to exclude.

    Returns
    -------
    list of Path
        The files, in order.

    Raises
    ------
    InputError
        If a path has no file.
    """
    left_out = {Path(path) / raw_files.LABELS for path in paths} | set(apart)
    found = dict.fromkeys(file for path in paths for file in raw_files.expand_path(path) if file not in left_out)
    if not found:
        raise InputError(f"{paths[0]}: has no alert packets.")
    return list(found)


def read_blocks(found: Sequence[Path], schemas: Schemas | None = None) -> Iterator[Block]:
    """Read all blocks of some files, in order.

    Parameters
    ----------
    found : sequence of Path
        The files.
    schemas : Schemas, optional
        Schemas of files that are a single schemaless message.

    Yields
    ------
    Block
        Records, or one record with the damage of a part that cannot be read.
    """
    for file in found:
        try:
            with file.open("rb") as content:
                yield from iter_blocks(content, to_printable(str(file)), schemas)
        except OSError as error:
            yield Block(to_printable(str(file)), damage=f"file cannot be read: {error.strerror}")


def iter_blocks(file: IO[bytes], source: str, schemas: Schemas | None = None, depth: int = 0) -> Iterator[Block]:
    """Read the blocks of one open file.

    Parameters
    ----------
    file : binary file
        A seekable file.
    source : str
        Its name in messages.
    schemas : Schemas, optional
        Schemas of files that are a single schemaless message.
    depth : int
        Number of archives and gzip files around this one.

    Yields
    ------
    Block
        Records, or one record with the damage of a part that cannot be read.
    """
    head, is_archive = b"", source.lower().endswith(raw_files.ARCHIVES)
    try:
        head = file.read(tarfile.BLOCKSIZE)
        file.seek(0)
        form = formats.recognise(head)
        if form.key in FILE_READERS:
            yield from FILE_READERS[form.key](file, source)
        elif form.key in ARCHIVE_READERS and depth == MAX_DEPTH:
            yield Block(source, damage=f"is nested in more than {MAX_DEPTH} archives")
        elif form.key in ARCHIVE_READERS:
            is_archive |= form.key != "gzip"
            yield from ARCHIVE_READERS[form.key](file, source, schemas, depth + 1)
        elif schemas and schemas.accepts(head):
            schema, record = schemas.split(file.read(MAX_BLOCK_BYTES))
            yield Block(source, schema=schema, codec=MESSAGE, data=record)
        elif is_archive:
            yield Block(source, damage=f"{CUT_SHORT}: it is {form.name}")
        else:
            seen = formats.describe(file)
            yield Block(source, damage=f"is {seen}" if ";" in seen else f"is {seen}{_advise(form)}")
    except UnreadableError as error:
        yield Block(source, damage=str(error))
    except READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        yield Block(source, damage=f"{CUT_SHORT if is_archive else 'file cannot be read further'}: {reason}")


def _advise(form: formats.Format) -> str:
    """Return the advice for a file of this format: the option that reads it, or the formats to use instead."""
    if form.reader == "arrays":
        return ", not an alert packet; train on it with data=alerce"
    return ", expected an Avro container, Parquet, JSON or FITS file, or an archive of them"


class _Member(tarfile.TarInfo):
    """Tar member that raises an error for a damaged header, which tarfile takes for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"header cannot be read: {error}") from None


class _Feed:
    """Archive that yields at most `left` more bytes, because tarfile trusts the sizes in headers."""

    def __init__(self, file: IO[bytes]):
        self.file, self.left = file, MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; raise ReadError beyond the limit."""
        if self.left < 0:
            raise tarfile.ReadError("it is truncated, or a header is too large")
        data = self.file.read(size)
        # without data the archive has ended, however large a size its header declares
        self.left = self.left - len(data) if data else -1
        return data


def _members(file: IO[bytes], source: str, schemas: Schemas | None, depth: int) -> Iterator[Block]:
    """Yield the blocks of a tar archive, member by member."""
    feed: Any = _Feed(file)
    with tarfile.open(fileobj=feed, mode="r|", tarinfo=_Member, bufsize=1 << 15) as opened:
        archive: Any = opened
        while (member := archive.next()) is not None:
            feed.left = archive.offset - member.offset_data + MAX_HEADER_BYTES
            archive.members, archive.pax_headers = [], {}  # would grow with every member, and only a rewind needs them
            inside = f"{source}/{to_printable(member.name)}"
            if member.isdir() or Path(member.name).name.startswith("."):
                continue
            if not member.isreg() or member.issparse():
                yield Block(inside, damage="is a link, a sparse or a special file of the archive")
            elif member.size > MAX_MEMBER_BYTES:
                yield Block(inside, damage=f"exceeds the limit for a file in an archive: {member.size:,} bytes")
            else:
                yield from iter_blocks(io.BytesIO(archive.extractfile(member).read()), inside, schemas, depth)


def _zip_members(file: IO[bytes], source: str, schemas: Schemas | None, depth: int) -> Iterator[Block]:
    """Yield the blocks of a zip archive, member by member; refuse an archive that declares an implausible size."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            most = raw_files.most_bytes(file.seek(0, io.SEEK_END))
            if (declared := sum(member.file_size for member in members)) > most:
                raise ValueError(f"its members declare {declared:,} bytes, more than the {most:,} allowed for its size")
            for member in members:
                inside = f"{source}/{to_printable(member.filename)}"
                if Path(member.filename).name.startswith("."):
                    continue
                if stat.S_ISLNK(member.external_attr >> 16):
                    yield Block(inside, damage="is a link, a sparse or a special file of the archive")
                elif member.flag_bits & 1:
                    yield Block(inside, damage="is encrypted")
                elif member.file_size > MAX_MEMBER_BYTES:
                    yield Block(
                        inside, damage=f"exceeds the limit for a file in an archive: {member.file_size:,} bytes"
                    )
                else:
                    try:
                        with archive.open(member) as opened:
                            content = opened.read(MAX_MEMBER_BYTES + 1)
                    except (*ZIP_ERRORS, *READ_ERRORS) as error:  # type: ignore[misc]  # other members may be intact
                        yield Block(inside, damage=f"file cannot be read: {one_line(error)}")
                        continue
                    yield from iter_blocks(io.BytesIO(content), inside, schemas, depth)
    except ZIP_ERRORS as error:
        raise ValueError(str(error)) from None


def _json(file: IO[bytes], source: str) -> Iterator[Block]:
    """Yield a block per record of a JSON file; if it is damaged, the last block names the damage."""
    number = 0
    try:
        records = (row for record in exports.split_json(file) for row in exports.find_rows(record))
        for number, record in enumerate(records, 1):
            yield Block(source, number - 1, codec=exports.JSON, data=record)
        if not number:
            yield Block(source, damage="JSON has no records")
    except UnreadableError as error:
        yield Block(source, number, damage=str(error))


def _fits(file: IO[bytes], source: str) -> Iterator[Block]:
    """Yield a FITS file of stamps as one block."""
    content = file.read(exports.MAX_RECORD_BYTES + 1)
    if len(content) > exports.MAX_RECORD_BYTES:
        raise UnreadableError(f"FITS file is larger than {exports.MAX_RECORD_BYTES:,} bytes, the limit for stamps")
    yield Block(source, codec=exports.FITS, data=content)


def _container(file: Any, source: str) -> Iterator[Block]:
    """Yield the blocks of an Avro file; if it is damaged, the last block names the damage."""
    number = 0
    file = io.BufferedReader(file) if isinstance(file, io.BytesIO) else file
    try:
        head = io.BytesIO(file.read(MAX_HEADER_BYTES))
        header: Any = schemaless_reader(head, HEADER, None)
        file.seek(head.tell())
        schema, codec = header["meta"].get("avro.schema", b""), header["meta"].get("avro.codec", b"null")
        while file.peek(1):
            start: Any = schemaless_reader(file, BLOCK_START, None)
            count, size = start["count"], start["size"]
            if not (0 <= size <= MAX_BLOCK_BYTES and 0 < count <= min(MAX_BLOCK_RECORDS, max(1, size))):
                raise ValueError(f"a block declares {count:,} records in {size:,} bytes")
            data, sync = file.read(size), file.read(len(header["sync"]))
            if len(sync) < len(header["sync"]):
                raise EOFError
            if sync != header["sync"]:
                raise ValueError("a block does not end where it declares")
            yield Block(source, number, count, schema, codec.decode("latin1"), data)
            number += count
    except EOFError:
        yield Block(source, number, damage="Avro file is cut short")
    except (ValueError, IndexError, MemoryError) as error:
        yield Block(source, number, damage=f"Avro file is damaged: {error}")


def pack(rows: pyarrow.RecordBatch | pyarrow.Table, source: str, first: int = 0) -> Iterator[Block]:
    """Encode rows of a table as blocks of up to `N_PARQUET_ROWS`.

    Parameters
    ----------
    rows : pyarrow.RecordBatch or pyarrow.Table
        One packet per row.
    source : str
        Name of the table in messages.
    first : int
        Number of the first row.

    Yields
    ------
    Block
        Encoded rows.

    Raises
    ------
    ValueError
        If a column is missing or of the wrong type.
    """
    _, names = _find_columns(rows.schema)
    for start in range(0, len(rows), N_PARQUET_ROWS):
        yield _block(rows.select(names).slice(start, N_PARQUET_ROWS), source, first + start)


def _find_columns(schema: pyarrow.Schema, elsewhere: Collection[str] = ()) -> tuple[fields.Fields, list[str]]:
    """Return the fields of a table of packets and its columns in use; the table may be nested, or flat like Fink's.

    Names of folders provide the columns in `elsewhere`. Raises ValueError if a column is missing or of a wrong type.
    """
    plain = {formats.plain_name(name): name for name in schema.names}
    flat = not {fields.ZTF.source, fields.RUBIN.source} & plain.keys() and bool(
        {"candid", "diaSourceId"} & plain.keys()
    )
    layout = fields.RUBIN if flat and "diaSourceId" in plain else fields.fields_for(plain)
    ids = layout.context[:1] if flat and layout is fields.RUBIN else layout.names
    needed = [*ids, *([] if flat else [layout.source]), *fields.CUTOUTS.values()]
    if lacking := [name for name in needed if name not in plain and name not in elsewhere]:
        seen = "alerts" if any(map(formats.CUTOUT.search, schema.names)) else "a table without stamps"
        raise ValueError(f"{seen}: no column {', '.join(lacking)}; columns {', '.join(schema.names)[:120]}")
    for name in set(needed) & plain.keys():
        kind = schema.field(plain[name]).type
        if name in ids and (types.is_floating(kind) or types.is_nested(kind)):  # floats lose digits of ids
            raise ValueError(f"column {plain[name]} is of type {kind}, expected whole numbers or text")
        if name == layout.source and not (types.is_struct(kind) or types.is_null(kind)):
            raise ValueError(f"column {plain[name]} is of type {kind}, expected a struct")
    used = layout.all_names if flat else {*needed, layout.object}
    return layout, [column for name, column in plain.items() if name in used]


def _block(rows: pyarrow.RecordBatch | pyarrow.Table, source: str, first: int) -> Block:
    """Encode rows as one block, in Arrow's stream format."""
    sink = pyarrow.BufferOutputStream()
    with ipc.new_stream(sink, rows.schema) as out:
        out.write(rows)
    return Block(source, first, len(rows), codec=ARROW, data=sink.getvalue().to_pybytes())


def _parquet(file: Any, source: str) -> Iterator[Block]:
    """Yield the rows of a Parquet file of packets, as brokers export them, `N_PARQUET_ROWS` at a time.

    The remaining rows of a damaged row group become blocks that name the damage: as many as the footer declares, but
    at most one per byte of the row group.
    """
    try:
        with parquet.ParquetFile(file) as held:
            present = held.schema_arrow.names
            folders = {name: unquote(value) for name, value in HIVE.findall(source) if name in fields.ZTF.names}
            layout, columns = _find_columns(held.schema_arrow, folders)
            records = {layout.source: (*layout.columns, *layout.context), layout.object: layout.object_columns}
            names = [f"{column}.{part}" for column in columns for part in records.get(column, ())]
            names += [column for column in columns if column not in records]
            end = 0
            for group in range(held.num_row_groups):
                declared = held.metadata.row_group(group)
                number, end = end, end + declared.num_rows
                try:
                    for rows in held.iter_batches(N_PARQUET_ROWS, row_groups=[group], columns=names):
                        if rows.nbytes > MAX_BLOCK_BYTES:
                            raise ValueError(f"{len(rows)} rows take {rows.nbytes:,} bytes")
                        for name in folders.keys() - set(present):
                            rows = rows.append_column(name, pyarrow.array([folders[name]] * len(rows)))
                        yield _block(rows, source, number)
                        number += len(rows)
                except PARQUET_ERRORS as error:
                    damage = f"{LOST_ROWS} {group + 1} of {held.num_row_groups}: {one_line(error)}"
                    last = min(end, number + max(1, declared.total_byte_size))
                    for first in range(number, last, MAX_BLOCK_RECORDS):
                        yield Block(source, first, min(MAX_BLOCK_RECORDS, last - first), damage=damage)
    except PARQUET_ERRORS as error:
        yield Block(source, damage=f"Parquet file cannot be read as alerts: {one_line(error)}")


FILE_READERS: dict[str, Callable[[Any, str], Iterator[Block]]] = {  # by key of the format
    "avro": _container,
    "parquet": _parquet,
    exports.JSON: _json,
    exports.FITS: _fits,
}
ARCHIVE_READERS: dict[str, Callable[[Any, str, Schemas | None, int], Iterator[Block]]] = {
    "gzip": lambda file, source, schemas, depth: iter_blocks(open_gzip(file), source, schemas, depth),
    "tar": _members,
    "zip": _zip_members,
}
