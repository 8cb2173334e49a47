"""Alert packets: Avro files, folders, patterns and nightly tar archives, as records in bounded memory."""

import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from alerce_early.data import raw_files
from alerce_early.data.labels import OF_LABELS, Labels, Naming, find_label_column, read_csv, read_labels
from alerce_early.data.nights import find_nights
from alerce_early.data.readers.packets import containers
from alerce_early.data.readers.packets.containers import Block
from alerce_early.data.readers.packets.decode import SURVEYS, Packet, Work, decode_records
from alerce_early.data.readers.packets.fields import SNR
from alerce_early.data.readers.packets.schemas import Schemas
from alerce_early.data.readers.stamps_file import CHANNELS, CLASSES
from alerce_early.data.records import UNLABELLED, Chunk, Records, Rejected
from alerce_early.data.text import to_printable
from alerce_early.errors import InputError
from alerce_early.machine import cores, map_in_processes

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
    labels_paths: Sequence[str | Path] | None = None,
    schemas: Schemas | None = None,
    survey: str = "",
    channels: Sequence[str] = CHANNELS,
    naming: Naming | None = None,
    pad_edges: bool = False,
) -> Iterator[Chunk]:
    """Read packets, `size` in each chunk (the last may have fewer), in the same order whatever the number of workers.

    shard: (i, n) takes packets i, i + n, i + 2n, ... of the whole input. skip: leaves out that many of the shard's
    first packets without decoding them. workers: processes that decode; default: as many as there are cores.
    labels_paths: CSVs of class names, see `labels.join_labels`; default: the labels.csv of each folder. A packet
    they do not name, or give no class, is unlabelled. naming: the classes they name. schemas: of files that are
    messages without, see `schemas`.
    survey: "ZTF" or "Rubin", whose packets are wanted; "": any, and a chunk ends before the first of another. channels:
    the images of a stamp, in order; of Rubin also "SNR". pad_edges: take cutouts that the edge of a chip has cut, with
    NaN for what is missing, see `ztf.read`.
    Raises InputError where a path has no file, none of them holds a packet or labels are of another form.
    """
    if not 0 <= shard[0] < shard[1]:
        raise InputError(f"shard {shard[0]}/{shard[1]}: wanted i/n with i from 0 to n - 1.")
    if size < 1 or skip < 0:
        raise InputError(f"size {size}, skip {skip}: wanted 1 or more, 0 or more.")
    _check_channels(channels)
    beside = find_labels(paths) if labels_paths is None else [Path(path) for path in labels_paths]
    found = containers.find(paths, beside)
    naming = naming or Naming()
    known = [read_labels(file, naming) for file in beside]
    origin = f"packets of {to_printable(found[0].name)}" + (
        f" and {len(found) - 1:,} more files" if len(found) > 1 else ""
    )
    decode_batch = partial(decode_records, survey=survey, channels=tuple(channels), pad_edges=pad_edges)
    rows = decode_all(decode_batch, _batches(_select_records(found, shard, skip, schemas)), workers)
    return (_chunk(part, origin, known, channels, naming.classes) for part in _cut(rows, size))


def decode(
    messages: Sequence[bytes],
    schemas: Schemas | None = None,
    survey: str = "",
    channels: Sequence[str] = CHANNELS,
) -> Chunk:
    """Decode packets as a broker's stream delivers them: each message an Avro file, or a record without its schema.

    Records as those of `stream`, in order, decoded in this process. schemas: of the latter, see `schemas`.
    survey: as of `stream`; "": that of the first. What cannot be read is among `rejected`: a message, or a record of
    one that holds several. Raises InputError where a registry of schemas does not answer, and for nothing else.
    """
    _check_channels(channels)
    held = [
        (block, range(block.count))
        for number, message in enumerate(messages)
        for block in containers.look_into(io.BytesIO(message), f"message {number}", schemas)
    ]
    return _decode_here(held, survey, channels, f"{len(messages):,} messages")


