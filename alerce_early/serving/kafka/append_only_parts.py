"""Parts that follow on each other: what several processes may write at once, and any may be killed, without a repeat.

    OUT/TOPIC-PARTITION/FIRST.parquet    messages of one partition that follow on each other, a row for each alert
    OUT/.answered_by                     the group that also sends the answers to a topic, if one does

FIRST is the offset at which the part before it ends, or 0. The metadata of a part hold the offset at which it ends and
the id of its topic, which is another if the topic was deleted and made anew under its name. A part is written under
another name, synced and linked to its own, which a file system does for one process alone. So of two that hold the same
partition around a rebalance one writes what follows, and the other drops its rows and reads on where the parts now end:
nothing twice, nothing left out. The parts are the truth, whatever a group has committed. Of each partition the last
must stay in place.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple
from uuid import uuid4

import pyarrow
from pyarrow import parquet

from alerce_early import files
from alerce_early.errors import InputError, one_line

END = b"end"  # of a part, in its metadata: the offset that follows its last
TOPIC_ID = b"topic_id"  # of a part, in its metadata
ABANDONED = 3600.0  # seconds after which an unfinished file is nobody's
PATTERN = "[0-9]*.parquet"
OWNER = ".answered_by"


class Part(NamedTuple):
    """What a part says of itself: its columns, the offset that follows its last, and its topic's id, "" if unknown."""

    path: Path
    schema: pyarrow.Schema
    end: int
    topic_id: str


def check_folder(out: Path, group: str, sends: bool) -> None:
    """Check that parts can be written to a folder, and that no other group sends the answers of its messages.

    Raises InputError if the disk refuses or has no hard links, or if another group is the one that sends.
    """
    probe, owner = out / f".{uuid4().hex}.probe", out / OWNER
    try:
        _write_new(probe, lambda file: None)
    finally:
        probe.unlink(missing_ok=True)
    if sends:
        _write_new(owner, lambda file: file.write(group.encode()))
    if owner.exists() and (other := owner.read_text()) != group:
        raise InputError(
            f"--group {group}: answers of the messages in {out} are sent by group {other}, and would be sent twice or "
            f"left out. Choose another --out, or --group {other}."
        )


def find_last(folder: Path) -> Part | None:
    """Return the last part of one partition, None where there are none; raises InputError if it is not whole."""
    for old in folder.glob(".*.partial"):  # of a process that was killed
        if time.time() - old.stat().st_mtime > ABANDONED:
            old.unlink(missing_ok=True)
    last = max(folder.glob(PATTERN), default=None)
    if last is None:
        return None
    try:
        schema = parquet.read_schema(last)
        known = schema.metadata or {}
        return Part(last, schema.remove_metadata(), int(known[END]), known.get(TOPIC_ID, b"").decode())
    except (OSError, ValueError, KeyError) as error:
        why = "its metadata lack the end" if isinstance(error, KeyError) else one_line(error)
        raise InputError(
            f"--out: {last} is not a whole part of a stream ({why}). Remove it to classify its messages again."
        ) from None


def find_end(folder: Path) -> int:
    """Return the offset at which the parts of one partition end, 0 where there are none."""
    last = find_last(folder)
    return last.end if last else 0


def add_part(folder: Path, first: int, end: int, rows: pyarrow.Table, topic_id: str = "") -> bool:
    """Write the part that begins at this offset; False where there is one already, which stays."""
    rows = rows.replace_schema_metadata({**(rows.schema.metadata or {}), END: str(end), TOPIC_ID: topic_id})
    return _write_new(folder / f"{first:020}.parquet", lambda file: parquet.write_table(rows, file))


def _write_new(path: Path, write: Callable[[IO[bytes]], object]) -> bool:
    """Write a file that is whole, and written by one process alone, or not there; False if it is there already."""
    partial = path.with_name(f".{uuid4().hex}.partial")
    with files.translate_refusals(path, files.ANY, "--out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(partial, path)
            except FileExistsError:
                return False
            except OSError as error:
                raise InputError(
                    f"--out: {path} cannot be written by a hard link ({error.strerror}). Choose a folder on a file "
                    "system with hard links."
                ) from None
        finally:
            partial.unlink(missing_ok=True)
    return True
