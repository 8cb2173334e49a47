"""Read alert packets from files, folders, patterns, archives, messages and tables, in bounded memory."""

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

BATCH_PACKETS = 64  # decoded in one task
MAX_BATCH_BYTES = 1 << 24  # of encoded blocks in one task


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
    """Read packets in chunks, in the same order for any number of workers.

    Parameters
    ----------
    paths : sequence of path
        Files, folders and patterns.
    size : int
        Packets per chunk; the last chunk may be smaller.
    shard : tuple of int
        (i, n) reads packets i, i + n, i + 2n, ... of the whole input.
    skip : int
        Number of packets of the shard to skip without decoding them.
    workers : int, optional
        Decoding processes, 0 for none but this one; default: one per core.
    labels_paths : sequence of path, optional
        CSVs of class names, see `labels.join_labels`; default: the labels.csv of each folder. Other packets are
        unlabelled.
    schemas : Schemas, optional
        Schemas of files that are schemaless messages.
    survey : str
        "ZTF" or "Rubin" rejects packets of the other survey; "" accepts both, with one survey per chunk.
    channels : sequence of str
        Channels to stack, in order: science, template, difference; for Rubin also SNR.
    naming : Naming, optional
        Classes of the labels.
    pad_edges : bool
        Whether to pad ZTF cutouts at the edge of a chip with NaN, see `ztf.read`.

    Yields
    ------
    Chunk
        Records with their keys and sources, and the rejected packets.

    Raises
    ------
    InputError
        If a path has no file, the input has no packets, or a table of labels is invalid.
    """
    if not 0 <= shard[0] < shard[1]:
        raise InputError(f"shard {shard[0]}/{shard[1]}: expected i/n with i from 0 to n - 1.")
    if size < 1 or skip < 0:
        raise InputError(f"size {size}, skip {skip}: expected a size of at least 1 and a skip of at least 0.")
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
    """Decode messages of a broker's stream, in this process.

    Parameters
    ----------
    messages : sequence of bytes
        Avro files, or schemaless records in Confluent's wire format.
    schemas : Schemas, optional
        Schemas of the schemaless records.
    survey : str
        Survey to accept; "" accepts the survey of the first packet.
    channels : sequence of str
        Channels to stack, in order.

    Returns
    -------
    Chunk
        Records in the order of the messages, and the messages or packets that were rejected.

    Raises
    ------
    InputError
        If a schema registry does not answer. Invalid messages are rejected, never raised.
    """
    _check_channels(channels)
    held = [
        (block, range(block.count))
        for number, message in enumerate(messages)
        for block in containers.iter_blocks(io.BytesIO(message), f"message {number}", schemas)
    ]
    return _decode_here(held, survey, channels, f"{len(messages):,} messages")


def decode_rows(
    table: pyarrow.RecordBatch | pyarrow.Table, survey: str = "", channels: Sequence[str] = CHANNELS
) -> Chunk:
    """Decode rows of a table of packets, in this process.

    Parameters
    ----------
    table : pyarrow.RecordBatch or pyarrow.Table
        Packets with the columns of `fields.Fields.needed`, or flat like Fink's. The source of the first row is "#1".
    survey : str
        Survey to accept; "" accepts the survey of the first packet.
    channels : sequence of str
        Channels to stack, in order.

    Returns
    -------
    Chunk
        Records in the order of the rows, and the rejected rows.

    Raises
    ------
    InputError
        If a column is missing or of the wrong type.
    """
    _check_channels(channels)
    try:
        held = [(block, range(block.count)) for block in containers.pack(table, "", 1)]
    except ValueError as error:
        raise InputError(f"rows are not alert packets: {error}.") from None
    return _decode_here(held, survey, channels, f"{len(table):,} rows")


def _decode_here(work: Work, survey: str, channels: Sequence[str], origin: str) -> Chunk:
    """Decode blocks in this process; reject packets of another survey than the first."""
    rows = decode_records(work, survey, channels)
    first = next((row.survey for row in rows if isinstance(row, Packet)), "")
    strange = f"packet is of another survey than the first, {first}"
    rows = [Rejected(r.source, r.key, strange) if isinstance(r, Packet) and r.survey != first else r for r in rows]
    return _chunk(rows, origin, [], channels)


def _check_channels(channels: Sequence[str]) -> None:
    """Raise InputError for an unknown channel, or none."""
    known = (*CHANNELS, SNR)
    if not channels or set(channels) - set(known):
        raise InputError(f"data.channels={list(channels)}: expected some of {', '.join(known)}.")


