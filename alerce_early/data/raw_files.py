"""Files on disk: expand a path to them, find the CSV next to one, and the first bytes of their formats."""

import re
from glob import glob, has_magic
from pathlib import Path

from alerce_early.errors import InputError

LABELS = "labels.csv"  # of a folder of packets: their classes
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".gz")
PACKETS = (".avro", *ARCHIVES, ".zip", ".json", ".jsonl", ".fits")  # endings of alert packets and single stamps
LFS = b"version https://git-lfs"
GZIP = b"\x1f\x8b"
AVRO = b"Obj\x01"
CONFLUENT = b"\0"
PARQUET = b"PAR1"
ZIP = b"PK\3\4"


def matching(path: str | Path, ends: tuple[str, ...] = ("",), given: str = "with data.path=FILE") -> list[Path]:
    """Return sorted files; of a folder all inside it, at any depth, whose names end in one of `ends`, if not hidden.

    ends: in lower case; capitals make no difference. A single file is returned whatever its name. given: how such a
    path is given. Raises InputError if there is none.
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
    """Return the CSV files named like a file of arrays, the likeliest first."""
    stem = path.name.partition(".")[0]
    own = [
        stem,
        f"{stem}_labels",
        *(re.sub("triplets|images|stamps", word, stem) for word in ("labels", "candidates", "cand")),
    ]
    names = dict.fromkeys([*(f"{name}.csv" for name in own), LABELS])
    return [file for name in names if (file := path.with_name(name)).is_file()]


FREE = 64 << 20  # bytes any file may make of itself, however small it is
GROWTH = 20  # bytes in memory that a byte of a file may become


def most_bytes(size: int) -> int:
    """Return the bytes that a compressed file of this size is allowed in memory."""
    return FREE + GROWTH * size
