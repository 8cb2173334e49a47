"""Convert exports of archives and brokers to the layout of alert packets: JSON, flat tables and FITS files of stamps.

JSON contains packets with base64 cutouts, or rows in the layout of Fink, which its tables share: `i:objectId`, and
`b:cutoutScience_stampData` as a list of lists. A FITS file contains three images, identified by EXTNAME (Rubin) or
STAMP_TYPE (ALeRCE client), or unnamed in ALeRCE's order, and optionally Rubin's table DIASOURCE.
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
from alerce_early.errors import require_extra

JSON, FITS = "json", "fits"  # codecs of blocks
MAX_RECORD_BYTES = 1 << 26  # of one record or FITS file
MAX_STAMP_PIXELS = 1 << 20
IMAGE_NAMES = {
    "science": ("science", "sci", "new"),
    "template": ("template", "tmpl", "ref", "reference"),
    "difference": ("difference", "diff", "diffim", "sub"),
}
CANDID = re.compile(r"(?<!\d)\d{15,19}(?!\d)")
OBJECT_ID = re.compile(r"ZTF\d\d[a-z]{7}")
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[{}"]', re.DOTALL)
SEPARATOR = re.compile(rb"[\s,\[\]]*\Z")  # between records, in a list or one per line


def split_json(file: IO[bytes]) -> Iterator[bytes]:
    """Split a JSON document into its outermost objects, in bounded memory.

    Parameters
    ----------
    file : binary file
        One object, a list of objects, or one object per line.

    Yields
    ------
    bytes
        One JSON object.

    Raises
    ------
    UnreadableError
        If the document is damaged or truncated, or an object is larger than `MAX_RECORD_BYTES`.
    """
    held, at, start, depth, size, lists = b"", 0, 0, 0, 1 << 18, 0
    while chunk := file.read(size):
        if len(held) - start > MAX_RECORD_BYTES:
            raise UnreadableError(f"JSON record is more than {MAX_RECORD_BYTES:,} bytes")
        held, at, start = held[start:] + chunk, at - start, 0
        while found := TOKEN.search(held, at):
            if found[0] == b'"':  # the end of this string has not been read yet
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
                    raise UnreadableError("JSON is damaged: unbalanced brackets")
                if not depth:
                    yield held[start:at]
                    start = at
        else:
            at = len(held)
        size = max(1 << 18, len(held) - start)  # a long string is searched again, so double the buffer
    if depth or lists + _count_lists(held[start:]):
        raise UnreadableError("JSON is cut short")


def _count_lists(between: bytes) -> int:
    """Return the number of opened minus closed lists in the bytes between two records."""
    between = between.removeprefix(b"\xef\xbb\xbf")
    if not SEPARATOR.match(between):
        raise UnreadableError("JSON is damaged: expected one object, a list of objects or one object per line")
    return between.count(b"[") - between.count(b"]")


def find_rows(record: bytes) -> list[bytes]:
    """Return the records in a JSON object.

    Parameters
    ----------
    record : bytes
        One alert, a table in a pandas layout (by columns or by rows), or an object with a list of alerts.

    Returns
    -------
    list of bytes
        JSON objects, one per alert.

    Raises
    ------
    UnreadableError
        If the JSON is damaged, or its columns differ in length.
    """
    if not re.match(rb'\s*\{\s*"[^"]*"\s*:\s*[\[{]', record):
        return [record]  # the first value of an alert is a plain value
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
    """Parse JSON, with damage as UnreadableError."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"JSON cannot be read: {error}") from None


def read_json(content: bytes, source: str) -> dict[str, Any]:
    """Return the packet in one JSON object; raise UnreadableError if it is not an alert."""
    return to_packet(_parse(content), source)


