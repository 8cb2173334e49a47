"""Find the input files of a network, choose their reader and yield their rows in chunks.

A network can read the formats that contain the raw channels of its training data. Among them the content of a file
determines the format, see `readers.formats`, or else its extension. A new kind of input is a new row of `FORMATS`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import has_magic
from itertools import groupby, islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data import raw_files
from alerce_early.data.labels import CLASSES, Naming, read_labels
from alerce_early.data.readers import array_files, hits, sdss, stamps_file
from alerce_early.data.readers.formats import look, may_hold_packets
from alerce_early.data.readers.packets.fields import RUBIN, SNR, ZTF
from alerce_early.data.readers.stamps_file import CHANNELS
from alerce_early.data.records import Chunk, Records, Rejected
from alerce_early.data.spec import DataSpec
from alerce_early.data.text import to_printable
from alerce_early.errors import InputError
from alerce_early.evaluation import tables
from alerce_early.serving.output import partial_of, rejected_of

Shard = tuple[int, int]  # (i, n): the i-th of n parts, from 0
# One row, None if unreadable, with its source, its key and, if unreadable, the reason.
Row = tuple[Records | None, Rejected]
NO_METADATA = "has no metadata, which this network needs: use one trained with features=none, such as ztf_images"
Columns = Mapping[str, str] | None  # names of images, ids and metadata in a file of arrays, see `stamps_file.load`
COLUMNS = ("images", "labels", "ids", "features")


@dataclass(frozen=True)
class Format:
    """One kind of input.

    Parameters
    ----------
    name : str
        Name for messages.
    channels : tuple of str
        Channels of its images.
    columns : tuple of str
        Metadata columns.
    ends : tuple of str
        File extensions.
    read : callable, optional
        Function that reads a whole file for a network of a spec, with names of its columns. None for alert packets,
        which are streamed.
    survey : str, default ""
        Survey of the networks that can classify such files; "" for all.
    kinds : tuple of str
        Keys of the matching formats in `readers.formats`.
    """

    name: str
    channels: tuple[str, ...]
    columns: tuple[str, ...]
    ends: tuple[str, ...]
    read: Callable[[Path, DataSpec, Columns], Records] | None = None
    survey: str = ""
    kinds: tuple[str, ...] = array_files.KINDS

    @property
    def shown(self) -> tuple[str, ...]:
        """Input columns that are copied to the table of predictions."""
        return tuple(name for name in (*tables.PLACE, *tables.METADATA) if name in self.columns)


@dataclass(frozen=True)
class Source:
    """Files of one format, for a network of one spec.

    Parameters
    ----------
    files : sequence of Path
        The files, in order.
    format : Format
        Their format.
    spec : DataSpec
        Training data of the network.
    labels : sequence of Path
        CSVs with the classes of packets.
    schemas : str, optional
        Folder, file or registry with the Avro schemas of packets, see `packets.schemas`.
    workers : int, optional
        Number of processes that decode packets, see `packets.stream`.
    roots : sequence of str
        Leading folders to remove from the sources and keys of rows, so that a table does not depend on where its input
        is stored.
    columns : mapping of str to str, optional
        Names of the arrays in stamps files, see `stamps_file.load`.
    pad_edges : bool, default False
        Pad cutouts at the edge of a detector, see `packets.stream`.
    """

    files: Sequence[Path]
    format: Format
    spec: DataSpec
    labels: Sequence[Path] = ()
    schemas: str | None = None
    workers: int | None = None
    roots: Sequence[str] = ()
    columns: Columns = None
    pad_edges: bool = False

    def chunks(self, size: int, shard: Shard = (0, 1), skip: int = 0, survey: str = "") -> Iterator[Chunk]:
        """Yield the rows of one shard in the order of the input.

        The same arguments always yield the same chunks. If `skip` is the end of a chunk, the later chunks are the same
        as without it.

        Parameters
        ----------
        size : int
            Largest number of rows per chunk.
        shard : (int, int), default (0, 1)
            Part i of n, i from 0.
        skip : int, default 0
            Number of rows of the shard to skip.
        survey : str, default ""
            Survey whose packets are accepted, "" for any; other packets are rejected.

        Yields
        ------
        Chunk
            Rows and rejected rows.
        """
        if self.format.read:
            chunks = _read_files(self, self.format.read, size, shard, skip)
        else:
            from alerce_early.data.readers.packets import schemas, stream  # only packets need this extra

            chunks = stream.stream(
                self.files,
                size=size,
                shard=shard,
                skip=skip,
                workers=self.workers,
                labels_paths=self.labels,
                schemas=schemas.Schemas(self.schemas) if self.schemas else None,
                survey=survey,
                channels=self.spec.channels,
                naming=find_naming(self.spec, self.labels),
                pad_edges=self.pad_edges,
            )
        for chunk in chunks:
            sources = np.array([_strip(one, self.roots) for one in chunk.sources.tolist()], dtype=str)
            keys = np.array([_strip(one, self.roots) for one in chunk.keys.tolist()], dtype=str)
            rejected = tuple(
                replace(row, source=_strip(row.source, self.roots), key=_strip(row.key, self.roots))
                for row in chunk.rejected
            )
            yield self._require_metadata(replace(chunk, keys=keys, sources=sources, rejected=rejected))

    def _require_metadata(self, chunk: Chunk) -> Chunk:
        """Reject packets without any metadata if the network needs metadata."""
        if self.format.read or not chunk.records or not self.spec.features:
            return chunk
        without_metadata = np.isnan(chunk.records.features).all(1)
        return chunk.reject(without_metadata, NO_METADATA) if without_metadata.any() else chunk


def find(
    given: Iterable[str | Path],
    spec: DataSpec,
    out: Path | None = None,
    schemas: str | None = None,
    columns: Columns = None,
) -> Source:
    """Find the input files of a network.

    Each file is used once, in the given order; folders are sorted. A folder of alert packets contributes every visible
    file except labels.csv, which labels them; a folder of another format contributes the files with its extensions.

    Parameters
    ----------
    given : iterable of str or Path
        Files, folders and patterns.
    spec : DataSpec
        Training data of the network.
    out : Path, optional
        Output file, to be skipped among the inputs.
    schemas, columns
        As in `Source`.

    Returns
    -------
    Source
        The files and their format.

    Raises
    ------
    InputError
        If no file is found, if the network cannot classify it, or if the files have different formats.
    """
    formats, paths = _formats(spec), [Path(str(path)) for path in given]
    packets = next((form for form in formats if not form.read), None)
    ends = ("",) if packets else endings(spec)
    label_files = [file for path in paths if packets and (file := path / raw_files.LABELS).is_file()]
    found = dict.fromkeys(file for path in paths for file in raw_files.expand_path(path, ends, "as INPUT"))
    chosen = {file: _format(file, formats) for file in found if not (file in label_files or _is_output(file, out))}
    used = {form.name: form for form in chosen.values() if form}
    unknown = [file for file in dict.fromkeys(paths) if file in chosen and chosen[file] is None]
    if not used or (unknown and packets not in used.values()):
        expected = " or ".join(f"{form.name} ({', '.join(form.ends)})" for form in formats)
        first = (unknown or list(chosen) or paths)[0]
        content = look(first, describe=True)[1]
        raise InputError(
            f"{first} is {content}. This network cannot read it. Give {_describe(spec)}: "
            f"{expected or 'train it again'}."
        )
    if len(used) > 1:
        raise InputError(f"INPUT: contains {' and '.join(used)}. Give one of these formats at a time.")
    (form,) = used.values()
    files = [file for file in chosen if form is packets or chosen[file]]
    roots = sorted({_root(path) for path in paths}, key=len, reverse=True)
    if len({_strip(str(file), roots) for file in files}) < len(files):
        roots = []  # two files would otherwise share a name
    if columns and form.read is not _read_stamps:
        raise InputError(f"--columns: only for stamps files, but the input is {form.name}. Leave it out.")
    return Source(files, form, spec, label_files, schemas, roots=roots, columns=columns)


def _root(given: Path) -> str:
    """Return the leading folders of an input: up to its last part, or up to its first wildcard."""
    fixed = takewhile(lambda part: not has_magic(part), given.parts)
    place = given.parent if given.exists() else Path(*fixed)
    return "" if place == Path() else f"{place}/".replace("//", "/")


def _strip(source: str, roots: Sequence[str]) -> str:
    """Remove the first matching root from the source of a row."""
    return next((source.removeprefix(root) for root in roots if source.startswith(root)), source)


def _format(file: Path, formats: Sequence[Format]) -> Format | None:
    """Return the format of a file by its content, or else by its longest matching extension; None without a match."""
    found, _ = look(file)
    for form in formats:
        if found.key in form.kinds if form.read else may_hold_packets(file, found):
            return form
    if found.reader and found.key != "gzip":  # a readable file of another format; a damaged gzip file is ambiguous
        return None
    named = {end: form for form in reversed(formats) for end in form.ends if file.name.lower().endswith(end)}
    return named[max(named, key=len)] if named else None


def _is_output(file: Path, out: Path | None) -> bool:
    """Check whether an input file is the output, its rejected rows or one of its parts."""
    if out is None:
        return False
    file, out = file.absolute(), out.absolute()
    return file in (out, rejected_of(out)) or partial_of(out) in file.parents


def endings(spec: DataSpec) -> tuple[str, ...]:
    """Return the extensions of the files that a network of this spec can classify."""
    return tuple(dict.fromkeys(end for form in _formats(spec) for end in form.ends))


def find_packets(spec: DataSpec) -> Format:
    """Return the format of the alert packets that a network of this spec can classify.

    Raises
    ------
    InputError
        If the network cannot classify alert packets.
    """
    for form in _formats(spec):
        if not form.read:
            return form
    raise InputError(
        f"this network needs {_describe(spec)}, which alert packets do not contain. Choose a network of stamps."
    )


def _describe(spec: DataSpec) -> str:
    """Describe the images of a network."""
    return f"{spec.kind} with the channels {', '.join(spec.channels) or 'unknown'}"


def _formats(spec: DataSpec) -> list[Format]:
    """List the formats that a network of this spec can classify."""
    survey = spec.survey or stamps_file.SURVEY
    fit = (form for form in FORMATS if spec.channels and set(spec.channels) <= set(form.channels))
    return [form for form in fit if not form.survey or form.survey == survey]


def _read_files(
    source: Source, read: Callable[[Path, DataSpec, Columns], Records], size: int, shard: Shard, skip: int
) -> Iterator[Chunk]:
    """Yield chunks of files that are read whole; shards split the files, or the rows of fewer files than shards."""
    (index, n), paths, names = shard, source.files, _names(source.files)
    by_file = len(paths) >= n
    chosen = paths[index::n] if by_file else paths
    rows = (row for path in chosen for row in _read_rows(path, names[path], source, read))
    mine = islice(rows, skip, None) if by_file else islice(rows, index + skip * n, None, n)
    for _, alike in groupby(mine, lambda row: row[0]):
        while part := [row for _, row in islice(alike, size)]:
            yield _join_rows(part)


def _read_rows(
    path: Path, name: str, given: Source, read: Callable[[Path, DataSpec, Columns], Records]
) -> Iterator[tuple[tuple[str, ...] | None, Row]]:
    """Yield the column names with each row of a file; an unreadable file is one rejected row."""
    source, spec = to_printable(str(path)), given.spec
    try:
        records = read(path, spec, given.columns)
    except InputError as error:
        yield None, (None, Rejected(source, "", to_printable(str(error))))
        return
    expected = (*spec.raw_shape[1:], spec.raw_shape[0])
    for number, image in enumerate(records.images):
        row, reason = None, ""
        if image.shape == expected:
            # copied, so that the images of the file are freed when the next one is read
            columns: Any = {key: getattr(records, key)[number : number + 1] for key in COLUMNS[1:]}
            row = replace(records, images=image.astype(np.float32)[None], part=None, **columns)
        else:
            reason = f"stamp is {_by(image.shape)}, expected {_by(expected)}"
        yield records.feature_names, (row, Rejected(source, f"{name}:{number}", reason))


def _join_rows(rows: Sequence[Row]) -> Chunk:
    """Join rows with equal columns to one chunk."""
    kept = [(records, place) for records, place in rows if records]
    columns: Any = {name: np.concatenate([getattr(row, name) for row, _ in kept]) for name in COLUMNS if kept}
    keys, sources = (np.array([getattr(place, name) for _, place in kept], str) for name in ("key", "source"))
    rejected = tuple(place for records, place in rows if not records)
    return Chunk(replace(kept[0][0], **columns) if kept else None, keys, sources, rejected, len(rows))


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return a printable name per file: its name, or its path if two files share the name."""
    names = {path: to_printable(path.name) for path in paths}
    shared = Counter(names.values())
    return {path: name if shared[name] == 1 else to_printable(str(path)) for path, name in names.items()}


