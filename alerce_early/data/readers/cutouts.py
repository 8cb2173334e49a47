"""One cutout of an alert packet: a FITS image, mostly gzipped, to an array.

The parser is our own because astropy's takes most of a night's time for a header that never changes (`bench` tells
both rates); whatever is not the plain image that surveys send goes to astropy.
"""

import io
import math
import warnings
from functools import lru_cache

import numpy as np

from alerce_early.data.readers.inflate import NotWholeError, inflate
from alerce_early.data.readers.raw_files import GZIP, describe_content
from alerce_early.data.records import UnreadableError

LARGEST = 1 << 20  # bytes of an unzipped cutout; a real one has 20,160
CARD, BLOCK = 80, 2880  # bytes, of FITS


def image(content: bytes) -> np.ndarray:
    """Return the (H, W) float32 image of a FITS file, gzipped or not, NaN kept.

    Raises UnreadableError for a gzip that is cut short, damaged or unzips to more than `LARGEST` bytes, and for what
    holds no two-dimensional image of floating-point numbers.
    """
    if content.startswith(GZIP):
        try:
            content = inflate(content, "gzip", LARGEST)
        except NotWholeError as error:
            raise UnreadableError(f"gzip is {error}") from None
    layout = _plain_layout(content[:BLOCK])
    if layout is None:
        return _by_astropy(content)
    height, width = layout
    if len(content) < BLOCK + 4 * height * width:
        raise UnreadableError(f"FITS image is cut short: {len(content) - BLOCK:,} bytes of {height} x {width} pixels")
    pixels = np.frombuffer(content, ">f4", height * width, BLOCK)
    return pixels.reshape(height, width).astype(np.float32)


@lru_cache(maxsize=64)  # the stamps of a survey share one header
def _plain_layout(header: bytes) -> tuple[int, int] | None:
    """(height, width) of a big-endian float32 image whose header is this block, None for anything else.

    Raises UnreadableError if it is no FITS header or declares more than a cutout can hold.
    """
    if not header.startswith(b"SIMPLE"):
        raise UnreadableError(f"is {describe_content(header)}, wanted FITS")
    cards = [header[i : i + CARD].decode("latin1") for i in range(0, len(header), CARD)]
    names = [card[:8].rstrip() for card in cards]
    values = {name: card[10:].partition("/")[0].strip() for name, card in zip(names, cards, strict=True)}
    try:
        axes = [int(values[f"NAXIS{i + 1}"]) for i in range(int(values["NAXIS"]))]
        declared = math.prod(axes) * abs(int(values["BITPIX"]))
    except (KeyError, ValueError):
        raise UnreadableError("FITS header lacks NAXIS or BITPIX") from None
    if min(axes, default=0) < 0 or declared > 8 * LARGEST:
        raise UnreadableError(f"FITS header declares too much: {' x '.join(map(str, axes))} pixels")
    plain = "END" in names and values["BITPIX"] == "-32" and len(axes) == 2  # else it may be in an extension
    if not plain or {"BSCALE", "BZERO", "GROUPS", "PCOUNT", "GCOUNT"} & set(names):
        return None
    return axes[1], axes[0]


def _by_astropy(content: bytes) -> np.ndarray:
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
            pixels = kept[0].data if kept else None
    except Exception as error:  # a damaged file may raise nearly anything
        raise UnreadableError(f"is no FITS image: {error or type(error).__name__}") from None
    if pixels is None or pixels.ndim != 2 or pixels.dtype.kind != "f":
        seen = "no image" if pixels is None else f"{pixels.dtype.name} of shape {pixels.shape}"
        raise UnreadableError(f"FITS file holds no float32 image: {seen}")
    return pixels.astype(np.float32)
