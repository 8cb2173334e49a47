"""Records: the raw stamps or spectra that every reader returns, with ids, labels and metadata, before cleaning."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from alerce_early.data.text import MAX_NAME_LENGTH, check_names
from alerce_early.errors import InputError

UNLABELLED = -1
CUT_SHORT = "archive cannot be read further"  # start of the reason for the unreadable rest of an archive
LOST_ROWS = "Parquet file cannot be read in row group"  # start of the reason for each row of a damaged row group
TOO_LITTLE = "too few central pixels hold data"  # reason for rows rejected by `has_data`
MISSING = -999.0  # an unknown metadata value
N_EXAMPLES = 4  # raw rows of each class that a store keeps for figures
# 1.3e30. Values from here on are invalid pixels: some templates of ZTF use -3.4e38 as a fill value.
MAX_PIXEL_VALUE = 2.0**100


@dataclass(frozen=True)
class Records:
    """N raw rows of a file or survey.

    Parameters
    ----------
    images : sequence of ndarray, or ndarray
        N stamps (H, W, C) or spectra (L, C), or one array (N, H, W, C) or (N, L, C); any float dtype and byte order.
        NaN is allowed.
    labels : ndarray
        (N,) int64 indices into `classes`, or `UNLABELLED`.
    ids : ndarray
        (N,) str: object of each row. Rows of one object are in the same part of a split.
    features : ndarray
        (N, F) float64 metadata; F may be 0.
    feature_names : tuple of str
        Names of the F metadata columns.
    classes : tuple of str
        Class names in label order.
    origin : str
        The file or simulation, for messages and reports.
    part : ndarray, optional
        (N,) str: the split that the file prescribes: "train", "validation", "test", "extra" (training only),
        "simulated" (a share of each training batch) or "" (drawn by the data module).
    kind : {"stamps", "spectra"}
        Kind of the rows.
    channels : tuple of str
        Names of the C channels.
    survey : str
        Survey of the alerts, "" if unknown or irrelevant.
    set_aside : mapping of str to int
        Number of rows that the reader rejected, by reason.
    unmatched_labels : int
        Number of labels in a separate table that match no row.
    context : mapping of str to ndarray
        Columns (N,) for display only, such as time, filter and number of detections.
    night : ndarray, optional
        (N,) int64: night of each row as returned by `nights.find_nights`; None if none is known.

    Raises
    ------
    InputError
        If images, labels, ids and features are empty or differ in length.
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
            raise InputError(f"{self.origin}: expected one of each per row, found {counts}.")
        if not len(self.images):
            raise InputError(f"{self.origin}: the file holds no rows.")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: np.ndarray) -> "Records":
        """Return the records of these rows, (n,) int or (N,) bool; images must be one array."""
        columns: dict[str, Any] = {
            name: np.asarray(getattr(self, name))[rows] for name in ("images", "labels", "ids", "features")
        }
        columns["context"] = {name: column[rows] for name, column in self.context.items()}
        columns |= {name: one[rows] for name in ("part", "night") if (one := getattr(self, name)) is not None}
        return replace(self, **columns)


