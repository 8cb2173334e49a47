"""Registry of file formats: recognition, names and readers.

`train`, `prepare`, `predict`, `serve` and their messages share this table. The first bytes of a file determine its
format, also inside gzip; its name does not matter. Formats without a reader are listed so that messages can name them.
"""

import re
import tarfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from pyarrow import parquet

from alerce_early.data import raw_files
from alerce_early.data.readers.packets.compression import open_gzip
from alerce_early.data.text import to_printable

MAX_GZIP_LAYERS = 4  # layers of gzip to look inside
PREVIEW_BYTES = 1 << 16  # of a text file, read to describe it
NO_ALERTS = "JSON without alerts"
MAX_NAMES = 8  # names listed in a description
NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six")
BROKER_PREFIX = re.compile(r"^[a-z]:")  # Fink's columns: i: packet, b: images, d: added values, r: Rubin
PICKLE = re.compile(rb"\x80[\2-\5]|\((dp|lp)\d|[\]}]q")
CUTOUT = re.compile(r"cutout(science|template|difference)", re.IGNORECASE)


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Parameters
    ----------
    key : str
        Its short name.
    name : str
        Its name in a message, as it follows "is".
    recognise : callable
        Function that returns whether a file has this format, given its first 512 bytes.
    reader : {"packets", "arrays", ""}
        The reader: `packets.containers`, `array_files`, or none. Spectra are read from FITS files and arrays.
    describe : callable, optional
        Function that describes the contents of an open file; the description replaces `name` in messages unless it is
        "". It may raise any error on a damaged file.
    """

    key: str
    name: str
    recognise: Callable[[bytes], bool]
    reader: str = ""
    describe: Callable[[IO[bytes]], str] | None = None


def plain_name(column: str) -> str:
    """Return the name of a column without a broker's prefix and suffix, as `cutoutScience`."""
    return BROKER_PREFIX.sub("", column).removesuffix("_stampData")


def recognise(head: bytes) -> Format:
    """Return the format of a file, given its first 512 bytes."""
    return next(form for form in FORMATS if form.recognise(head))


def look(path: Path, describe: bool = False) -> tuple[Format, str]:
    """Determine the format of a file, or of the content of a gzip file.

    Parameters
    ----------
    path : Path
        The file.
    describe : bool
        Whether to describe the contents, which takes longer.

    Returns
    -------
    form : Format
        The format; `OTHER` if the file cannot be opened.
    seen : str
        Name of the format, or the description.
    """
    with suppress(Exception), path.open("rb") as file:  # damaged content can raise almost anything
        return _look(file, describe)
    return OTHER, OTHER.name


def _look(file: IO[bytes], describe: bool) -> tuple[Format, str]:
    """Return the format and the name or description of an open file."""
    compressed = ""
    form = OTHER
    for _ in range(MAX_GZIP_LAYERS):
        form = recognise(file.read(tarfile.BLOCKSIZE))
        file.seek(0)
        if form.key != "gzip":
            break
        try:
            inside = open_gzip(file)
            inside.read(1)
            inside.seek(0)
        except Exception:  # a damaged gzip
            return form, form.name
        file, compressed = inside, ", gzipped"
    name = form.name
    if describe and form.describe:
        with suppress(Exception):
            name = form.describe(file) or name
    return form, to_printable(name) + compressed


def describe(file: IO[bytes]) -> str:
    """Return a description of an open file; read it from the start and rewind it."""
    file.seek(0)
    found = _look(file, describe=True)[1]
    file.seek(0)
    return found


