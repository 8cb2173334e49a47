"""Alert packets of ZTF: avro files, folders, patterns and nightly tar archives, as records in bounded memory."""

import csv
import io
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from alerce_early.data import containers, labels, packets
from alerce_early.data.alerce import CLASSES, COLUMNS
from alerce_early.data.chunks import Chunk
from alerce_early.data.containers import Block
from alerce_early.data.names import shown
from alerce_early.data.packets import PLANES, Packets, Work
from alerce_early.data.records import UNLABELLED, Records, label_numbers
from alerce_early.data.workers import decoded
from alerce_early.errors import InputError

log = logging.getLogger(__name__)

BATCH = 64  # packets decoded in one go
LARGEST_BATCH = 1 << 24  # bytes of their blocks from which on there are fewer


def stream(
    paths: Sequence[str | Path],
    *,
    size: int = 1024,
    shard: tuple[int, int] = (0, 1),
    skip: int = 0,
    workers: int | None = None,
) -> Iterator[Chunk]:
    """Read packets, `size` a chunk (the last may have fewer), in the same order whatever the number of workers.

    shard: (i, n) takes packets i, i + n, i + 2n, ... of the whole input. skip: leaves out that many of the shard's
    first packets without decoding them. workers: processes that decode; default: as many as there are cores.
    Raises InputError where a path has no file or none of them holds a packet.
    """
    if not 0 <= shard[0] < shard[1]:
        raise InputError(f"shard {shard[0]}/{shard[1]}: wanted i/n with i from 0 to n - 1.")
    if size < 1 or skip < 0:
        raise InputError(f"size {size}, skip {skip}: wanted 1 or more, 0 or more.")
    found = containers.find(paths)
    return _chunks(found, size, shard, skip, workers)


def decode(messages: Sequence[bytes]) -> Chunk:
    """Packets as a broker's stream delivers them: each message the bytes of one Avro file, with its schema.

    Records as those of `stream`, in order, decoded in this process. What cannot be read is among `rejected`: a
    message, or a record of one that holds several.
    """
    held = (
        (block, range(block.count))
        for number, message in enumerate(messages)
        for block in containers.avro(io.BytesIO(message), f"message {number}")
    )
    # in runs, since a message may declare records by the thousand that it does not hold
    planes = np.empty((BATCH, *PLANES), np.float32)
    parts, stamps = [], [planes[:0]]
    for batch in _batches(held, BATCH):
        parts.append(packets.decode(batch, planes))
        stamps.append(planes[: len(parts[-1].keys)].copy())
    return _chunk(parts, np.concatenate(stamps), f"{len(messages):,} messages")


def read(path: str | Path | None, labels_path: str | Path | None = None) -> Records:
    """All packets of a file, folder, pattern or archive at once, to train on or be judged on.

    labels_path: a CSV of class names, see `labels.known`; default: labels.csv in the folder, if there is one. A packet
    it does not name, or gives no class, is unlabelled. A packet that cannot be read is set aside, logged and counted
    by reason.
    Raises InputError if nothing can be read or the labels are of another form.
    """
    if path is None:
        raise InputError("data=alerts needs packets: data.path=FOLDER, 'PATTERN*' or FILE (avro, tar, tar.gz).")
    if labels_path is None and (beside := Path(path) / "labels.csv").is_file():
        labels_path = beside
    chunks = list(stream([path]))
    rejected = [packet for chunk in chunks for packet in chunk.rejected]
    for packet in rejected:
        log.warning("set aside: %s: %s", packet.source, packet.reason)
    readable = [chunk.records for chunk in chunks if chunk.records is not None]
    if not readable:
        raise InputError(f"{path}: not one of {len(rejected):,} packets can be read; the first: {rejected[0].reason}.")
    ids = np.concatenate([records.ids for records in readable])
    keys = np.concatenate([chunk.keys for chunk in chunks])
    return replace(
        readable[0],
        images=np.concatenate([records.images for records in readable]),
        labels=np.full(len(ids), UNLABELLED) if labels_path is None else _labels(Path(labels_path), keys, ids),
        ids=ids,
        features=np.concatenate([records.features for records in readable]),
        set_aside=Counter(_kind(packet.reason) for packet in rejected),
    )


