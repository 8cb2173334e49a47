"""Avro files, folders of them and tar archives, as the encoded blocks inside; no record is decoded here.

Layout of a file: Avro specification 1.11, "Object Container Files". An archive is read as a stream and nothing of
it is written to disk. What is held of a file at once is bounded by the constants below, whatever lengths it declares.
"""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from alerce_early.data import files
from alerce_early.data.chunks import CUT_SHORT
from alerce_early.data.inflate import DAMAGE, unzipped
from alerce_early.data.names import shown

ARCHIVES = (".tar", ".tar.gz", ".tgz")
ENDS = (".avro", *ARCHIVES)
MAGIC, SYNC = b"Obj\x01", 16
LARGEST_TEXT = 1 << 20  # bytes of a schema, or of a name in an archive
ENTRY = 64  # bytes that an entry of a header counts for, were it empty
LARGEST_BLOCK = 1 << 24  # bytes; a real one is about that of one packet, 60,000
SMALLEST_RECORD = 32  # bytes; a block may not declare more records than it has room for
MOST_RECORDS = 1 << 10  # of a block, since to reach one all before it are decoded; of 16,000 bytes each they fill it
READ_AHEAD = 1 << 15  # bytes of an archive; tarfile copies what is left of them at every read
MOST_ZIPPED = 1032  # bytes that one byte can stand for, https://zlib.net/zlib_tech.html
# of a header; the first two tarfile itself takes for the end of the archive
NONSENSE = (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError, ValueError, RecursionError)  # type: ignore[attr-defined]
BROKEN: tuple[type[Exception], ...] = (OSError, tarfile.TarError, *DAMAGE)


class Damaged(Exception):
    """Why the rest of one file cannot be read, in one line."""


@dataclass(frozen=True)
class Block:
    """Encoded records of one schema that lie together in a file, or the damage found instead of one.

    source: file, and member of an archive. first: number of the first record in its file. schema: JSON.
    """

    source: str
    first: int
    count: int
    schema: bytes = b""
    codec: str = "null"
    data: bytes = b""
    damage: str = ""


def find(paths: Sequence[str | Path]) -> list[Path]:
    """The files that these files, folders and patterns stand for, each once; raises InputError where one has none."""
    return list(dict.fromkeys(file for path in paths for file in files.matching(path, ENDS)))


def blocks(found: Sequence[Path]) -> Iterator[Block]:
    """All blocks of these files in order; what cannot be read is a block of one record with the damage named."""
    for file in found:
        try:
            if file.name.endswith(ARCHIVES):
                yield from _archive(file)
            else:
                with file.open("rb") as content:
                    yield from avro(content, shown(str(file)))
        except BROKEN as error:
            what = CUT_SHORT if file.name.endswith(ARCHIVES) else "file cannot be read further"
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            yield Block(shown(str(file)), 0, 1, damage=f"{what}: {reason}")


class _Member(tarfile.TarInfo):
    """A member whose headers are of a sane size and sense, or else raise ReadError; a sparse one keeps no map."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except NONSENSE as error:
            raise tarfile.ReadError(f"header cannot be read: {type(error).__name__}: {error}") from None

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if not self.isreg() and self.size > LARGEST_TEXT:
            raise tarfile.ReadError(f"header of {self.size:,} bytes")
        if self.type == tarfile.XGLTYPE:
            archive.pax_headers = {}  # so that one after the other they cannot grow without end
        return super()._proc_member(archive)  # type: ignore[misc]

    def _proc_sparse(self, archive: Any) -> tarfile.TarInfo:
        """GNU's own form: a map of any length, then the data."""
        more = self._sparse_structs[1]  # type: ignore[attr-defined]
        while more:
            more = archive.fileobj.read(tarfile.BLOCKSIZE)[504:505].strip(b"\0")
        return self._proc_builtin(archive)  # type: ignore[attr-defined]

    def _marked(self, member: tarfile.TarInfo, *_: Any) -> None:
        """The forms of an extended header, whose map may be in the data."""
        member.type = tarfile.GNUTYPE_SPARSE

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _marked


def _archive(file: Path) -> Iterator[Block]:
    options: dict[str, Any] = {"mode": "r|", "tarinfo": _Member, "bufsize": READ_AHEAD}
    most = MOST_ZIPPED * file.stat().st_size
    with file.open("rb") as raw, tarfile.open(fileobj=unzipped(raw), **options) as archive:
        while (member := archive.next()) is not None:
            vars(archive)["members"].clear()  # kept for a rewind, which a stream has not
            if member.size < 0 or vars(archive)["offset"] > most:  # tarfile would go there, for years after the end
                raise tarfile.ReadError(f"member of {member.size:,} bytes")
            name = Path(member.name).name
            if not member.isreg() or not name.endswith(".avro") or name.startswith("."):
                continue
            source = f"{shown(str(file))}/{shown(member.name)}"
            if member.type == tarfile.GNUTYPE_SPARSE:
                yield Block(source, 0, 1, damage="archive holds it as a sparse file")
                continue
            held = archive.extractfile(member)
            assert held is not None
            yield from avro(held, source)


def avro(file: IO[bytes], source: str) -> Iterator[Block]:
    """The blocks of one open Avro file; where it is damaged, the last is of one record with the damage named."""
    number = 0
    try:
        if file.read(len(MAGIC)) != MAGIC:
            raise Damaged("not an Avro file")
        facts = _metadata(file)
        schema, codec = facts.get("avro.schema", b""), facts.get("avro.codec", b"null").decode("latin1")
        sync = _take(file, SYNC)
        while lead := file.read(1):
            count, size = _long(file, lead), _long(file)
            if not 0 <= size <= LARGEST_BLOCK or not 0 < count <= min(MOST_RECORDS, max(1, size // SMALLEST_RECORD)):
                raise Damaged(f"Avro file is damaged: a block declares {count:,} records in {size:,} bytes")
            data = _take(file, size)
            if _take(file, SYNC) != sync:
                raise Damaged("Avro file is damaged: a block does not end where it says")
            yield Block(source, number, count, schema, codec, data)
            number += count
    except Damaged as damage:
        yield Block(source, number, 1, damage=str(damage))


def _metadata(file: IO[bytes]) -> dict[str, bytes]:
    facts: dict[str, bytes] = {}
    held = 0
    while count := _long(file):
        if count < 0:  # then the size in bytes follows, which only a reader that skips needs
            count = -count
            _long(file)
        for _ in range(count):
            key = _text(file).decode("latin1")
            facts[key] = _text(file)
            held += ENTRY + len(key) + len(facts[key])
            if held > LARGEST_TEXT:
                raise Damaged(f"Avro file is damaged: its header holds more than {LARGEST_TEXT:,} bytes")
    return facts


def _text(file: IO[bytes]) -> bytes:
    size = _long(file)
    if not 0 <= size <= LARGEST_TEXT:
        raise Damaged(f"Avro file is damaged: its header declares an entry of {size:,} bytes")
    return _take(file, size)


def _long(file: IO[bytes], lead: bytes = b"") -> int:
    """A variable-length zig-zag number whose first byte may have been read already."""
    value = shift = 0
    while shift < 64:
        byte = (lead or _take(file, 1))[0]
        lead = b""
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1)
        shift += 7
    raise Damaged("Avro file is damaged: a number has no end")


def _take(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise Damaged("Avro file is cut short")
    return content