def is_tar(head: bytes) -> bool:
    """Check the first 512 bytes of a file for the header of a tar archive."""
    try:
        return bool(tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape"))
    except tarfile.HeaderError:
        return False


def may_hold_packets(path: Path, form: Format) -> bool:
    """Check for alerts or stamps in a file of this format, or for a placeholder of such a file."""
    if form.key == "parquet":
        with suppress(OSError, ValueError):
            return any(CUTOUT.search(name) for name in parquet.read_schema(path).names)
        return False
    if form.key == "json":
        return not look(path, describe=True)[1].startswith(NO_ALERTS)
    return form.reader == "packets" or form.key in ("message", "lfs")


def _starts_with(*beginnings: bytes) -> Callable[[bytes], bool]:
    """Return a recogniser of files that start with any of these bytes."""
    return lambda head: head.startswith(beginnings)


def _is_text(head: bytes) -> bool:
    """Recognise printable UTF-8 text."""
    try:
        text = head.decode("utf-8-sig", "ignore" if len(head) == tarfile.BLOCKSIZE else "strict")
    except UnicodeDecodeError:
        return False
    return len(text) > len(head) / 4 and all(char.isprintable() or char.isspace() for char in text)


def _is_json(head: bytes) -> bool:
    """Recognise text that starts with an object or a list."""
    return _is_text(head) and head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def _list(names: Iterable[Any]) -> str:
    """Join at most `MAX_NAMES` truncated names."""
    names = [str(name)[:40] for name in names]
    return ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")


def count(n: int, what: str) -> str:
    """Format a count with its noun: one image, three images, 12 images."""
    return f"{NUMBER_WORDS[n] if n < len(NUMBER_WORDS) else n} {what}{'' if n == 1 else 's'}"


def _table(kind: str, names: Sequence[str]) -> str:
    """Describe a table by its columns."""
    if any(CUTOUT.search(name) for name in names):
        return f"a table of alerts ({kind}): columns {_list(names)}"
    return f"a table without stamps ({kind}): columns {_list(names)}"


def _describe_parquet(file: IO[bytes]) -> str:
    """Describe a Parquet file by its columns."""
    return _table("Parquet", parquet.read_schema(file).names)


def _describe_text(file: IO[bytes]) -> str:
    """Describe a text file by its columns, "" if it is not a table."""
    lines = file.read(PREVIEW_BYTES).decode("utf-8-sig", "replace").strip().split("\n")
    fits = (mark for mark in ",;\t|" if lines[0].count(mark) and len({line.count(mark) for line in lines[:2]}) == 1)
    names = lines[0].split(mark) if (mark := next(fits, "")) else []
    return _table("text", [name.strip() for name in names]) if 0 < len(max(names, key=len, default="")) < 40 else ""


def _describe_fits(file: IO[bytes]) -> str:
    """Describe a FITS file by its images and tables."""
    from astropy.io import fits

    with (
        warnings.catch_warnings(action="ignore"),
        fits.open(file, memmap=False, disable_image_compression=True) as units,
    ):
        images = [unit.shape for unit in units if unit.is_image and unit.shape]
        tables = [unit.name or "unnamed" for unit in units if not unit.is_image]
    shapes = dict.fromkeys(" x ".join(map(str, shape)) for shape in images)
    held = count(len(images), "image") + (f" of {' and '.join(shapes)}" if images else "")
    return f"a FITS file with {held}" + (f" and the tables {_list(tables)}" if tables else "")


def _describe_json(file: IO[bytes]) -> str:
    """Describe JSON by its survey, or by its keys if it has no alerts."""
    text = file.read(PREVIEW_BYTES).decode("utf-8-sig", "replace")
    names = list(dict.fromkeys(re.findall(r'"([^"\\]{1,60})"\s*:', text)))
    plain = {plain_name(name) for name in names}
    survey = "Rubin" if {"diaSourceId", "diaSource"} & plain else "ZTF" if {"candid", "objectId"} & plain else ""
    if not survey and not any(CUTOUT.search(name) for name in names):
        return f"{NO_ALERTS}: names {_list(names)}"
    many = "alerts" if text.lstrip().startswith("[") else "alert"
    return f"JSON of {survey + ' ' if survey else ''}{many}" if many == "alerts" else f"JSON of a {survey} alert"


def _describe_zip(file: IO[bytes]) -> str:
    """Describe a zip archive by the number and kinds of its files."""
    with zipfile.ZipFile(file) as archive:
        members = [one for one in archive.infolist() if not one.is_dir()]
        if not members:
            return "an empty zip"
        with archive.open(members[0]) as first:
            form = recognise(first.read(tarfile.BLOCKSIZE))
        if form.reader == "packets":
            return f"a zip of {len(members):,} packet{'s' if len(members) != 1 else ''}"
        kinds = Counter(Path(one.filename).suffix or "no ending" for one in members)
        return f"a zip of {len(members):,} files ({_list(kinds)})"


def _describe_arrays(shapes: Mapping[str, tuple[int, ...]], what: str) -> str:
    """Describe a file of arrays by their names and shapes."""
    return f"{what} of arrays: " + _list(f"{name} {' x '.join(map(str, shape))}" for name, shape in shapes.items())


def _describe_npz(file: IO[bytes]) -> str:
    """Describe an npz file by its arrays."""
    with np.load(file, allow_pickle=False) as archive:
        shapes = {}
        for name in archive.files[:MAX_NAMES]:
            with archive.zip.open(f"{name}.npy") as member:
                shapes[name] = read_npy_header(member)[0]
        return _describe_arrays(shapes | dict.fromkeys(archive.files[MAX_NAMES:], ()), "an npz file")


def read_npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return the shape, the Fortran-order flag and the dtype of the array in an open npy file."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    found: Any = read(file)
    return found


def _describe_npy(file: IO[bytes]) -> str:
    """Describe an npy file by the shape of its array."""
    return f"an npy file of one array of {' x '.join(map(str, read_npy_header(file)[0]))}"


def _describe_hdf5(file: IO[bytes]) -> str:
    """Describe an HDF5 file by its arrays."""
    import h5py

    with h5py.File(file, "r") as held:
        return _describe_arrays({name: getattr(held[name], "shape", ()) for name in held}, "an HDF5 file")


def _describe_message(file: IO[bytes]) -> str:
    """Describe a schemaless message by its schema id."""
    number = int.from_bytes(file.read(5)[1:5], "big")
    return f"a Confluent wire message without its schema (number {number}); give it with --schemas FOLDER or URL"


OTHER = Format("other", "of another kind", lambda head: True)
FORMATS = (
    Format("empty", "empty", lambda head: not head),
    Format("zeros", "nothing but zeros", lambda head: not head.strip(b"\0")),
    Format("avro", "an Avro container", _starts_with(raw_files.AVRO), "packets"),
    Format("parquet", "a Parquet file", _starts_with(raw_files.PARQUET), "packets", _describe_parquet),
    Format("gzip", "gzip", _starts_with(raw_files.GZIP), "packets"),
    Format(
        "npz",
        "an npz file of arrays",
        lambda head: head.startswith(raw_files.ZIP) and b".npy" in head[30 : 30 + head[26] + 256 * head[27]],
        "arrays",
        _describe_npz,
    ),
    Format("zip", "a zip archive", _starts_with(raw_files.ZIP, b"PK\5\6"), "packets", _describe_zip),
    Format("fits", "a FITS file", _starts_with(b"SIMPLE  ="), "packets", _describe_fits),
    Format("hdf5", "an HDF5 file", _starts_with(b"\x89HDF\r\n\x1a\n"), "arrays", _describe_hdf5),
    Format("npy", "an npy file of one array", _starts_with(b"\x93NUMPY"), "arrays", _describe_npy),
    Format("pickle", "a pickle", lambda head: PICKLE.match(head) is not None, "arrays"),
    Format("jpeg", "a JPEG picture", _starts_with(b"\xff\xd8\xff")),
    Format("png", "a PNG picture", _starts_with(b"\x89PNG")),
    Format("lfs", "a git-lfs pointer; git lfs pull fetches the file", _starts_with(raw_files.LFS)),
    Format("tar", "a tar archive", is_tar, "packets"),
    Format(
        "message",
        "a Confluent wire message without its schema",
        _starts_with(raw_files.CONFLUENT),
        "",
        _describe_message,
    ),
    Format("json", "JSON", _is_json, "packets", _describe_json),
    Format("text", "text", _is_text, "", _describe_text),
    OTHER,
)
