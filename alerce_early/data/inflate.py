"""Compression: what strangers sent is never unzipped to more than was asked for; by the faster library if there."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from alerce_early.data.files import GZIP

try:  # half the time of zlib for the same bytes; all works without it too
    from isal import igzip, isal_zlib
except ImportError:
    igzip, isal_zlib = gzip, zlib  # type: ignore[misc]

# what reading a damaged file raises, whatever its compression
DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, isal_zlib.error, lzma.LZMAError)  # type: ignore[assignment]


class NotWhole(Exception):
    """Why compressed bytes cannot be used, in one line."""


def unzipped(file: IO[bytes]) -> IO[bytes]:
    """Open a gzip file of one member or more; reading it may raise one of `DAMAGE`."""
    return igzip.open(file)


def zipping(path: Path) -> IO[bytes]:
    """Open a new gzip file to write to, made for speed: cutouts are zipped already."""
    return io.BufferedWriter(igzip.open(path, "wb", compresslevel=1))


def inflate(content: bytes, codec: str, largest: int) -> bytes:
    """Return the bytes compressed by "gzip" or a codec of Avro, `CODECS`.

    Raises NotWhole if they are damaged, cut short or more than `largest`, of which no more is ever held, and for a
    codec that is neither.
    """
    if codec not in CODECS:
        raise NotWhole(f"of the unknown codec {codec!r}")
    try:
        found = CODECS[codec](content, largest)
    except EOFError:
        raise NotWhole("cut short") from None
    except (*DAMAGE, ValueError) as error:
        raise NotWhole(f"damaged: {error}") from None
    if len(found) > largest:
        raise NotWhole(f"more than {largest:,} bytes")
    return found


def _by_zlib(kind: int) -> Callable[[bytes, int], bytes]:
    """kind: zlib's number for a gzip header and checksum, or for neither."""

    def read(content: bytes, largest: int) -> bytes:
        machine = isal_zlib.decompressobj(kind)
        found = machine.decompress(content, largest + 1)
        if len(found) <= largest and not machine.eof:
            raise EOFError
        if machine.unused_data.startswith(GZIP):  # a second member; only a file object joins them, in twice the time
            return unzipped(io.BytesIO(content)).read(largest + 1)
        return found

    return read


def _by_file(opened: Callable[[IO[bytes]], Any]) -> Callable[[bytes, int], bytes]:
    return lambda content, largest: opened(io.BytesIO(content)).read(largest + 1)


def _unsnap(content: bytes, largest: int) -> bytes:
    """Avro's form of Snappy: its length first, low bits first; last a checksum."""
    import pyarrow

    size = 0
    for i, byte in enumerate(content[:5]):
        size |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            break
    if size > largest:
        raise NotWhole(f"more than {largest:,} bytes")
    found = pyarrow.decompress(content[:-4], size, "snappy", asbytes=True)
    if zlib.crc32(found) != int.from_bytes(content[-4:], "big"):
        raise ValueError("checksum differs")
    return found


def _zstandard(file: IO[bytes]) -> Any:
    import pyarrow

    return pyarrow.input_stream(file, compression="zstd")


CODECS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _by_zlib(31),
    "null": lambda content, largest: content[: largest + 1],
    "deflate": _by_zlib(-15),
    "snappy": _unsnap,  # pyarrow, which a table needs anyway, brings this one and the next
    "zstandard": _by_file(_zstandard),
    "bzip2": _by_file(bz2.open),
    "xz": _by_file(lzma.open),
}