def decode_rows(
    table: pyarrow.RecordBatch | pyarrow.Table, survey: str = "", channels: Sequence[str] = CHANNELS
) -> Chunk:
    """Decode packets that are rows, with the columns of `fields.Fields.needed`; the source of the first is "#1".

    All else as of `decode`. Raises InputError where a column is lacking or of a type that cannot be read.
    """
    _check_channels(channels)
    try:
        held = [(block, range(block.count)) for block in containers.pack(table, "", 1)]
    except ValueError as error:
        raise InputError(f"rows that are no alert packets: {error}.") from None
    return _decode_here(held, survey, channels, f"{len(table):,} rows")


def _decode_here(work: Work, survey: str, channels: Sequence[str], origin: str) -> Chunk:
    rows = decode_records(work, survey, channels)
    first = next((row.survey for row in rows if isinstance(row, Packet)), "")
    strange = f"packet of another survey than the first, {first}"
    rows = [Rejected(r.source, r.key, strange) if isinstance(r, Packet) and r.survey != first else r for r in rows]
    return _chunk(rows, origin, [], channels)


def _check_channels(channels: Sequence[str]) -> None:
    known = (*CHANNELS, SNR)
    if not channels or set(channels) - set(known):
        raise InputError(f"data.channels={list(channels)}: wanted some of {', '.join(known)}.")


def find_labels(paths: Iterable[str | Path]) -> list[Path]:
    """Return the labels.csv of each folder among the paths that has one."""
    return [file for path in paths if (file := Path(path) / raw_files.LABELS).is_file()]


def read(
    path: str | Path | None,
    labels_path: str | Path | None = None,
    schemas: str | Path | None = None,
    survey: str = "ZTF",
    channels: Sequence[str] = CHANNELS,
    classes: Sequence[str] | str | None = None,
    labels_map: Mapping[str, str | None] | None = None,
    pad_edges: bool = False,
) -> Records:
    """Read all packets of a file, folder, pattern or archive at once, to train on or be judged on.

    labels_path: as one of `stream`'s. schemas: a place of `schemas.Schemas`. survey, channels, pad_edges: as of
    `stream`. classes, labels_map: as of `labels.Naming.of`. A packet
    that cannot be read is set aside, logged and counted by reason. Raises InputError if nothing can be read, the
    labels are of another form, or none of them belongs to a packet.
    """
    if path is None:
        raise InputError(f"packets of {survey} are needed: data.path=FOLDER, 'PATTERN*' or FILE (avro, tar, tar.gz).")
    labels_paths = find_labels([path]) if labels_path is None else [Path(labels_path)]
    given = [find_label_column(read_csv(file)) or [] for file in labels_paths if classes == OF_LABELS]
    naming = Naming.of(classes, labels_map, chain.from_iterable(given))
    options: dict[str, Any] = {"survey": survey, "channels": channels, "naming": naming, "pad_edges": pad_edges}
    known = Schemas(schemas) if schemas else None
    chunks = list(stream([path], labels_paths=labels_paths, schemas=known, **options))
    rejected = [packet for chunk in chunks for packet in chunk.rejected]
    for packet in rejected:
        log.warning("set aside: %s: %s", packet.source, packet.reason)
    readable = [chunk.records for chunk in chunks if chunk.records is not None]
    if not readable:
        raise InputError(f"{path}: not one of {len(rejected):,} packets can be read; the first: {rejected[0].reason}.")
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(records, name) for records in readable])
        for name in ("images", "labels", "ids", "features")
    }
    unmatched = 0
    for table in (read_labels(file, naming) for file in labels_paths):
        keys = np.concatenate([chunk.keys for chunk in chunks]) if table.by == "candid" else columns["ids"]
        log.info(table.match(keys.tolist()))
        unmatched += len(table) - table.count(keys.tolist())
    set_aside = Counter(_kind(packet.reason) for packet in rejected)
    columns["night"] = find_nights({"jd": np.concatenate([one.context["jd"] for one in readable])}, survey)
    return replace(readable[0], **columns, context={}, set_aside=set_aside, unmatched_labels=unmatched)


