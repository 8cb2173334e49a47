"""Compression: what strangers sent is never unzipped to more than was asked for; by the faster library if there."""

import gzip
import io
import zlib
from pathlib import Path
from typing import IO

try:  # half the time of zlib for the same bytes; all works without it too
    from isal import igzip, isal_zlib
except ImportError:
    igzip, isal_zlib = gzip, zlib  # type: ignore[misc]

GZIP, BARE = 31, -15  # zlib's numbers for a gzip header and checksum, and for neither

DAMAGE: tuple[type[Exception], ...] = (zlib.error, isal_zlib.error, EOFError)  # type: ignore[assignment]


class NotWhole(Exception):
    """Why compressed bytes cannot be used, in one line."""


def inflate(content: bytes, kind: int, largest: int) -> bytes:
    """The bytes compressed as one GZIP member or BARE deflate stream.

    Raises NotWhole if they are damaged, cut short or more than `largest`, of which no more is ever held.
    """
    machine = isal_zlib.decompressobj(kind)
    try:
        found = machine.decompress(content, largest + 1)
    except DAMAGE as error:
        raise NotWhole(f"damaged: {error}") from None
    if len(found) > largest:
        raise NotWhole(f"more than {largest:,} bytes")
    if not machine.eof:
        raise NotWhole("cut short")
    return found


def unzipped(file: IO[bytes]) -> IO[bytes]:
    """A file that may be gzipped as one that is not; reading it may raise OSError or one of `DAMAGE`."""
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return igzip.open(file) if zipped else file


def zipping(path: Path) -> IO[bytes]:
    """A new gzip file to write to, made for speed: cutouts are zipped already."""
    return io.BufferedWriter(igzip.open(path, "wb", compresslevel=1))