def find_labels(paths: Iterable[str | Path]) -> list[Path]:
    """Return the existing labels.csv files of the folders among the paths."""
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
    """Read all packets of a file, folder, pattern or archive at once, for training or evaluation.

    Rejected packets are logged, and counted by reason in the result.

    Parameters
    ----------
    path : path
        File, folder, pattern or archive.
    labels_path : path, optional
        CSV of class names; default: the labels.csv of the folder.
    schemas : path or str, optional
        Location of schemas, see `schemas.Schemas`.
    survey : str
        "ZTF" or "Rubin".
    channels : sequence of str
        Channels to stack, in order.
    classes : sequence of str or str, optional
        Classes of the labels, see `labels.Naming.of`.
    labels_map : mapping of str to str, optional
        Further names of classes, see `labels.Naming.of`.
    pad_edges : bool
        Whether to pad ZTF cutouts at the edge of a chip with NaN, see `ztf.read`.

    Returns
    -------
    Records
        All packets that can be read.

    Raises
    ------
    InputError
        If no packet can be read, the labels are invalid, or no label matches a packet.
    """
    if path is None:
        raise InputError(f"data.path is not set. Give {survey} packets with data.path=FOLDER, 'PATTERN*' or FILE.")
    labels_paths = find_labels([path]) if labels_path is None else [Path(labels_path)]
    given = [find_label_column(read_csv(file)) or [] for file in labels_paths if classes == OF_LABELS]
    naming = Naming.of(classes, labels_map, chain.from_iterable(given))
    options: dict[str, Any] = {"survey": survey, "channels": channels, "naming": naming, "pad_edges": pad_edges}
    known = Schemas(schemas) if schemas else None
    chunks = list(stream([path], labels_paths=labels_paths, schemas=known, **options))
    rejected = [packet for chunk in chunks for packet in chunk.rejected]
    for packet in rejected:
        log.warning("rejected: %s: %s", packet.source, packet.reason)
    readable = [chunk.records for chunk in chunks if chunk.records is not None]
    if not readable:
        raise InputError(f"{path}: none of {len(rejected):,} packets can be read. The first: {rejected[0].reason}.")
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
    """Return a reason without the details of one packet: the text after a colon, and the size of its stamp."""
    return re.sub(r"^stamp is \d+ x \d+", "stamp is incomplete", reason.partition(":")[0])


def _batches(found: Iterable[tuple[Block, range]]) -> Iterator[Work]:
    """Group blocks into tasks of `BATCH_PACKETS` packets or `MAX_BATCH_BYTES`."""
    batch: list[tuple[Block, range]] = []
    packets = held = 0
    for block, selected in found:
        batch.append((block, selected))
        packets, held = packets + len(selected), held + len(block.data)
        if packets >= BATCH_PACKETS or held >= MAX_BATCH_BYTES:
            yield batch
            batch, packets, held = [], 0, 0
    if batch:
        yield batch


def _select_records(
    found: Sequence[Path], shard: tuple[int, int], skip: int, schemas: Schemas | None
) -> Iterator[tuple[Block, range]]:
    """Yield each block with the numbers of its records that belong to the shard and are not skipped."""
    index, n = shard
    first = 0  # number of the block's first record in the whole input
    for block in containers.read_blocks(found, schemas):
        mine = range((index - first) % n, block.count, n)
        first += block.count
        mine, skip = mine[skip:], skip - min(skip, len(mine))
        if mine:
            yield block, mine
    if not first:
        raise InputError(f"{found[0]}{' and the others' * (len(found) > 1)}: no alert packets found.")


def _cut(rows: Iterator[Packet | Rejected], size: int) -> Iterator[list[Packet | Rejected]]:
    """Split rows into parts of at most `size`, each of one survey."""
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
    """Combine decoded packets with their labels, and rejected packets, into a chunk."""
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
            # each channel is contiguous in memory, as networks need it, in the shape of a stamps file
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
    """Decode batches in processes, in order.

    Parameters
    ----------
    decode : callable
        Function that decodes one batch.
    batches : iterator of Work
        The batches.
    workers : int or None
        Processes, 0 for none but this one, None for one per core.

    Yields
    ------
    Packet or Rejected
        One per record.
    """
    first = list(islice(batches, 2))
    batches, workers = chain(first, batches), cores() if workers is None else workers
    alone = not workers or len(first) < 2  # too little work for a process
    for packets in map(decode, batches) if alone else map_in_processes(decode, batches, workers):
        yield from packets
