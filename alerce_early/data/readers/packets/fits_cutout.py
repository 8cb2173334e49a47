"""One cutout of an alert packet: a FITS image, of ZTF gzipped, of Rubin with its variance and PSF, to an array.

The parser is our own because astropy's takes most of a night's time for a header that never changes (`make bench` tells
both rates); whatever is not the plain image that surveys send goes to astropy.
"""

import io
import math
import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from alerce_early.data.raw_files import GZIP
from alerce_early.data.readers.formats import recognise
from alerce_early.data.readers.packets.compression import inflate
from alerce_early.data.records import UnreadableError

LARGEST = 1 << 20  # bytes of an unzipped cutout; a real one has 20,160
CARD, BLOCK = 80, 2880  # bytes, of FITS
VARIANCE, PSF = 1, 2  # images that follow the first, of Rubin
EXTENSION = b"XTENSION= 'IMAGE"


@dataclass(frozen=True)
class Header:
    """What a FITS header says of a plain image: its shape, bytes per pixel, and the pixel (x, y) of its WCS, from 1."""

    shape: tuple[int, int]
    size: int
    reference: tuple[float, float] | None


def image(content: bytes, number: int = 0) -> np.ndarray:
    """Return the (H, W) float32 image of a FITS file, gzipped or not, NaN kept; or one that follows it.

    Raises UnreadableError for a gzip that is cut short, damaged or unzips to more than `LARGEST` bytes, and for what
    holds no two-dimensional image of floating-point numbers.
    """
    if content.startswith(GZIP):
        content = inflate(content, "gzip", LARGEST, "gzip")
    end, pixels = 0, np.empty((0, 0))
    for _ in range(number + 1):
        header = _read_header(content[end : end + BLOCK])
        if header is None:
            return _by_astropy(content, number)
        start, values = end + BLOCK, math.prod(header.shape)
        length = header.size * values
        if len(content) < start + length:
            height, width = header.shape
            raise UnreadableError(
                f"FITS image is cut short: {len(content) - start:,} bytes of {height} x {width} pixels"
            )
        pixels = np.frombuffer(content, f">f{header.size}", values, start).reshape(header.shape)
        end = start + math.ceil(length / BLOCK) * BLOCK
    return pixels.astype(np.float32)


def source(content: bytes) -> tuple[float, float] | None:
    """Return the pixel (y, x), from 0, that a plain FITS file names as its WCS's reference; None if it names none."""
    header = _read_header(content[:BLOCK])
    if header is None or header.reference is None:
        return None
    x, y = header.reference
    return y - 1, x - 1


@lru_cache(maxsize=64)  # the stamps of a survey, or of a packet, share one header
def _read_header(header: bytes) -> Header | None:
    """Return what this block says of a plain big-endian image of floating-point numbers, None for anything else.

    Raises UnreadableError if it is no FITS header or declares more than a cutout can hold.
    """
    if not header.startswith((b"SIMPLE", EXTENSION)):
        raise UnreadableError(f"is {recognise(header).name}, wanted FITS")
    cards = [header[i : i + CARD].decode("latin1") for i in range(0, len(header), CARD)]
    values = {card[:8].rstrip(): card[10:].partition("/")[0].strip() for card in cards}
    try:
        axes = [int(values[f"NAXIS{i + 1}"]) for i in range(int(values["NAXIS"]))]
        bits = int(values["BITPIX"])
    except (KeyError, ValueError):
        raise UnreadableError("FITS header lacks NAXIS or BITPIX") from None
    if min(axes, default=0) < 0 or math.prod(axes) * abs(bits) > 8 * LARGEST:
        raise UnreadableError(f"FITS header declares too much: {' x '.join(map(str, axes))} pixels")
    plain = "END" in values and bits in (-32, -64) and len(axes) == 2  # else it may be in an extension
    ordinary = {"PCOUNT": "0", "GCOUNT": "1"} if header.startswith(EXTENSION) else {}
    odd = [name for name in ("BSCALE", "BZERO", "GROUPS", "PCOUNT", "GCOUNT") if values.get(name) != ordinary.get(name)]
    if not plain or odd:
        return None
    try:
        reference = float(values["CRPIX1"]), float(values["CRPIX2"])
    except (KeyError, ValueError):
        reference = None
    return Header((axes[1], axes[0]), -bits // 8, reference)


def _by_astropy(content: bytes, number: int) -> np.ndarray:
    from astropy.io import fits

    try:
        with (
            warnings.catch_warnings(),
            fits.open(
                io.BytesIO(content),
                memmap=False,
                disable_image_compression=True,  # which could ask for any memory
            ) as units,
        ):
            warnings.simplefilter("ignore")
            kept = [unit for unit in units if unit.is_image and 0 < unit.size <= LARGEST]
            pixels = kept[number].data if len(kept) > number else None
    except Exception as error:  # a damaged file may raise nearly anything
        raise UnreadableError(f"is no FITS image: {error or type(error).__name__}") from None
    if pixels is None or pixels.ndim != 2 or pixels.dtype.kind != "f":
        seen = "no image" if pixels is None else f"{pixels.dtype.name} of shape {pixels.shape}"
        raise UnreadableError(f"FITS file holds no float32 image: {seen}")
    return pixels.astype(np.float32)
