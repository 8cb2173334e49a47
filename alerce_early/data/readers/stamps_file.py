"""Read stamps files: `ALERCE_stamps_2020.pkl` of the ALeRCE broker and files of similar layout.

The layout is a pickled dict of `images`, `labels`, `metadata` (case-insensitive), optionally with `oid` and one of
`jd`, `mjd`, `candid` or `night`; or a dict of such dicts for Train, Validation and Test. npz and HDF5 files may use
other names. An npy file has images only. Labels can also come from a CSV, see `raw_files.find_tables`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data import raw_files
from alerce_early.data.labels import CLASSES as CLASSES
from alerce_early.data.labels import LABEL_COLUMNS, OF_LABELS, Naming, find_label_column, join_labels, read_csv
from alerce_early.data.nights import TIMES, find_nights
from alerce_early.data.readers import array_files
from alerce_early.data.readers.formats import look
from alerce_early.data.records import UNLABELLED, Records, join, list_labels, number_rows, take, to_numbers, with_extra
from alerce_early.errors import InputError

log = logging.getLogger(__name__)

CHANNELS = ("science", "template", "difference")
SURVEY = "ZTF"

COLUMNS = (
    *("sgscore1", "distpsnr1", "sgscore2", "distpsnr2", "sgscore3", "distpsnr3"),
    *("isdiffpos", "fwhm", "magpsf", "sigmapsf", "ra", "dec", "diffmaglim", "rb", "distnr", "magnr"),
    *("classtar", "ndethist", "ncovhist", "ecl_lat", "ecl_long", "gal_lat", "gal_long"),
    *("non_detections", "chinr", "sharpnr"),
)

# Columns of the published model, which uses neither the real-bogus score nor the nearest reference source.
PUBLISHED_COLUMNS = tuple(name for name in COLUMNS if name not in ("rb", "distnr", "magnr"))

PARTS = ("train", "validation", "test")
ENDS = (*array_files.ENDS, ".npy")
# Names of each entry in known files, in lower case.
KEYS = {
    "images": ("images", "image_triplet", "triplets", "stamps", "cutouts", "image", "arr_0"),
    "labels": ("labels",),
    "metadata": ("metadata", "features"),
    "oid": ("oid", "object_ids", "objectid", "object_id_", "object_id"),
    **{name: (name,) for name in (*PARTS, *TIMES)},
}

ENTRIES = {name for names in KEYS.values() for name in names}  # all entries that are read
# Keys of data.columns, with their entries.
ROLES = {"images": "images", "labels": "labels", "ids": "oid", "metadata": "metadata"}
IDS = ("objectid", "oid", "ztfid", "id")  # columns that name the object in a CSV in the order of the images


def read(
    path: str | Path | None,
    test_path: str | Path | None = None,
    extra_path: str | Path | None = None,
    classes: Sequence[str] | str | None = None,
    labels_map: Mapping[str, str | None] | None = None,
    labels_path: str | Path | None = None,
    columns: Mapping[str, str | None] | None = None,
) -> Records:
    """Read a stamps file in any layout, or all files in a folder or matching a pattern.

    Parameters
    ----------
    path : path
        File, folder or pattern.
    test_path : path, optional
        Stamps file for the test split.
    extra_path : path, optional
        Stamps file for training only.
    classes : sequence of str or str, optional
        Classes of the labels, see `labels.Naming.of`.
    labels_map : mapping of str to str, optional
        Further names of classes, see `labels.Naming.of`.
    labels_path : path, optional
        CSV of labels, see `load`.
    columns : mapping, optional
        Names of entries in the file, see `load`.

    Returns
    -------
    Records
        All stamps, labels and metadata.

    Raises
    ------
    InputError
        If there is no such file, it is not a file of arrays, an entry is missing, lengths differ or a label is unknown.
    """
    if path is None:
        raise InputError("data.path is not set. Give a stamps file with data.path=FILE, or set ALERCE_STAMPS=FILE.")
    found = _find(path)
    raws = {
        f"file {file.relative_to(path) if Path(path).is_dir() else file.name}": load(
            file, columns, labels_path, labels_map
        )
        for file in found
    }
    labels = (
        [label for origin, raw in raws.items() for label in _labels_of(raw, origin)] if classes == OF_LABELS else ()
    )
    naming = Naming.of(classes, labels_map, labels)
    parts = {origin: from_raw(raw, origin, naming=naming) for origin, raw in raws.items()}
    records = next(iter(parts.values()))
    if len(parts) > 1:
        own = [one.part for one in parts.values() if one.part is not None]
        if own and len(own) < len(parts):
            raise InputError(f"{path}: only some of its files define a split. Give them one at a time.")
        joined = join(parts, f"{len(parts):,} files of {Path(path).name}")
        records = replace(joined, part=np.concatenate(own) if own else None)
    return join_files(records, test_path, extra_path, naming, columns)


def _find(path: str | Path) -> list[Path]:
    """Return the files of arrays in a path; raise InputError if it has several files, all of other formats."""
    files = raw_files.expand_path(path)
    found = [file for file in files if file.name.lower().endswith(ENDS) or look(file)[0].reader == "arrays"]
    if not found and len(files) > 1:
        seen = look(files[0], describe=True)[1]
        raise InputError(
            f"{path}: none of its {len(files):,} files has arrays; {files[0].name} is {seen}. Use data=alerts for "
            "packets and FITS files of stamps, or data=rubin for Rubin packets."
        )
    return found or files


def load(
    path: str | Path,
    columns: Mapping[str, str | None] | None = None,
    labels_path: str | Path | None = None,
    labels_map: Mapping[str, str | None] | None = None,
    labelled: bool = True,
) -> Any:
    """Load the raw dict of a stamps file of any format, with labels from a CSV if necessary.

    Parameters
    ----------
    path : path
        The file.
    columns : mapping, optional
        Names of images, labels, ids and metadata in this file, by the keys of `ROLES`; others are found by `KEYS`.
    labels_path : path, optional
        CSV of labels; for an npy file the default is the first of `raw_files.find_tables`.
    labels_map : mapping, optional
        Names of numeric labels, by their digits.
    labelled : bool
        Whether labels are required.

    Returns
    -------
    dict
        Entries by name; any other content of the file is returned unchanged.

    Raises
    ------
    InputError
        If the file cannot be read, has no images, lacks a column in `columns`, or the CSV does not fit.
    """
    path = Path(path)
    given = {ROLES.get(role, role): name for role, name in (columns or {}).items() if name}
    if unknown := sorted(given.keys() - set(ROLES.values())):
        raise InputError(f"data.columns: unknown key {', '.join(unknown)}. Choose from {', '.join(ROLES)}.")
    raw = array_files.load(path, ENTRIES | {name.lower() for name in given.values()})
    alone = isinstance(raw, np.ndarray)
    if alone:
        raw = {"images": raw[None] if raw.ndim == 3 else raw}
    if not isinstance(raw, Mapping):
        return raw  # `from_raw` raises the error
    if given:
        raw = _rename(raw, {} if alone else given, str(path))
    held = {str(name).lower() for name, value in raw.items() if value is not None}
    if not held & {*KEYS["images"], *PARTS}:
        seen = look(path, describe=True)[1]
        there = "" if ":" in seen else f" with {', '.join(str(name)[:20] for name in list(raw)[:20])}"
        raise InputError(
            f"{path}: is {seen}{there}; it has no images. Name them with data.columns.images=NAME, in predict with "
            "--columns images=NAME."
        )
    if "labels" in given and not alone and not labelled:
        raw.pop("labels")  # they may be numbers of unnamed classes
    elif "labels" in given and not alone:
        raw["labels"] = _name_numbers(raw["labels"], labels_map or {}, given["labels"], str(path))
    table = Path(labels_path) if labels_path else None
    if alone and not table:
        table = next((one for one in raw_files.find_tables(path) if labelled or one.name != raw_files.LABELS), None)
    if alone and labelled and not table:
        raise InputError(
            f"{path}: is an npy file of images, without labels. Give a CSV of one row per stamp, in the same order, "
            f"with data.labels=FILE, or as {path.name.partition('.')[0]}.csv in the same folder."
        )
    if not table:
        return raw
    found = _labels_by_table(raw, table, given.get("labels"), str(path))
    return {name: value for name, value in raw.items() if str(name).lower() not in found} | found


def _rename(raw: Mapping[Any, Any], given: Mapping[str, str], origin: str) -> dict[Any, Any]:
    """Rename the entries named by the user to the keys of `KEYS`."""
    found = {str(name).lower(): value for name, value in raw.items()}
    for entry, name in given.items():
        if found.get(name.lower()) is None:
            role = next(role for role, held in ROLES.items() if held == entry)
            there = ", ".join(str(name)[:20] for name in list(raw)[:20])
            raise InputError(f"data.columns.{role}={name}: {origin} has no such column. Choose from {there}.")
    kept = {name: value for name, value in raw.items() if not any(str(name).lower() in KEYS[entry] for entry in given)}
    return kept | {entry: found[name.lower()] for entry, name in given.items()}


def _name_numbers(labels: Any, labels_map: Mapping[str, str | None], column: str, origin: str) -> list[Any]:
    """Convert numeric labels to text, the keys of data.labels_map; NaN means unlabelled."""
    values = list_labels(labels, origin)
    names = [f"{one:.12g}" if isinstance(one, float | int) else str(one) for one in values]
    numbers = {name for name, one in zip(names, values, strict=True) if not isinstance(one, str)} - {"nan"}
    if unknown := sorted(numbers - set(map(str, labels_map))):
        raise InputError(
            f"data.columns.labels={column}: {origin} has numeric labels: {', '.join(unknown[:9])}. Name their classes "
            f"with 'data.labels_map={{{unknown[0]}: CLASS}}'."
        )
    return [UNLABELLED if name == "nan" else name for name in names]


def _labels_by_table(raw: Mapping[str, Any], table: Path, column: str | None, origin: str) -> dict[str, Any]:
    """Return the labels of a CSV, matched by object, or row by row with its ids if the file has no ids."""
    found = {name.strip().lower(): values for name, values in read_csv(table).items()}
    labels = found.get(column.lower()) if column else find_label_column(found)
    if labels is None:
        there = ", ".join(found)[:200]
        raise InputError(
            f"{table}: has no column {column or ' or '.join(LABEL_COLUMNS[:3])}, only {there}. Name the labels with "
            "data.columns.labels=NAME."
        )
    held = {str(name).lower(): value for name, value in raw.items()}
    images = next((held[name] for name in KEYS["images"] if held.get(name) is not None), ())
    ids = next((held[name] for name in KEYS["oid"] if held.get(name) is not None), None)
    if ids is not None:
        naming = Naming(tuple(dict.fromkeys(filter(None, labels))), others="keep")
        known = join_labels(
            {"label": labels, **{n: c for n, c in found.items() if n not in LABEL_COLUMNS}}, ("id",), str(table), naming
        )
        names = [str(name) for name in take(dict(oid=ids), "oid", (None,), origin, str)]
        log.info(known.match(names))
        return {"labels": [known.class_by_key.get(name, UNLABELLED) for name in names]}
    if len(labels) != len(images):
        raise InputError(
            f"{table}: has {len(labels):,} rows, but {origin} {len(images):,} stamps without ids. Give one row per "
            "stamp in the same order, or another CSV with data.labels=FILE."
        )
    log.info("%s: labels of %s, row by row", table, origin)
    ids = next((found[name] for name in IDS if name in found), None)
    return {"labels": [label or UNLABELLED for label in labels]} | ({"oid": ids} if ids else {})


def join_files(
    records: Records,
    test_path: str | Path | None,
    extra_path: str | Path | None,
    naming: Naming | None = None,
    columns: Mapping[str, str | None] | None = None,
) -> Records:
    """Add the records of other stamps files.

    Parameters
    ----------
    records : Records
        Records to add to.
    test_path : path or None
        Stamps file for the test split; `records` becomes the training part.
    extra_path : path or None
        Stamps file for training only.
    naming : Naming, optional
        Classes of the labels.
    columns : mapping, optional
        Names of entries in the files, see `load`.

    Returns
    -------
    Records
        All records.
    """
    naming = naming or Naming()

    def read_part(path: str | Path) -> Records:
        return from_raw(load(path, columns, labels_map=naming.own), f"file {Path(path).name}", naming=naming)

    if test_path:
        records = join({"train": records, "test": read_part(test_path)})
    return with_extra(records, read_part(extra_path)) if extra_path else records


def _labels_of(raw: Any, origin: str) -> list[Any]:
    """Return the labels of a raw dict, or of all its splits."""
    entries = array_files.find_entries(raw, KEYS, (), origin)
    parts = chain.from_iterable(_labels_of(entries[name], origin) for name in PARTS if name in entries)
    return [*list_labels(entries.get("labels", ()), origin), *parts]


def from_raw(raw: Any, origin: str, labelled: bool = True, naming: Naming | None = None) -> Records:
    """Convert the raw dict of a stamps file to records.

    Parameters
    ----------
    raw : mapping
        Entries by name, or such mappings for train, validation and test.
    origin : str
        Name of the file in messages.
    labelled : bool
        Whether labels are required; without them all rows are unlabelled.
    naming : Naming, optional
        Classes of the labels.

    Returns
    -------
    Records
        Stamps (H, W, 3), labels and metadata.

    Raises
    ------
    InputError
        If an entry is missing, lengths differ or a label is unknown.
    """
    naming = naming or Naming()
    entries = array_files.find_entries(raw, KEYS, (), origin)
    parts = {name: entries[name] for name in PARTS if name in entries}
    if parts and "images" not in entries:
        return join(
            {name: from_raw(part, f"{origin}, {name}", labelled, naming) for name, part in parts.items()}, origin
        )
    array_files.find_entries(raw, KEYS, ("images", "labels") if labelled else ("images",), origin)
    if "labels" in entries:
        entries |= {"labels": naming.number(entries["labels"], origin)}
    images = entries["images"]
    if isinstance(images, np.ndarray) and images.dtype == object:
        images = list(images.ravel())
    images = _put_channels_last(images, origin)
    if not isinstance(images, list | tuple) and not np.ndim(images):
        raise InputError(f"{origin}: images are a {type(images).__name__}. Give a list or array of stamps.")
    _check_stamps(images, origin)
    n = len(images)
    values = to_numbers(entries.get("metadata", ()), "metadata", origin)
    features = values if values.size else np.empty((n, 0))
    times = {name: take(entries, name, (n,), origin) for name in TIMES if name in entries}
    by_width = {len(columns): columns for columns in (COLUMNS, PUBLISHED_COLUMNS, ())}
    if features.ndim != 2 or features.shape[1] not in by_width:
        raise InputError(
            f"{origin}: metadata has shape {features.shape}. Give one row per stamp of {len(COLUMNS)} columns "
            f"({', '.join(COLUMNS[:3])}, ...) or the {len(PUBLISHED_COLUMNS)} without rb, distnr, magnr."
        )
    return Records(
        images=images,
        labels=take(entries, "labels", (n,), origin, naming.classes, UNLABELLED),
        ids=take(entries, "oid", (n,), origin, str, number_rows(n)),
        features=features,
        feature_names=by_width[features.shape[1]],
        classes=naming.classes,
        origin=origin,
        channels=CHANNELS,
        survey=SURVEY,
        night=find_nights(times, SURVEY),
    )


def to_raw(images: np.ndarray, labels: Sequence[str], ids: Sequence[str]) -> dict[str, Any]:
    """Build the raw dict of a stamps file without metadata.

    Parameters
    ----------
    images : ndarray
        (N, H, W, 3): science, template, difference.
    labels : sequence of str
        Names of classes.
    ids : sequence of str
        Names of the objects.

    Returns
    -------
    dict
        The content of a file.

    Raises
    ------
    InputError
        If there are not three channels.
    """
    if images.shape[3] != len(CHANNELS):
        raise InputError(f"{images.shape[3]} channels: expected the 3 of a stamps file. Train on data=alerce.")
    numbers = [CLASSES.index(label) for label in labels] if set(labels) <= set(CLASSES) else list(labels)
    return {"images": images.astype(np.float32), "labels": numbers, "metadata": None, "oid": list(ids)}


def _put_channels_last(images: Any, origin: str) -> Any:
    """Move the channels of stamps (3, H, W) last; leave stamps (H, W, 3) unchanged."""
    if isinstance(images, np.ndarray):
        at, shape = images.ndim - 3, images.shape[-3:]
    elif isinstance(images, list | tuple) and all(isinstance(image, np.ndarray) for image in images):
        return [_put_channels_last(image, origin) for image in images]
    else:
        return images
    # if both orders are possible, assume the usual one
    if len(shape) < 3 or shape[0] != len(CHANNELS) or shape[2] == len(CHANNELS):
        return images
    return np.moveaxis(images, at, -1)


def _check_stamps(images: Sequence[np.ndarray] | np.ndarray, origin: str) -> None:
    """Raise InputError unless every stamp is a numeric array (H, W, 3); cleaning checks its size."""
    for image in images[:1] if isinstance(images, np.ndarray) else images:
        if not isinstance(image, np.ndarray) or image.dtype.kind not in "fiu" or image.shape[2:] != (3,):
            found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise InputError(
                f"{origin}: images include a {found}. Give numeric arrays of shape (height, width, 3), with science, "
                "template and difference last."
            )
