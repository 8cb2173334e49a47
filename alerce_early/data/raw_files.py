"""Raw files: expanding paths, finding label tables, and the first bytes of file formats."""

import re
from glob import glob, has_magic
from pathlib import Path

from alerce_early.errors import InputError

LABELS = "labels.csv"  # label table in a folder of packets
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".gz")
PACKETS = (
    ".avro",
    *ARCHIVES,
    ".zip",
    ".json",
    ".jsonl",
    ".fits",
)  # file name endings of alert packets and single stamps
LFS = b"version https://git-lfs"
GZIP = b"\x1f\x8b"
AVRO = b"Obj\x01"
CONFLUENT = b"\0"
PARQUET = b"PAR1"
ZIP = b"PK\3\4"


def expand_path(path: str | Path, ends: tuple[str, ...] = ("",), given: str = "with data.path=FILE") -> list[Path]:
    """Expand a file, folder or glob pattern to a sorted list of files.

    Parameters
    ----------
    path : str or Path
        A file, which may have any name, a folder, which is searched at any depth except for hidden files, or a pattern.
    ends : tuple of str
        File name endings to find in a folder, in lower case; the case of names is ignored.
    given : str
        How the user gives the path, for messages.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    InputError
        If no file matches.
    """
    place = Path(str(path))
    if place.is_file():
        return [place]
    if place.is_dir():
        found = [file for file in place.rglob("*") if file.name.lower().endswith(ends) and file.is_file()]
        found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(place).parts)]
    else:
        found = [Path(name) for name in glob(str(path), recursive=True)] if has_magic(str(path)) else []
    if not found:
        kind = f" {' or '.join(ends)}" if any(ends) else ""
        raise InputError(f"{path} cannot be read: No such{kind} file. Give a file, folder or 'pattern*' {given}.")
    return sorted(found)


def find_tables(path: Path) -> list[Path]:
    """Return the CSV files that may have the labels of a file of arrays, by their names, the most likely first."""
    stem = path.name.partition(".")[0]
    own = [
        stem,
        f"{stem}_labels",
        *(re.sub("triplets|images|stamps", word, stem) for word in ("labels", "candidates", "cand")),
    ]
    names = dict.fromkeys([*(f"{name}.csv" for name in own), LABELS])
    return [file for name in names if (file := path.with_name(name)).is_file()]


MIN_LIMIT_BYTES = 64 << 20  # decompressed size allowed for any file
MAX_EXPANSION = 20  # further decompressed bytes allowed per byte of a file


def most_bytes(size: int) -> int:
    """Return the largest decompressed size in bytes allowed for a compressed file of `size` bytes."""
    return MIN_LIMIT_BYTES + MAX_EXPANSION * size
