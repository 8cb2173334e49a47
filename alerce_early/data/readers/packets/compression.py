"""Compression: what others sent is never unzipped to more than was asked for; by the faster library if there."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow  # which every table needs: it unpacks Snappy and Zstandard without packages of their own

from alerce_early.data.raw_files import GZIP
from alerce_early.data.records import UnreadableError

try:  # half the time of zlib for the same bytes; all works without it too
    from isal import igzip, isal_zlib
except ImportError:
    igzip, isal_zlib = gzip, zlib  # type: ignore[misc]

# what reading a damaged file raises, whatever its compression
DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, isal_zlib.error, lzma.LZMAError)  # type: ignore[assignment]


def unzipped(file: IO[bytes]) -> IO[bytes]:
    """Open a gzip file of one member or more; reading it may raise one of `DAMAGE`."""
    return igzip.open(file)


def zipping(path: Path) -> IO[bytes]:
    """Open a new gzip file to write to, made for speed: cutouts are zipped already."""
    return io.BufferedWriter(igzip.open(path, "wb", compresslevel=1))


def inflate(content: bytes, codec: str, largest: int, what: str) -> bytes:
    """Return the bytes compressed by gzip or a codec of Avro.

    Raises UnreadableError, which begins with `what`, if they are damaged, cut short or more than `largest`, of which no
    more is ever held, and for another codec.
    """
    size = largest + 1
    try:
        if codec in ("gzip", "deflate"):
            machine = isal_zlib.decompressobj(31 if codec == "gzip" else -15)  # zlib's numbers: with header, without
            found = machine.decompress(content, size)
            if len(found) < size and not machine.eof:
                raise EOFError
            if machine.unused_data.startswith(GZIP):  # a second member, which a file joins, in twice the time
                found = unzipped(io.BytesIO(content)).read(size)
        elif codec == "snappy":
            found = _unsnap(content, size)
        elif codec in CODECS:
            found = CODECS[codec](io.BytesIO(content)).read(size)
        else:
            raise UnreadableError(f"{what} is of the unknown codec {codec!r}")
    except EOFError:
        raise UnreadableError(f"{what} is cut short") from None
    except (*DAMAGE, ValueError) as error:  # type: ignore[misc]
        raise UnreadableError(f"{what} is damaged: {error}") from None
    if len(found) > largest:
        raise UnreadableError(f"{what} is more than {largest:,} bytes")
    return found


def _unsnap(content: bytes, size: int) -> bytes:
    """Avro's form of Snappy begins with the length, low bits first, and ends with a checksum."""
    length = 0
    for i, byte in enumerate(content[:5]):
        length |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            break
    if length >= size:
        return bytes(size)
    found = pyarrow.decompress(content[:-4], length, "snappy", asbytes=True)
    if zlib.crc32(found) != int.from_bytes(content[-4:], "big"):
        raise ValueError("checksum differs")
    return found


CODECS: dict[str, Callable[[IO[bytes]], Any]] = {
    "bzip2": bz2.open,
    "xz": lzma.open,
    "zstandard": partial(pyarrow.input_stream, compression="zstd"),
}
