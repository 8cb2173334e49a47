"""Append-only files per Kafka partition, which several processes can write without losing or repeating a message.

    OUT/TOPIC-PARTITION/FIRST.parquet    consecutive messages of one partition, one row per alert
    OUT/.answered_by                     the group that also sends predictions to a topic

FIRST is the offset at which the previous part ends, or 0. The metadata of a part contain the offset at which it ends
and the id of its topic, which changes if the topic is deleted and created again. A part is written under a temporary
name, synced and hard-linked to its final name, which succeeds for one process only. If two consumers hold the same
partition during a rebalance, one writes the next part; the other drops its rows and continues at the end of the parts.
Where to continue depends on the parts only, not on the offsets that a group has committed, so the last part of each
partition must stay in place.
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

END = b"end"  # metadata key of a part: the offset after its last message
TOPIC_ID = b"topic_id"  # metadata key of a part
MAX_PARTIAL_AGE = 3600.0  # seconds after which an unfinished file is left over from a killed process
PATTERN = "[0-9]*.parquet"
SENDER = ".answered_by"


class Part(NamedTuple):
    """A part: its path, its columns, the offset after its last message, and the id of its topic, "" if unknown."""

    path: Path
    schema: pyarrow.Schema
    end: int
    topic_id: str


def check_folder(out: Path, group: str, sends: bool) -> None:
    """Check that parts can be written to a folder, and that no other group sends its predictions.

    Parameters
    ----------
    out : Path
        The folder; created if missing.
    group : str
        Group of the consumer.
    sends : bool
        Whether this group sends predictions; the first group that does is recorded in the folder.

    Raises
    ------
    InputError
        If the folder cannot be written, its file system has no hard links, or another group sends the predictions.
    """
    probe, sender = out / f".{uuid4().hex}.probe", out / SENDER
    try:
        _write_new(probe, lambda file: None)
    finally:
        probe.unlink(missing_ok=True)
    if sends:
        _write_new(sender, lambda file: file.write(group.encode()))
    if sender.exists() and (other := sender.read_text()) != group:
        raise InputError(
            f"--group {group}: group {other} sends the predictions in {out}; two groups would repeat or omit some. "
            f"Choose another --out, or --group {other}."
        )


def find_last(folder: Path) -> Part | None:
    """Return the last part of a partition, and remove files that killed processes left.

    Parameters
    ----------
    folder : Path
        Folder of the partition.

    Returns
    -------
    Part or None
        The last part, or None without parts.

    Raises
    ------
    InputError
        If the last part is damaged.
    """
    for old in folder.glob(".*.partial"):
        if time.time() - old.stat().st_mtime > MAX_PARTIAL_AGE:
            old.unlink(missing_ok=True)
    last = max(folder.glob(PATTERN), default=None)
    if last is None:
        return None
    try:
        schema = parquet.read_schema(last)
        known = schema.metadata or {}
        return Part(last, schema.remove_metadata(), int(known[END]), known.get(TOPIC_ID, b"").decode())
    except (OSError, ValueError, KeyError) as error:
        reason = "its metadata lack the end" if isinstance(error, KeyError) else one_line(error)
        raise InputError(
            f"--out: {last} is not a complete part of a stream ({reason}). Remove it to classify its messages again."
        ) from None


def find_end(folder: Path) -> int:
    """Return the offset at which the parts of a partition end, 0 without parts."""
    last = find_last(folder)
    return last.end if last else 0


def add_part(folder: Path, first: int, end: int, rows: pyarrow.Table, topic_id: str = "") -> bool:
    """Write the part that begins at an offset, unless it exists.

    Parameters
    ----------
    folder : Path
        Folder of the partition.
    first, end : int
        Offsets of the first message and after the last message.
    rows : pyarrow.Table
        One row per alert.
    topic_id : str, default ""
        Id of the topic, "" if unknown.

    Returns
    -------
    bool
        False if another process has already written this part, which is kept.
    """
    rows = rows.replace_schema_metadata({**(rows.schema.metadata or {}), END: str(end), TOPIC_ID: topic_id})
    return _write_new(folder / f"{first:020}.parquet", lambda file: parquet.write_table(rows, file))


def _write_new(path: Path, write: Callable[[IO[bytes]], object]) -> bool:
    """Create a file atomically; return False if it exists, also if another process creates it at the same time."""
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
                    f"--out: {path} cannot be created as a hard link ({error.strerror}). Choose a folder on a file "
                    "system with hard links."
                ) from None
        finally:
            partial.unlink(missing_ok=True)
    return True