def _kind(reason: str) -> str:
    """A reason without what is about one packet alone: what follows a colon, and the sides of its stamp."""
    return re.sub(r"^stamp is \d+ x \d+", "stamp is not whole", reason.partition(":")[0])


def _labels(file: Path, keys: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """(n,) int64 labels of the packets with these candids and objectIds."""
    try:
        with file.open(newline="", encoding="utf-8") as text:
            reader = csv.DictReader(text, restval="")
            names, rows = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is no readable CSV: {error}.") from None
    table = {name: [row[name].strip() for row in rows] for name in names}
    named = {"candid": keys, "id": ids}
    by, known = labels.known(table, named, str(file))
    numbers = dict(zip(known, label_numbers(list(known.values()), CLASSES, str(file)), strict=True))
    return np.array([numbers.get(key, UNLABELLED) for key in named[by]], dtype=np.int64)


def _chunks(
    found: Sequence[Path], size: int, shard: tuple[int, int], skip: int, workers: int | None
) -> Iterator[Chunk]:
    origin = f"packets of {shown(found[0].name)}" + (f" and {len(found) - 1:,} more files" if len(found) > 1 else "")
    parts: list[Packets] = []
    for part, stamps in decoded(_batches(_wanted(found, shard, skip), size), min(BATCH, size), workers):
        if not parts:
            planes, filled = np.empty((size, *PLANES), np.float32), 0
        planes[filled : filled + len(part.keys)] = stamps[: len(part.keys)]
        filled += len(part.keys)
        parts.append(part)
        if sum(len(held.keys) + len(held.rejected) for held in parts) == size:
            yield _chunk(parts, planes, origin)
            parts = []
    if parts:
        yield _chunk(parts, planes, origin)


def _batches(found: Iterable[tuple[Block, range]], size: int) -> Iterator[Work]:
    """Records cut into work for one process each, so that none reaches over the end of a chunk of `size`."""
    batch: list[tuple[Block, range]] = []
    room = min(BATCH, size)
    left = size
    held = 0  # bytes of the batch's blocks
    for block, wanted in found:
        while wanted:
            batch.append((block, wanted[:room]))
            taken = len(wanted[:room])
            wanted = wanted[taken:]
            room, left, held = room - taken, left - taken, held + len(block.data)
            if not room or held >= LARGEST_BATCH:
                yield batch
                batch, left, held = [], left or size, 0
                room = min(BATCH, left)
    if batch:
        yield batch


def _wanted(found: Sequence[Path], shard: tuple[int, int], skip: int) -> Iterator[tuple[Block, range]]:
    """Each block with the numbers of those of its records that are the shard's and not skipped."""
    index, n = shard
    first = 0  # number of the block's first record in the whole input
    for block in containers.blocks(found):
        mine = range((index - first) % n, block.count, n)
        first += block.count
        mine, skip = mine[skip:], skip - min(skip, len(mine))
        if mine:
            yield block, mine
    if not first:
        raise InputError(f"{found[0]}{' and the others' * (len(found) > 1)}: holds no alert packet.")


def _chunk(parts: Sequence[Packets], planes: np.ndarray, origin: str) -> Chunk:
    """Decoded packets whose stamps are the first of planes (n or more, *PLANES)."""
    keys = np.array([key for part in parts for key in part.keys], dtype=str)
    rejected = tuple(packet for part in parts for packet in part.rejected)
    records = None
    if len(keys):
        records = Records(
            # planes lie one after the other, as networks want them; the shape is that of a stamps file
            images=np.moveaxis(planes[: len(keys)], 1, 3),
            labels=np.full(len(keys), UNLABELLED),
            ids=np.array([name for part in parts for name in part.ids]),
            features=np.concatenate([part.features for part in parts]),
            feature_names=COLUMNS,
            classes=CLASSES,
            origin=origin,
        )
    sources = np.array([source for part in parts for source in part.sources], dtype=str)
    return Chunk(records, keys, sources, rejected, len(keys) + len(rejected))
