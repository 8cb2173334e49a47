"""What is to be classified, as a stream of chunks of rows: which reader takes which file is decided here.

A network names the raw channels it was trained on; the readers that deliver these are the ones whose files it can
take, and of them the ending of a file's name chooses; alert packets are known by their first bytes, too. A new format
is one more line of `FORMATS`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from glob import has_magic
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data import raw_files
from alerce_early.data.readers import array_files, hits, sdss, stamps_file
from alerce_early.data.readers.packets.fields import RUBIN, SNR, ZTF
from alerce_early.data.records import Chunk, Records, Rejected
from alerce_early.data.spec import DataSpec
from alerce_early.data.text import to_printable
from alerce_early.errors import InputError
from alerce_early.evaluation import tables
from alerce_early.serving.output import partial_of, rejected_of

Shard = tuple[int, int]  # (i, n): the i-th of n parts, from 0


@dataclass(frozen=True)
class Format:
    """One kind of file: what it holds, in words; the channels and the columns it can deliver; how its names end.

    survey: for whose networks alone; "" for all.

    stream: the source and the keywords of `Source.chunks`, to chunks.
    """

    name: str
    channels: tuple[str, ...]
    columns: tuple[str, ...]
    ends: tuple[str, ...]
    stream: Callable[..., Iterator[Chunk]]
    survey: str = ""

    @property
    def shown(self) -> tuple[str, ...]:
        """The columns that stand beside the answers in a table."""
        return tuple(name for name in (*tables.PLACE, *tables.METADATA) if name in self.columns)


@dataclass(frozen=True)
class Source:
    """Files of one format, for a network of one spec.

    labels: CSVs of the classes of packets among them. schemas: where those of messages are, see `schemas`. workers:
    processes that decode packets, see `packets.stream`. roots: beginnings of the files' paths that rows do not tell, so
    that a table is the same wherever its input lay.
    """

    files: Sequence[Path]
    format: Format
    spec: DataSpec
    labels: Sequence[Path] = ()
    schemas: str | None = None
    workers: int | None = None
    roots: Sequence[str] = ()

    def chunks(self, size: int, shard: Shard = (0, 1), skip: int = 0, survey: str = "") -> Iterator[Chunk]:
        """Rows in the order of the input, about `size` at a time; those of one shard, after its first `skip`.

        survey: whose packets are wanted, "" for any; the others are set aside.

        The same arguments always cut the same chunks, and where `skip` ends one, the rest is cut as without.
        """
        for chunk in self.format.stream(self, size=size, shard=shard, skip=skip, survey=survey):
            sources = np.array([_strip(one, self.roots) for one in chunk.sources.tolist()], dtype=str)
            rejected = tuple(replace(row, source=_strip(row.source, self.roots)) for row in chunk.rejected)
            yield replace(chunk, sources=sources, rejected=rejected)


def find(
    given: Iterable[str | Path],
    spec: DataSpec,
    out: Path | None = None,
    schemas: str | None = None,
) -> Source:
    """Return the source of these files, folders and patterns: each file once, in the order given, a folder sorted.

    In a folder of alert packets every file that is not hidden is included except labels.csv, which labels them; in a
    folder of another format only files with its extensions. out: the output file, skipped if found among the inputs.
    schemas: as of `Source`.
    Raises InputError where there is nothing, or nothing that a network of this spec can take.
    """
    formats, paths = _formats(spec), [Path(str(path)) for path in given]
    packets = next((form for form in formats if form.stream is _packets), None)
    ends = ("",) if packets else endings(spec)
    beside = [file for path in paths if packets and (file := path / raw_files.LABELS).is_file()]
    found = dict.fromkeys(file for path in paths for file in raw_files.matching(path, ends, "as INPUT"))
    chosen = {file: _format(file, formats) for file in found if not (file in beside or _is_output(file, out))}
    used = {form.name: form for form in chosen.values() if form}
    strange = [file for file in dict.fromkeys(paths) if file in chosen and chosen[file] is None]
    if not used or (strange and packets not in used.values()):
        wanted = " or ".join(f"{form.name} ({', '.join(form.ends)})" for form in formats)
        raise InputError(
            f"{(strange or list(chosen) or paths)[0]} is not for this network, which takes {spec.kind} with the "
            f"channels {', '.join(spec.channels) or 'unknown'}: {wanted or 'train it again'}."
        )
    if len(used) > 1:
        raise InputError(f"the input holds {' and '.join(used)}; give one of them at a time.")
    (form,) = used.values()
    files = [file for file in chosen if form is packets or chosen[file]]
    roots = sorted({_root(path) for path in paths}, key=len, reverse=True)
    if len({_strip(str(file), roots) for file in files}) < len(files):
        roots = []  # two files would have one name
    return Source(files, form, spec, beside, schemas, roots=roots)


def _root(given: Path) -> str:
    """Return what of the paths of the files that an input stands for is before its last part, or before a pattern."""
    fixed = takewhile(lambda part: not has_magic(part), given.parts)
    place = given.parent if given.exists() else Path(*fixed)
    return "" if place == Path() else f"{place}/".replace("//", "/")


def _strip(source: str, roots: Sequence[str]) -> str:
    """Return where a row was without the first of these roots that it begins with."""
    return next((source.removeprefix(root) for root in roots if source.startswith(root)), source)


def _format(file: Path, formats: Sequence[Format]) -> Format | None:
    """Return the format of one file, None where it is of none of them."""
    named = (form for form in formats if file.name.lower().endswith(form.ends))
    packets = (form for form in formats if form.stream is _packets and raw_files.holds_packets(file))
    return next(named, None) or next(packets, None)


def _is_output(file: Path, out: Path | None) -> bool:
    if out is None:
        return False
    file, out = file.absolute(), out.absolute()
    return file in (out, rejected_of(out)) or partial_of(out) in file.parents


def endings(spec: DataSpec) -> tuple[str, ...]:
    """How the names of the files end that a network of this spec can take."""
    return tuple(dict.fromkeys(end for form in _formats(spec) for end in form.ends))


def find_packets(spec: DataSpec) -> Format:
    """Return the format of the packets that a network of this spec takes. Raises InputError where it takes none."""
    for form in _formats(spec):
        if form.stream is _packets:
            return form
    raise InputError(
        f"this network takes {spec.kind} with the channels {', '.join(spec.channels) or 'unknown'}, "
        "which alert packets do not hold."
    )


def _formats(spec: DataSpec) -> list[Format]:
    of = spec.survey or stamps_file.SURVEY
    fit = (form for form in FORMATS if spec.channels and set(spec.channels) <= set(form.channels))
    return [form for form in fit if not form.survey or form.survey == of]


def _packets(source: Source, *, size: int, shard: Shard, skip: int, survey: str) -> Iterator[Chunk]:
    from alerce_early.data.readers.packets import (
        schemas as wire,  # needs an extra, which only those who have packets have
    )
    from alerce_early.data.readers.packets import stream as alerts

    return alerts.stream(
        source.files,
        size=size,
        shard=shard,
        skip=skip,
        workers=source.workers,
        labels_paths=source.labels,
        schemas=wire.Schemas(source.schemas) if source.schemas else None,
        survey=survey,
        channels=source.spec.channels,
    )


def _rows(
    source: Source,
    *,
    read: Callable[[Path, DataSpec], Records],
    size: int,
    shard: Shard,
    skip: int,
    survey: str,
) -> Iterator[Chunk]:
    """Files that are read whole, each of one row or of many. Shards divide the files, or of few files the rows."""
    paths, spec = source.files, source.spec
    index, n = shard
    by_file = len(paths) >= n
    names = _names(paths)
    pieces: list[Chunk] = []
    for path in paths[index::n] if by_file else paths:
        for piece in _pieces(path, names[path], spec, read, size, (0, 1) if by_file else shard):
            if skip:  # a skip ends where a piece ends, because a chunk is made of whole pieces
                skip -= piece.read
                continue
            if pieces and _layout(pieces[0]) != _layout(piece):
                yield _merge(pieces)
                pieces = []
            pieces.append(piece)
            if sum(held.read for held in pieces) >= size:
                yield _merge(pieces)
                pieces = []
    if pieces:
        yield _merge(pieces)


def _pieces(
    path: Path, name: str, spec: DataSpec, read: Callable[[Path, DataSpec], Records], size: int, shard: Shard
) -> Iterator[Chunk]:
    """Yield the rows of one file, at most `size` at a time; a file that cannot be read is one rejected row."""
    index, n = shard
    source = to_printable(str(path))
    try:
        records = read(path, spec)
    except InputError as error:
        if index == 0:
            yield _chunk(None, [], source, name, [Rejected(source, "", to_printable(str(error)))], 1)
        return
    wanted = (*spec.raw_shape[1:], spec.raw_shape[0])
    rows = np.arange(index, len(records), n)
    for start in range(0, len(rows), size):
        part = rows[start : start + size].tolist()
        fits = [row for row in part if records.images[row].shape == wanted]
        rejected = [
            Rejected(source, f"{name}:{row}", f"stamp is {_by(records.images[row].shape)}, wanted {_by(wanted)}")
            for row in sorted(set(part) - set(fits))
        ]
        yield _chunk(_take_rows(records, fits) if fits else None, fits, source, name, rejected, len(part))


def _take_rows(records: Records, rows: list[int]) -> Records:
    """Return some rows of records, all of one shape, as dense arrays of their own."""
    return replace(
        records,
        images=np.stack([records.images[row] for row in rows]).astype(np.float32),
        labels=records.labels[rows],
        ids=records.ids[rows],
        features=records.features[rows],
        part=None,
    )


def _chunk(
    records: Records | None, rows: list[int], source: str, name: str, rejected: list[Rejected], read: int
) -> Chunk:
    keys = np.array([f"{name}:{row}" for row in rows], dtype=str)
    return Chunk(records, keys, np.full(len(rows), source), tuple(rejected), read)


def _layout(piece: Chunk) -> tuple[str, ...] | None:
    return piece.records.feature_names if piece.records else None


def _merge(pieces: list[Chunk]) -> Chunk:
    held = [piece.records for piece in pieces if piece.records]
    columns: dict[str, Any] = {
        name: np.concatenate([np.asarray(getattr(records, name)) for records in held])
        for name in ("images", "labels", "ids", "features")
        if held
    }
    return Chunk(
        replace(held[0], **columns) if held else None,
        np.concatenate([piece.keys for piece in pieces]),
        np.concatenate([piece.sources for piece in pieces]),
        tuple(rejected for piece in pieces for rejected in piece.rejected),
        sum(piece.read for piece in pieces),
    )


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return what rows are named by, printable: the file's name, or its whole path where two files share that."""
    names = {path: to_printable(path.name) for path in paths}
    shared = Counter(names.values())
    return {path: name if shared[name] == 1 else to_printable(str(path)) for path, name in names.items()}


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _stamps(path: Path, spec: DataSpec) -> Records:
    return stamps_file.from_raw(array_files.load(path, stamps_file.ENTRIES), f"file {path.name}", labelled=False)


def _hits(path: Path, spec: DataSpec) -> Records:
    return hits.read(path, channels=spec.channels)


def _spectra(path: Path, spec: DataSpec) -> Records:
    return sdss.read(path)


FORMATS = (
    *(
        Format("alert packets", channels, (*tables.PLACE, *columns), raw_files.PACKETS, _packets, survey)
        for channels, columns, survey in (
            (stamps_file.CHANNELS, stamps_file.COLUMNS, ZTF.survey),
            ((*stamps_file.CHANNELS, SNR), RUBIN.columns, RUBIN.survey),
        )
    ),
    Format("stamps files", stamps_file.CHANNELS, stamps_file.COLUMNS, array_files.ENDS, partial(_rows, read=_stamps)),
    Format("HiTS files", hits.CHANNELS, (), array_files.ENDS, partial(_rows, read=_hits)),
    Format("spectra", sdss.CHANNELS, sdss.COLUMNS, (*sdss.ENDS, *array_files.ENDS), partial(_rows, read=_spectra)),
)