def to_packet(record: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Convert a record of JSON or of a table to a packet.

    Parameters
    ----------
    record : mapping
        Nested like a packet, or flat, with or without the prefixes of Fink. Cutouts may be base64 text.
    source : str
        File and record number; names an alert without ids.

    Returns
    -------
    dict
        The packet, with decoded cutouts.

    Raises
    ------
    UnreadableError
        If the record is not an alert, or a cutout is invalid base64.
    """
    flat = {formats.plain_name(name): value for name, value in record.items() if name not in (FILE, OBJECT)}
    named = {name.lower(): name for name in flat}
    held = {field: _decode(flat[named[field.lower()]], field) for field in CUTOUTS.values() if field.lower() in named}
    if {ZTF.source, RUBIN.source} & flat.keys():
        return flat | held
    if not held and not {"candid", "objectId", "diaSourceId"} & flat.keys():
        raise UnreadableError(
            f"record with the keys {', '.join(record)[:80]} is not an alert; expected objectId or i:objectId"
        )
    if held and not {"candid", "objectId", "diaSourceId"} & flat.keys():
        return held | name_by_file(source)
    of = RUBIN if "diaSourceId" in flat else ZTF
    return flat | {of.source: dict(flat)} | ({RUBIN.object: dict(flat)} if of is RUBIN else {}) | held


def _decode(value: Any, field: str) -> Any:
    """Decode a cutout from base64 text; return any other value unchanged."""
    if isinstance(value, dict) and "stampData" in value:
        return {**value, "stampData": _decode(value["stampData"], field)}
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise UnreadableError(f"{field} is text that is not base64") from None


def name_by_file(source: str) -> dict[str, str]:
    """Return ids for an alert without any: the candid and objectId in its file name, or else the file name."""
    path, mark, number = source.partition("#")
    stem = re.sub(r"(?i)\.(fits|fit|fz|json|gz)$", "", re.sub(r"(?i)\.gz$", "", PurePath(path).name)) + mark + number
    candid, name = CANDID.search(stem), OBJECT_ID.search(stem)
    return {FILE: candid[0] if candid else source, OBJECT: name[0] if name else stem[:100]}


def read_fits(content: bytes, source: str) -> dict[str, Any]:
    """Convert a FITS file of three stamps to a packet.

    Parameters
    ----------
    content : bytes
        The file.
    source : str
        Its path; names an alert without ids.

    Returns
    -------
    dict
        Cutouts as FITS files, with the tables DIASOURCE and DIAOBJECT if present.

    Raises
    ------
    UnreadableError
        If the file is damaged, or does not have exactly one image per channel.
    MissingExtraError
        If astropy is not installed.
    """
    with require_extra("FITS files", "alerts"):
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
    except Exception as error:  # a damaged file can raise almost anything
        raise UnreadableError(f"FITS file is damaged: {error or type(error).__name__}") from None


def _pick(images: list[Any]) -> dict[str, tuple[Any, Any]]:
    """Return pixels and header of each channel; raise UnreadableError if the channels are ambiguous."""
    if any(unit.size > 3 * MAX_STAMP_PIXELS for unit in images):
        raise UnreadableError("FITS file has an image larger than a stamp")
    known = {name: channel for channel, names in IMAGE_NAMES.items() for name in names}
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
            f"FITS file has no complete set of stamps: {what} among {seen}; expected three, named SCIENCE, TEMPLATE "
            "and DIFFERENCE (or DIFFIM) by EXTNAME, or unnamed in this order"
        )
    return {channel: (units[0].data, units[0].header) for channel, units in named.items()}


def _to_file(pixels: Any, header: Any) -> bytes:
    """Return an image as the FITS file of a cutout, with the position of its source."""
    from astropy.io import fits

    if pixels is None or pixels.ndim != 2:
        raise UnreadableError("FITS file has no stamps: its images are not two-dimensional")
    unit = fits.PrimaryHDU(pixels.astype(np.float32))
    for name in ("CRPIX1", "CRPIX2"):
        if isinstance(header.get(name), int | float):
            unit.header[name] = header[name]
    file = io.BytesIO()
    unit.writeto(file)
    return file.getvalue()


def _row(table: Any) -> dict[str, Any]:
    """Return the row that triggered the alert, as plain values; {} for an empty table."""
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
