"""Alerts as archives and brokers hand them out, in the form of a packet: JSON, flat tables and FITS files of stamps.

JSON holds packets with their cutouts in base64, or rows of Fink, like its tables: `i:objectId`, and
`b:cutoutScience_stampData` as a list of lists. A FITS file holds three images, named by EXTNAME (Rubin) or STAMP_TYPE
(ALeRCE's client) in any order, or in ALeRCE's order, and perhaps Rubin's table DIASOURCE.
"""

import base64
import binascii
import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import IO, Any

import numpy as np

from alerce_early.data.readers import formats
from alerce_early.data.readers.packets.fields import CUTOUTS, FILE, OBJECT, RUBIN, ZTF
from alerce_early.data.readers.stamps_file import CHANNELS
from alerce_early.data.records import UnreadableError

JSON, FITS = "json", "fits"  # the codecs of blocks
LARGEST = 1 << 26  # bytes of one record or FITS file
LARGEST_STAMP = 1 << 20  # pixels of an image
NAMES = {  # of images
    "science": ("science", "sci", "new"),
    "template": ("template", "tmpl", "ref", "reference"),
    "difference": ("difference", "diff", "diffim", "sub"),
}
CANDID = re.compile(r"(?<!\d)\d{15,19}(?!\d)")
OBJECT_ID = re.compile(r"ZTF\d\d[a-z]{7}")
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[{}"]', re.DOTALL)
BETWEEN = re.compile(rb"[\s,\[\]]*\Z")  # between the records of a list, or one per line


def split_json(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the outermost objects of a JSON document, of a list or one per line, in bounded memory.

    Raises UnreadableError where it is damaged or an object is larger than `LARGEST`.
    """
    held, at, start, depth, size, lists = b"", 0, 0, 0, 1 << 18, 0
    while chunk := file.read(size):
        if len(held) - start > LARGEST:
            raise UnreadableError(f"JSON record is more than {LARGEST:,} bytes")
        held, at, start = held[start:] + chunk, at - start, 0
        while found := TOKEN.search(held, at):
            if found[0] == b'"':  # the end of this text is not read yet
                at = found.start()
                break
            at = found.end()
            if found[0] == b"{":
                if not depth:
                    lists += _count_lists(held[start : found.start()])
                    start = found.start()
                depth += 1
            elif found[0] == b"}":
                depth -= 1
                if depth < 0:
                    raise UnreadableError("JSON is damaged: a bracket too many")
                if not depth:
                    yield held[start:at]
                    start = at
        else:
            at = len(held)
        size = max(1 << 18, len(held) - start)  # a long text is searched again, so with twice as much
    if depth or lists + _count_lists(held[start:]):
        raise UnreadableError("JSON is cut short")


def _count_lists(between: bytes) -> int:
    """Count the lists that begin, less the lists that end, in the bytes between two records."""
    between = between.removeprefix(b"\xef\xbb\xbf")
    if not BETWEEN.match(between):
        raise UnreadableError("JSON is damaged: it has more than a list of records, or one per line")
    return between.count(b"[") - between.count(b"]")


def find_rows(record: bytes) -> list[bytes]:
    """Return the records of a JSON object: itself, or those of pandas' tables, and of a list in it under a name.

    Raises UnreadableError as of `read_json`.
    """
    if not re.match(rb'\s*\{\s*"[^"]*"\s*:\s*[\[{]', record):
        return [record]  # an alert begins with a name
    held = _parse(record)
    values = list(held.values())
    tables = [one for one in values if isinstance(one, list) and one and all(isinstance(row, dict) for row in one)]
    names = {formats.plain_name(name): name for name in held}
    ids = next((held[names[name]] for name in ("candid", "objectId", "diaSourceId") if name in names), None)
    if isinstance(ids, dict | list):  # by columns
        keys = list(ids) if isinstance(ids, dict) else range(len(ids))
        try:
            rows = [{name: column[key] for name, column in held.items()} for key in keys]
        except (KeyError, IndexError, TypeError):
            raise UnreadableError("JSON of columns that differ in length") from None
    elif ids is None and all(name.isdigit() and isinstance(held[name], dict) for name in held):  # by rows
        rows = values
    elif ids is None and len(tables) == 1 and not any(map(formats.CUTOUT.search, held)):
        rows = tables[0]
    else:
        return [record]
    return [json.dumps(row).encode() for row in rows]


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"JSON cannot be read: {error}") from None


def read_json(content: bytes, source: str) -> dict[str, Any]:
    """Return the packet of one JSON object. Raises UnreadableError where it is none."""
    return to_packet(_parse(content), source)


def to_packet(record: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return a record of JSON or of a table as a packet, its cutouts decoded where they are text.

    Its columns may lie flat, with or without the prefixes of Fink. source: where it was, which names what has no id.
    """
    flat = {formats.plain_name(name): value for name, value in record.items() if name not in (FILE, OBJECT)}
    named = {name.lower(): name for name in flat}
    held = {field: _decode(flat[named[field.lower()]], field) for field in CUTOUTS.values() if field.lower() in named}
    if {ZTF.source, RUBIN.source} & flat.keys():
        return flat | held
    if not held and not {"candid", "objectId", "diaSourceId"} & flat.keys():
        raise UnreadableError(
            f"record of the names {', '.join(record)[:80]} is not an alert; expected objectId or i:objectId"
        )
    if held and not {"candid", "objectId", "diaSourceId"} & flat.keys():
        return held | name_by_file(source)
    of = RUBIN if "diaSourceId" in flat else ZTF
    return flat | {of.source: dict(flat)} | ({RUBIN.object: dict(flat)} if of is RUBIN else {}) | held


def _decode(value: Any, field: str) -> Any:
    if isinstance(value, dict) and "stampData" in value:
        return {**value, "stampData": _decode(value["stampData"], field)}
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise UnreadableError(f"{field} is text that is not base64") from None


def name_by_file(source: str) -> dict[str, str]:
    """Return the names of an alert without ids: a candid and objectId in its file's name, or else that name."""
    path, mark, number = source.partition("#")
    stem = re.sub(r"(?i)\.(fits|fit|fz|json|gz)$", "", re.sub(r"(?i)\.gz$", "", PurePath(path).name)) + mark + number
    candid, name = CANDID.search(stem), OBJECT_ID.search(stem)
    return {FILE: candid[0] if candid else source, OBJECT: name[0] if name else stem[:100]}


def read_fits(content: bytes, source: str) -> dict[str, Any]:
    """Return the packet of a FITS file of three stamps. Raises UnreadableError where it is none."""
    from astropy.io import fits

    try:
        with (
            warnings.catch_warnings(action="ignore"),
            fits.open(io.BytesIO(content), memmap=False, disable_image_compression=True) as units,
        ):
            tables = {unit.name.upper(): unit for unit in units if isinstance(unit, fits.BinTableHDU)}
            images = [unit for unit in units if unit.is_image and unit.shape]
            record = {CUTOUTS[name]: _to_file(*one) for name, one in _pick(images).items()}
            if "DIASOURCE" not in tables:
                of_rubin = any(unit.name.upper() == "DIFFIM" for unit in images) or "ALERT" in tables
                of_ztf = OBJECT_ID.search(PurePath(source).name)
                survey: dict[str, Any] = {RUBIN.source: {}} if of_rubin else {ZTF.source: {}} if of_ztf else {}
                return record | survey | name_by_file(source)
            return record | {
                RUBIN.source: _row(tables["DIASOURCE"]),
                RUBIN.object: _row(tables["DIAOBJECT"]) if "DIAOBJECT" in tables else {},
            }
    except UnreadableError:
        raise
    except Exception as error:  # a damaged file may raise nearly anything
        raise UnreadableError(f"FITS file is damaged: {error or type(error).__name__}") from None


def _pick(images: list[Any]) -> dict[str, tuple[Any, Any]]:
    """Return (pixels, header) of each channel. Raises UnreadableError where it is not clear which image is which."""
    if any(unit.size > 3 * LARGEST_STAMP for unit in images):
        raise UnreadableError("FITS file holds an image larger than a stamp")
    known = {name: channel for channel, names in NAMES.items() for name in names}
    named: dict[str, list[Any]] = {}
    for unit in images:
        name = str(unit.header.get("EXTNAME") or unit.header.get("STAMP_TYPE") or "").strip().lower()
        if channel := known.get(name.removeprefix("cutout")):
            named.setdefault(channel, []).append(unit)
    if len(images) == 1 and len(images[0].shape) == 3 and not named and images[0].shape.count(3) == 1:
        cube = np.moveaxis(images[0].data, images[0].shape.index(3), 0)
        return {channel: (plane, images[0].header) for channel, plane in zip(CHANNELS, cube, strict=True)}
    if not named and len(images) == 3:
        named = {channel: [unit] for channel, unit in zip(CHANNELS, images, strict=True)}
    if sorted(named) != sorted(CHANNELS) or any(len(units) > 1 for units in named.values()):
        lacking = [name for name in CHANNELS if name not in named]
        what = f"no image {', '.join(lacking)}" if lacking else "several images of one name"
        shapes = dict.fromkeys(" x ".join(map(str, unit.shape)) for unit in images)
        seen = formats.count(len(images), "image") + (f" of {' and '.join(shapes)}" if images else "")
        raise UnreadableError(
            f"FITS file is not one of stamps: {what} among {seen}; expected three, named SCIENCE, TEMPLATE and "
            "DIFFERENCE (or DIFFIM) by EXTNAME, or unnamed in this order"
        )
    return {channel: (units[0].data, units[0].header) for channel, units in named.items()}


def _to_file(pixels: Any, header: Any) -> bytes:
    """Return an image as the FITS file of a cutout, with the place of its source."""
    from astropy.io import fits

    if pixels is None or pixels.ndim != 2:
        raise UnreadableError("FITS file is not one of stamps: its images are not two-dimensional")
    unit = fits.PrimaryHDU(pixels.astype(np.float32))
    for name in ("CRPIX1", "CRPIX2"):
        if isinstance(header.get(name), int | float):
            unit.header[name] = header[name]
    file = io.BytesIO()
    unit.writeto(file)
    return file.getvalue()


def _row(table: Any) -> dict[str, Any]:
    """Return the row of a table that is the alert itself, in plain values; {} of an empty table."""
    if not len(table.data):
        return {}
    number = int(np.argmax(table.data["trigger"])) if "trigger" in table.columns.names else 0
    row = {}
    for column in table.columns:
        value = table.data[column.name][number]
        if isinstance(value, np.generic):
            value = value.item()
        row[column.name] = None if column.null is not None and value == column.null else value
    return row