def _by(shape: tuple[int, ...]) -> str:
    """Format a shape, such as "63 x 63 x 3"."""
    return " x ".join(map(str, shape))


def find_naming(spec: DataSpec, labels: Sequence[Path] = ()) -> Naming:
    """Return the class names that labels of the input can have.

    Parameters
    ----------
    spec : DataSpec
        Training data of the network.
    labels : sequence of Path
        Tables of labels.

    Returns
    -------
    Naming
        The classes of the network and the usual classes that it lacks; with tables, only the classes in them.
    """
    first, second = (spec.classes, CLASSES) if set(CLASSES) <= set(spec.classes) else (CLASSES, spec.classes)
    naming = Naming(tuple(dict.fromkeys([*first, *second])), others="leave_out")
    found = {name for file in labels for name in read_labels(file, naming).class_by_key.values()}
    return replace(naming, classes=tuple(name for name in naming.classes if name in found)) if found else naming


def _read_stamps(path: Path, spec: DataSpec, columns: Columns = None) -> Records:
    """Read a stamps file, with or without labels."""
    raw, naming = stamps_file.load(path, columns, labelled=False), find_naming(spec)
    return stamps_file.from_raw(raw, f"file {path.name}", labelled=False, naming=naming)


FORMATS = (
    Format("alert packets", CHANNELS, (*tables.PLACE, *stamps_file.COLUMNS), raw_files.PACKETS, survey=ZTF.survey),
    Format(
        "alert packets",
        (*CHANNELS, SNR),
        (*tables.PLACE, *RUBIN.columns, tables.DETECTIONS),
        raw_files.PACKETS,
        survey=RUBIN.survey,
    ),
    Format(
        "stamps files",
        CHANNELS,
        stamps_file.COLUMNS,
        stamps_file.ENDS,
        _read_stamps,
        kinds=(*array_files.KINDS, "npy"),
    ),
    Format(
        "HiTS files",
        hits.CHANNELS,
        (),
        array_files.ENDS,
        lambda path, spec, _: hits.read(path, channels=spec.channels),
    ),
    Format(
        "spectra",
        sdss.CHANNELS,
        sdss.COLUMNS,
        (*sdss.ENDS, *array_files.ENDS),
        lambda path, *_: sdss.read(path),
        kinds=("fits", *array_files.KINDS),
    ),
)