def join(parts: Mapping[str, Records], origin: str | None = None) -> Records:
    """Concatenate records into one data set, each as a part of its split.

    Parameters
    ----------
    parts : mapping of str to Records
        Records by the name of their part, e.g. {"train": ..., "test": ...}, which replaces their own `part`. If none
        is "validation", the data module draws those rows from the training rows.
    origin : str, optional
        Origin of the result; by default a list of the origins of the parts.

    Returns
    -------
    Records
        All rows, in the order of `parts`.

    Raises
    ------
    InputError
        If kind, classes, metadata columns or channels differ.
    """
    origin = origin or ", ".join(f"{name}: {part.origin}" for name, part in parts.items())
    for what, values in (
        ("kind", {part.kind for part in parts.values()}),
        ("classes", {part.classes for part in parts.values()}),
        ("metadata columns", {part.feature_names for part in parts.values()}),
        ("channels", {part.channels for part in parts.values()}),
    ):
        if len(values) > 1:
            raise InputError(f"{origin}: the parts differ in their {what}: {' and '.join(map(str, values))}.")
    first = next(iter(parts.values()))
    set_aside: Counter[str] = Counter()
    for part in parts.values():
        set_aside.update(part.set_aside)
    nights = [np.full(len(part), -1) if part.night is None else part.night for part in parts.values()]
    return Records(
        images=[image for part in parts.values() for image in part.images],
        labels=np.concatenate([part.labels for part in parts.values()]),
        ids=np.concatenate([_prefix_row_ids(name, part.ids) for name, part in parts.items()]),
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
    """Return an entry of a file as an array of known type and shape.

    Parameters
    ----------
    entries : mapping of str to object
        Entries of the file.
    name : str
        Name of the entry.
    shape : tuple of int or None
        Expected length of each axis; None allows any length.
    origin : str
        The file, for messages.
    kind : {float, str} or tuple of str
        float for numbers, str for names, or class names for labels (see `to_label_numbers`).
    missing : object
        Fill value of the array returned if there is no such entry.

    Returns
    -------
    ndarray
        float64, str or int64, depending on `kind`.

    Raises
    ------
    InputError
        If the entry has another type or shape.
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
        raise InputError(f"{origin}: {name} has shape {found.shape}, expected {expected}.")
    return found


def to_label_numbers(labels: Any, classes: Sequence[str], origin: str) -> np.ndarray:
    """Convert labels to indices into the classes.

    Parameters
    ----------
    labels : array_like
        N indices, -1 for no label, or class names in any capitalisation.
    classes : sequence of str
        Class names in label order.
    origin : str
        Source of the labels, for messages.

    Returns
    -------
    ndarray
        (N,) int64.

    Raises
    ------
    InputError
        If a label is neither a class nor its index.
    """
    known: dict[Any, int] = {i: i for i in range(UNLABELLED, len(classes))}
    known |= {name.lower(): i for i, name in enumerate(classes)}
    values = list_labels(labels, origin)
    numbers = [known.get(value.lower() if isinstance(value, str) else value) for value in values]
    if None in numbers:
        unknown = sorted({str(value)[:MAX_NAME_LENGTH] for value, n in zip(values, numbers, strict=True) if n is None})
        raise InputError(f"{origin}: unknown label {', '.join(unknown[:5])}. Give one of {', '.join(classes)}.")
    return np.array(numbers, dtype=np.int64)


def list_labels(labels: Any, origin: str) -> list[Any]:
    """Return labels as a flat list of numbers and names; raise InputError if they are not a list."""
    try:
        values = np.asarray(labels, dtype=object).ravel().tolist()
        values = [value.decode("latin1") if isinstance(value, bytes) else value for value in values]
        set(values)  # raises TypeError for unhashable values
    except (TypeError, ValueError):
        raise InputError(f"{origin}: labels are not a list. Give a number or name per row.") from None
    return values


def to_numbers(values: Any, what: str, origin: str) -> np.ndarray:
    """Convert nested numbers of a file to a float64 array; raise InputError if they are not numbers."""
    try:
        found = np.asarray(values)
        if found.dtype.kind in "biufSUO":
            return found.astype(np.float64)
        raise TypeError
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{origin}: {what} differ in length or hold no numbers.") from None


def has_data(images: np.ndarray, size: int, share: float) -> np.ndarray:
    """Return a mask of rows with enough valid central pixels.

    Parameters
    ----------
    images : ndarray
        Raw stamps (N, H, W, C) or spectra (N, L, C). NaN, infinity and values from `MAX_PIXEL_VALUE` on are invalid.
    size : int
        Side in pixels of the central square that counts; of spectra all pixels count.
    share : float
        Required fraction of pixels that are valid in all channels, in [0, 1].

    Returns
    -------
    ndarray
        (N,) bool.
    """
    if images.ndim == 4:
        top, left = ((side - size) // 2 for side in images.shape[1:3])
        images = images[:, top : top + size, left : left + size]
    present = (np.abs(images) < MAX_PIXEL_VALUE).all(-1)
    return present.mean(tuple(range(1, present.ndim))) >= share


def with_extra(records: Records, extra: Records, name: str = "extra") -> Records:
    """Append rows that are only used for training, without changing the split of the others.

    Parameters
    ----------
    records : Records
        The data set.
    extra : Records
        Rows to append. They may have no metadata (filled with NaN), additional columns (dropped), or a subset of the
        classes.
    name : {"extra", "simulated"}
        Part of the appended rows. The origin of simulated rows is not recorded, because they are never evaluated.

    Returns
    -------
    Records
        All rows, the appended ones last.

    Raises
    ------
    InputError
        If kind, classes, metadata columns, channels or the most common image shape differ.
    """
    names = records.feature_names
    if set(extra.classes) <= set(records.classes):
        number = np.array(
            [*map(records.classes.index, extra.classes), UNLABELLED]
        )  # index -1, for UNLABELLED, is the last
        extra = replace(extra, labels=number[extra.labels], classes=records.classes)
    if not extra.feature_names:
        unknown = np.full((len(extra), len(names)), np.nan)
        extra = replace(extra, features=unknown, feature_names=names)
    elif set(names) < set(extra.feature_names):
        columns = extra.features[:, [extra.feature_names.index(column) for column in names]]
        extra = replace(extra, features=columns, feature_names=names)
    shapes = [Counter(np.shape(image) for image in part.images).most_common(1)[0][0] for part in (records, extra)]
    if shapes[0] != shapes[1]:
        raise InputError(f"{extra.origin}: its images are {shapes[1]}, but {shapes[0]} in {records.origin}.")
    own = np.full(len(records), "") if records.part is None else records.part
    origin = f"{records.origin}, with {len(extra):,} more from {extra.origin}" if name == "extra" else records.origin
    joined = join({"": records, name: extra}, origin)
    return replace(joined, part=np.concatenate([own, np.full(len(extra), name)]))


def number_rows(n: int) -> np.ndarray:
    """Return ids row0, row1, ..., (n,) str, for rows without an id; each row then counts as its own object."""
    return np.char.add("row", np.arange(n).astype(str))


def _prefix_row_ids(name: str, ids: np.ndarray) -> np.ndarray:
    """Prefix ids of `number_rows` with the name of their part, so that they differ between parts."""
    return np.char.add(f"{name}/", ids) if name and ids[0] == "row0" else ids


class UnreadableError(Exception):
    """A packet cannot be used; the message is the reason, in one line."""


@dataclass(frozen=True)
class Rejected:
    """A row that was rejected.

    Parameters
    ----------
    source : str
        File, member of an archive, and number of the record unless it is the first.
    key : str
        Candid of the row, "" if unknown.
    reason : str
        Reason in one line; details of this row follow the first colon.
    """

    source: str
    key: str
    reason: str


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of the input.

    Parameters
    ----------
    records : Records or None
        The n readable rows in order, with images as one array; None for n = 0.
    keys : ndarray
        (n,) str: identifier of each readable row, such as the candid of a packet.
    sources : ndarray
        (n,) str: source of each readable row, as in `Rejected`.
    rejected : tuple of Rejected
        The other rows.
    read : int
        Number of all rows.
    """

    records: Records | None
    keys: np.ndarray
    sources: np.ndarray
    rejected: tuple[Rejected, ...]
    read: int

    def reject(self, rows: np.ndarray, reason: str) -> "Chunk":
        """Return the chunk without these readable rows, (n,) bool, which are rejected for this reason."""
        places = zip(self.sources[rows].tolist(), self.keys[rows].tolist(), strict=True)
        rejected = (*self.rejected, *(Rejected(source, key, reason) for source, key in places))
        records = self.records.take(~rows) if self.records and not rows.all() else None
        return replace(self, records=records, keys=self.keys[~rows], sources=self.sources[~rows], rejected=rejected)
