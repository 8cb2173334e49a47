"""The files a path stands for, one, those of a folder or those a pattern matches; and what their bytes say they are."""

import tarfile
from contextlib import suppress
from glob import glob, has_magic
from pathlib import Path

from pyarrow import parquet

from alerce_early.errors import InputError

LABELS = "labels.csv"  # of a folder of packets: their classes
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".gz")
PACKETS = (".avro", *ARCHIVES)  # how the names end of what is taken for alert packets without a look
LFS = b"version https://git-lfs"
GZIP = b"\x1f\x8b"
AVRO = b"Obj\x01"
CONFLUENT = b"\0"
PARQUET = b"PAR1"
BEGINNINGS = (
    (AVRO, "an Avro container"),
    (GZIP, "gzip"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG", "a PNG picture"),
    (b"SIMPLE  =", "a FITS file"),
    (PARQUET, "a Parquet file"),
    (LFS, "a git-lfs pointer; git lfs pull fetches the file"),
)


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


def describe_content(head: bytes) -> str:
    """Return what kind of file begins with these bytes, in words that follow "is"."""
    if not head.strip(b"\0"):
        return "nothing but zeros" if head else "empty"
    if head.startswith(CONFLUENT):
        number = int.from_bytes(head[1:5], "big")
        return f"a Confluent wire message without its schema (number {number}); --schemas FOLDER or URL tells it"
    return next((what for start, what in BEGINNINGS if head.startswith(start)), "of another kind")


def is_tar(head: bytes) -> bool:
    """Tell by its first 512 bytes whether a file is a tar archive."""
    try:
        return bool(tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape"))
    except tarfile.HeaderError:
        return False


def holds_packets(file: Path) -> bool:
    """Tell by its first bytes, and of Parquet by its columns, whether a file could hold alert packets, or stands for
    some that cannot be read here.
    """
    with suppress(OSError, ValueError), file.open("rb") as content:
        head = content.read(tarfile.BLOCKSIZE)
        if head.startswith(PARQUET):
            return "cutoutScience" in parquet.read_schema(file).names
        return head.startswith((AVRO, GZIP, CONFLUENT, LFS)) or is_tar(head)
    return False


FREE = 64 << 20  # bytes any file may make of itself, however small it is
GROWTH = 20  # bytes in memory that a byte of a file may become
