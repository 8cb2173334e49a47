"""Bounded decompression of untrusted data, with the faster isal library if it is installed."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow  # always installed; decompresses Snappy and Zstandard without further packages

from alerce_early.data.raw_files import GZIP
from alerce_early.data.records import UnreadableError

try:  # optional: takes half the time of zlib for the same bytes
    from isal import igzip, isal_zlib
except ImportError:
    igzip, isal_zlib = gzip, zlib  # type: ignore[misc]

# Errors of reading a damaged file, for all compressions.
DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, isal_zlib.error, lzma.LZMAError)  # type: ignore[assignment]


def open_gzip(file: IO[bytes]) -> IO[bytes]:
    """Open a gzip file of one or more members; reading it may raise any error in `DAMAGE`."""
    return igzip.open(file)


def create_gzip(path: Path) -> IO[bytes]:
    """Open a new gzip file for writing, at the fastest level: cutouts are already compressed."""
    return io.BufferedWriter(igzip.open(path, "wb", compresslevel=1))


def inflate(content: bytes, codec: str, largest: int, what: str) -> bytes:
    """Decompress gzip or an Avro codec, holding at most `largest` + 1 bytes of output.

    Parameters
    ----------
    content : bytes
        The compressed bytes.
    codec : str
        "gzip", "deflate", "snappy", "bzip2", "xz" or "zstandard".
    largest : int
        Maximum size of the output, in bytes.
    what : str
        Subject of the error messages.

    Returns
    -------
    bytes
        The decompressed bytes.

    Raises
    ------
    UnreadableError
        If the input is damaged or truncated, the output is larger than `largest`, or the codec is unknown.
    """
    size = largest + 1
    try:
        if codec in ("gzip", "deflate"):
            machine = isal_zlib.decompressobj(31 if codec == "gzip" else -15)  # window bits: with and without header
            found = machine.decompress(content, size)
            if len(found) < size and not machine.eof:
                raise EOFError
            if machine.unused_data.startswith(GZIP):  # several members, joined at half the speed
                found = open_gzip(io.BytesIO(content)).read(size)
        elif codec == "snappy":
            found = _unsnap(content, size)
        elif codec in CODECS:
            found = CODECS[codec](io.BytesIO(content)).read(size)
        else:
            raise UnreadableError(f"{what} has the unknown codec {codec!r}")
    except EOFError:
        raise UnreadableError(f"{what} is cut short") from None
    except (*DAMAGE, ValueError) as error:  # type: ignore[misc]
        raise UnreadableError(f"{what} is damaged: {error}") from None
    if len(found) > largest:
        raise UnreadableError(f"{what} is more than {largest:,} bytes")
    return found


def _unsnap(content: bytes, size: int) -> bytes:
    """Decompress Avro's Snappy: the length as a little-endian varint, the data, and a CRC-32 checksum."""
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