def _kind(reason: str) -> str:
    """Return a reason without what is about one packet alone: what follows a colon, and the sides of its stamp."""
    return re.sub(r"^stamp is \d+ x \d+", "stamp is not whole", reason.partition(":")[0])


def _batches(found: Iterable[tuple[Block, range]]) -> Iterator[Work]:
    """Yield blocks in groups that are work enough for one process."""
    batch: list[tuple[Block, range]] = []
    packets = held = 0
    for block, wanted in found:
        batch.append((block, wanted))
        packets, held = packets + len(wanted), held + len(block.data)
        if packets >= BATCH or held >= LARGEST_BATCH:
            yield batch
            batch, packets, held = [], 0, 0
    if batch:
        yield batch


def _select_records(
    found: Sequence[Path], shard: tuple[int, int], skip: int, schemas: Schemas | None
) -> Iterator[tuple[Block, range]]:
    """Yield each block with the numbers of those of its records that are the shard's and not skipped."""
    index, n = shard
    first = 0  # number of the block's first record in the whole input
    for block in containers.read_blocks(found, schemas):
        mine = range((index - first) % n, block.count, n)
        first += block.count
        mine, skip = mine[skip:], skip - min(skip, len(mine))
        if mine:
            yield block, mine
    if not first:
        raise InputError(f"{found[0]}{' and the others' * (len(found) > 1)}: holds no alert packet.")


def _cut(rows: Iterator[Packet | Rejected], size: int) -> Iterator[list[Packet | Rejected]]:
    """Yield so many rows at a time, or as many as there are before a packet of another survey."""
    part: list[Packet | Rejected] = []
    survey = ""
    for row in rows:
        other = isinstance(row, Packet) and survey not in ("", row.survey)
        if len(part) == size or other:
            yield part
            part, survey = [], ""
        part.append(row)
        survey = row.survey if isinstance(row, Packet) else survey
    if part:
        yield part


def _chunk(
    rows: Sequence[Packet | Rejected],
    origin: str,
    given: Sequence[Labels],
    channels: Sequence[str],
    classes: tuple[str, ...] = CLASSES,
) -> Chunk:
    packets = [row for row in rows if isinstance(row, Packet)]
    rejected = tuple(row for row in rows if isinstance(row, Rejected))
    keys, ids, sources = (np.array([getattr(p, name) for p in packets], str) for name in ("key", "id", "source"))
    records = None
    if packets:
        number = {name: i for i, name in enumerate(classes)}
        numbers = [
            next(
                (
                    number[one.class_by_key[name]]
                    for one in given
                    if (name := p.key if one.by == "candid" else p.id) in one.class_by_key
                ),
                UNLABELLED,
            )
            for p in packets
        ]
        survey = SURVEYS[packets[0].survey]
        columns, context = np.split(np.stack([p.raw for p in packets]), [-len(survey.CONTEXT)], axis=1)
        records = Records(
            # planes lie one after the other, as networks want them; the shape is that of a stamps file
            images=np.moveaxis(np.stack([p.stamps for p in packets]), 1, 3),
            labels=np.array(numbers, np.int64),
            ids=ids,
            features=survey.derive_columns(columns),
            feature_names=survey.COLUMNS,
            classes=classes,
            origin=origin,
            channels=tuple(channels),
            survey=packets[0].survey,
            context=dict(zip(survey.CONTEXT, context.T, strict=True)),
        )
    return Chunk(records, keys, sources, rejected, len(rows))


def decode_all(
    decode: Callable[[Work], list[Packet | Rejected]], batches: Iterator[Work], workers: int | None
) -> Iterator[Packet | Rejected]:
    """Yield the packets of these batches in order. workers: processes, 0: none but this; default: one for each core."""
    first = list(islice(batches, 2))
    batches, workers = chain(first, batches), cores() if workers is None else workers
    alone = not workers or len(first) < 2  # not worth a process
    for packets in map(decode, batches) if alone else map_in_processes(decode, batches, workers):
        yield from packets
