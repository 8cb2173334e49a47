"""Read one cutout of an alert packet: a FITS image, gzipped (ZTF) or followed by variance and PSF (Rubin).

Plain images are parsed here, because astropy spends most of the time of a night on a header that never changes
(`make bench` measures both). Any other FITS file is read by astropy.
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
from alerce_early.errors import require_extra

MAX_CUTOUT_BYTES = 1 << 20  # uncompressed; a real cutout has 20,160
CARD, BLOCK = 80, 2880  # bytes, fixed by the FITS standard
VARIANCE, PSF = 1, 2  # numbers of the images after the first in a Rubin cutout
EXTENSION = b"XTENSION= 'IMAGE"


@dataclass(frozen=True)
class Header:
    """Header of a plain FITS image.

    Attributes
    ----------
    shape : tuple of int
        Height and width.
    size : int
        Bytes per pixel.
    reference : tuple of float or None
        WCS reference pixel (x, y), counted from 1.
    """

    shape: tuple[int, int]
    size: int
    reference: tuple[float, float] | None


def image(content: bytes, number: int = 0) -> np.ndarray:
    """Return an image of a FITS file, gzipped or not.

    Parameters
    ----------
    content : bytes
        The file.
    number : int
        0 for the first image; `VARIANCE` or `PSF` in a Rubin cutout.

    Returns
    -------
    ndarray
        (H, W) float32, with NaN kept.

    Raises
    ------
    UnreadableError
        If the gzip is damaged, truncated or larger than `MAX_CUTOUT_BYTES` after decompression, or the file has no
        such two-dimensional image of floating-point numbers.
    """
    if content.startswith(GZIP):
        content = inflate(content, "gzip", MAX_CUTOUT_BYTES, "gzip")
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
    """Return the WCS reference pixel (y, x) of a plain FITS file, counted from 0; None if the header lacks it."""
    header = _read_header(content[:BLOCK])
    if header is None or header.reference is None:
        return None
    x, y = header.reference
    return y - 1, x - 1


@lru_cache(maxsize=64)  # stamps of a survey, or of a packet, share one header
def _read_header(header: bytes) -> Header | None:
    """Parse the header of a plain big-endian floating-point image; return None for any other FITS header.

    Raises UnreadableError if the block is not a FITS header, or declares an image too large for a cutout.
    """
    if not header.startswith((b"SIMPLE", EXTENSION)):
        raise UnreadableError(f"is {recognise(header).name}, expected FITS")
    cards = [header[i : i + CARD].decode("latin1") for i in range(0, len(header), CARD)]
    values = {card[:8].rstrip(): card[10:].partition("/")[0].strip() for card in cards}
    try:
        axes = [int(values[f"NAXIS{i + 1}"]) for i in range(int(values["NAXIS"]))]
        bits = int(values["BITPIX"])
    except (KeyError, ValueError):
        raise UnreadableError("FITS header lacks NAXIS or BITPIX") from None
    if min(axes, default=0) < 0 or math.prod(axes) * abs(bits) > 8 * MAX_CUTOUT_BYTES:
        raise UnreadableError(f"FITS header declares too much: {' x '.join(map(str, axes))} pixels")
    plain = "END" in values and bits in (-32, -64) and len(axes) == 2  # otherwise the image may be in an extension
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
    """Read an image of a FITS file with astropy."""
    with require_extra("FITS images of this kind", "alerts"):
        from astropy.io import fits

    try:
        with (
            warnings.catch_warnings(),
            fits.open(
                io.BytesIO(content),
                memmap=False,
                disable_image_compression=True,  # a compressed image can declare any size
            ) as units,
        ):
            warnings.simplefilter("ignore")
            kept = [unit for unit in units if unit.is_image and 0 < unit.size <= MAX_CUTOUT_BYTES]
            pixels = kept[number].data if len(kept) > number else None
    except Exception as error:  # a damaged file can raise almost anything
        raise UnreadableError(f"is not a FITS image: {error or type(error).__name__}") from None
    if pixels is None or pixels.ndim != 2 or pixels.dtype.kind != "f":
        seen = "no image" if pixels is None else f"{pixels.dtype.name} of shape {pixels.shape}"
        raise UnreadableError(f"FITS file has no two-dimensional float image: {seen}")
    return pixels.astype(np.float32)
