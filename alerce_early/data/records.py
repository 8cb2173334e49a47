"""What every reader returns: raw stamps or spectra with their ids, labels and columns, nothing cleaned yet."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from alerce_early.data.text import LONGEST, check_names
from alerce_early.errors import InputError

UNLABELLED = -1
CUT_SHORT = "archive cannot be read further"  # how the reason begins of what stands for an archive's missing rest
LOST_ROWS = "Parquet file cannot be read in row group"  # how the reason begins of each row of a damaged one
TOO_LITTLE = "too few central pixels hold data"  # why rows that lack `has_data` are set aside
MISSING = -999.0  # a metadata value that is not known
N_EXAMPLES = 4  # raw rows of each class that a store keeps to be shown
LARGEST = 2.0**100  # 1.3e30; no pixel reaches it, and -3.4e38 stands for no data in some of the survey's templates


@dataclass(frozen=True)
class Records:
    """N raw rows of one file or survey.

    kind: "stamps", or "spectra".
    images: N arrays (H, W, C), or one dense array (N, H, W, C); (L, C) and (N, L, C) for spectra; any float
        dtype and byte order, NaN allowed.
    labels: (N,) int64, an index into `classes`, or `UNLABELLED`.
    ids: (N,) str, the object a row belongs to; rows of one object are never split.
    features: (N, F) float64 columns named by `feature_names`; F may be 0.
    part: (N,) str, the split the file itself prescribes ("train", "validation", "test"; "extra" is
        for training and nothing else, "simulated" for a share of each training batch, "" leaves it to the data
        module), or None.
    origin: in words, for people: which file or which simulation this is.
    survey: whose alerts they are, "" if unknown or of no matter.
    channels: names of the raw images' last axis.
    set_aside: how many rows of the raw data the reader could not use, by reason.
    unmatched_labels: how many labels, of a table of labels, belong to none of the rows.
    context: columns (N,) for who looks at the rows, and for no network: when, through which filter, how often detected.
    night: (N,) int64, the night of each row as `nights.find_nights` numbers them, or None if no row's is known.
    """

    images: Sequence[np.ndarray] | np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    features: np.ndarray
    feature_names: tuple[str, ...]
    classes: tuple[str, ...]
    origin: str
    part: np.ndarray | None = None
    kind: str = "stamps"
    channels: tuple[str, ...] = ("science", "template", "difference")
    survey: str = ""
    set_aside: Mapping[str, int] = field(default_factory=dict)
    unmatched_labels: int = 0
    context: Mapping[str, np.ndarray] = field(default_factory=dict)
    night: np.ndarray | None = None

    def __post_init__(self) -> None:
        lengths = {
            "images": len(self.images),
            "labels": len(self.labels),
            "metadata": len(self.features),
            "ids": len(self.ids),
        }
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{count:,} {name}" for name, count in lengths.items())
            raise InputError(f"{self.origin}: every row needs one of each, but there are {counts}.")
        if not len(self.images):
            raise InputError(f"{self.origin}: holds no rows.")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: np.ndarray) -> "Records":
        """Return some rows of records with dense images; rows: (n,) numbers, or (N,) bool."""
        columns: dict[str, Any] = {
            name: np.asarray(getattr(self, name))[rows] for name in ("images", "labels", "ids", "features")
        }
        columns["context"] = {name: column[rows] for name, column in self.context.items()}
        columns |= {name: one[rows] for name in ("part", "night") if (one := getattr(self, name)) is not None}
        return replace(self, **columns)


def join(parts: Mapping[str, Records], origin: str | None = None) -> Records:
    """Concatenate records that are to be parts of one data set, e.g. {"train": ..., "test": ...}.

    A part's name ("train", "validation" or "test") becomes `part` of all its rows, whatever split it holds
    itself. Where no part is for validation, the data module takes those rows from training. Raises
    InputError where kind, classes or columns differ.
    """
    origin = origin or ", ".join(f"{name}: {part.origin}" for name, part in parts.items())
    for what, values in (
        ("kind", {part.kind for part in parts.values()}),
        ("classes", {part.classes for part in parts.values()}),
        ("metadata columns", {part.feature_names for part in parts.values()}),
        ("channels", {part.channels for part in parts.values()}),
    ):
        if len(values) > 1:
            raise InputError(f"{origin}: the parts differ in their {what}: {' against '.join(map(str, values))}.")
    first = next(iter(parts.values()))
    set_aside: Counter[str] = Counter()
    for part in parts.values():
        set_aside.update(part.set_aside)
    nights = [np.full(len(part), -1) if part.night is None else part.night for part in parts.values()]
    return Records(
        images=[image for part in parts.values() for image in part.images],
        labels=np.concatenate([part.labels for part in parts.values()]),
        ids=np.concatenate([_tell_apart(name, part.ids) for name, part in parts.items()]),
        features=np.concatenate([part.features for part in parts.values()]),
        feature_names=first.feature_names,
        classes=first.classes,
        origin=origin,
        part=np.repeat(list(parts), [len(part) for part in parts.values()]),
        kind=first.kind,
        channels=first.channels,
        survey=first.survey if len({part.survey for part in parts.values()}) == 1 else "",
        set_aside=dict(set_aside),
        unmatched_labels=sum(part.unmatched_labels for part in parts.values()),
        night=None if all(part.night is None for part in parts.values()) else np.concatenate(nights),
    )


def take(
    entries: Mapping[str, Any],
    name: str,
    shape: tuple[int | None, ...],
    origin: str,
    kind: type[float] | type[str] | tuple[str, ...] = float,
    missing: Any = np.nan,
) -> np.ndarray:
    """Return an entry of a file as an array of this shape, filled with `missing` if it is not there.

    shape: length of each axis, None if any will do. kind: float for numbers, str for names, or the names of classes for
    labels, see `to_label_numbers`. Raises InputError for values of another kind or shape.
    """
    if name not in entries:
        return np.full([side or 0 for side in shape], missing)
    if isinstance(kind, tuple):
        found = to_label_numbers(entries[name], kind, origin)
    else:
        found = (to_numbers if kind is float else check_names)(entries[name], name, origin)
    found = found.reshape(-1) if len(shape) == 1 else found
    if found.ndim != len(shape) or any(side not in (None, n) for side, n in zip(shape, found.shape, strict=True)):
        expected = str(shape).replace("None", "N")
        raise InputError(f"{origin}: {name} has shape {found.shape}. Give one of shape {expected}.")
    return found


def to_label_numbers(labels: Any, classes: Sequence[str], origin: str) -> np.ndarray:
    """(N,) int64 indices into classes from a list or array of them, -1 for no label, or of names in any capitalisation.

    Raises InputError for a label that is neither.
    """
    known: dict[Any, int] = {i: i for i in range(UNLABELLED, len(classes))}
    known |= {name.lower(): i for i, name in enumerate(classes)}
    values = list_labels(labels, origin)
    numbers = [known.get(value.lower() if isinstance(value, str) else value) for value in values]
    if None in numbers:
        unknown = sorted({str(value)[:LONGEST] for value, n in zip(values, numbers, strict=True) if n is None})
        raise InputError(f"{origin}: unknown label {', '.join(unknown[:5])}. Give one of {', '.join(classes)}.")
    return np.array(numbers, dtype=np.int64)


def list_labels(labels: Any, origin: str) -> list[Any]:
    """Return labels as a flat list of numbers and names; raises InputError for what is no list of them."""
    try:
        values = np.asarray(labels, dtype=object).ravel().tolist()
        values = [value.decode("latin1") if isinstance(value, bytes) else value for value in values]
        set(values)  # what cannot be looked up is no label
    except (TypeError, ValueError):
        raise InputError(f"{origin}: labels are no list. Give a number or name per row.") from None
    return values


def to_numbers(values: Any, what: str, origin: str) -> np.ndarray:
    """float64 array of what a file holds as numbers, in any nesting; raises InputError where it is no numbers."""
    try:
        found = np.asarray(values)
        if found.dtype.kind in "biufSUO":
            return found.astype(np.float64)
        raise TypeError
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{origin}: {what} differ in length or hold no numbers.") from None


def has_data(images: np.ndarray, size: int, share: float) -> np.ndarray:
    """Tell which rows hold data, in all channels at once, in at least this share of their central pixels.

    images: raw stamps (N, H, W, C), whose central size x size pixels count, or spectra (N, L, C), all of them.
    Returns (N,) bool. NaN, infinity and what reaches `LARGEST` is no data.
    """
    if images.ndim == 4:
        top, left = ((side - size) // 2 for side in images.shape[1:3])
        images = images[:, top : top + size, left : left + size]
    present = (np.abs(images) < LARGEST).all(-1)
    return present.mean(tuple(range(1, present.ndim))) >= share


def with_extra(records: Records, extra: Records, name: str = "extra") -> Records:
    """Return records with more rows for training only, e.g. generated ones; the others are split as without.

    The rows may lack metadata, which then is NaN, have more columns, or be of some of the classes only. name: their
    part, "extra" or "simulated"; of simulated ones the origin does not speak, since all that is judged is as without.
    Raises InputError where kind, classes, columns or the usual shape differ.
    """
    names = records.feature_names
    if set(extra.classes) <= set(records.classes):
        number = np.array([*map(records.classes.index, extra.classes), UNLABELLED])  # the last is of UNLABELLED
        extra = replace(extra, labels=number[extra.labels], classes=records.classes)
    if not extra.feature_names:
        unknown = np.full((len(extra), len(names)), np.nan)
        extra = replace(extra, features=unknown, feature_names=names)
    elif set(names) < set(extra.feature_names):
        columns = extra.features[:, [extra.feature_names.index(column) for column in names]]
        extra = replace(extra, features=columns, feature_names=names)
    shapes = [Counter(np.shape(image) for image in part.images).most_common(1)[0][0] for part in (records, extra)]
    if shapes[0] != shapes[1]:
        raise InputError(f"{extra.origin}: its images are {shapes[1]}, those of {records.origin} {shapes[0]}.")
    own = np.full(len(records), "") if records.part is None else records.part
    origin = f"{records.origin}, with {len(extra):,} more from {extra.origin}" if name == "extra" else records.origin
    joined = join({"": records, name: extra}, origin)
    return replace(joined, part=np.concatenate([own, np.full(len(extra), name)]))


def number_rows(n: int) -> np.ndarray:
    """(n,) ids row0, row1, ... for rows that name no object: each counts as its own."""
    return np.char.add("row", np.arange(n).astype(str))


def _tell_apart(name: str, ids: np.ndarray) -> np.ndarray:
    """Ids made from row numbers repeat from part to part; the part's name keeps the objects apart."""
    return np.char.add(f"{name}/", ids) if name and ids[0] == "row0" else ids


class UnreadableError(Exception):
    """Why one packet cannot be used, in one line."""


@dataclass(frozen=True)
class Rejected:
    """One row that could not be read or is not wanted.

    source: file, member of an archive, number of the record where it is not the first. key: its candid, "" if
    unknown. reason: in one line; what follows its first colon is about this row alone.
    """

    source: str
    key: str
    reason: str


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of the input.

    records: the readable ones in order, with dense images; None if there is none. keys: (n,) str that name the
    rows, of packets their candids. sources: (n,) str, where each was. rejected: the others. read: rows in all.
    """

    records: Records | None
    keys: np.ndarray
    sources: np.ndarray
    rejected: tuple[Rejected, ...]
    read: int

    def set_aside(self, rows: np.ndarray, reason: str) -> "Chunk":
        """Return the chunk with more of its readable rows, (n,) bool, rejected for this reason."""
        places = zip(self.sources[rows].tolist(), self.keys[rows].tolist(), strict=True)
        rejected = (*self.rejected, *(Rejected(source, key, reason) for source, key in places))
        records = self.records.take(~rows) if self.records and not rows.all() else None
        return replace(self, records=records, keys=self.keys[~rows], sources=self.sources[~rows], rejected=rejected)
