"""The stamps file of the ALeRCE broker (`ALERCE_stamps_2020.pkl`) and its siblings.

A pickled dict of `images`, `labels`, `metadata` (any capitalisation), optionally `oid`, and `jd`, `mjd`, `candid` or
`night`; or a dict of such dicts, one for each of Train, Validation and Test. Also npz and HDF5, under other names too,
and npy of the images alone; their labels may stand in a CSV, see `raw_files.find_tables`.
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

# The published model's column list: the full one without what a real-bogus score or reference depends on.
PUBLISHED_COLUMNS = tuple(name for name in COLUMNS if name not in ("rb", "distnr", "magnr"))

PARTS = ("train", "validation", "test")
# All names under which the same entry has been seen.
ENDS = (*array_files.ENDS, ".npy")
KEYS = {
    "images": ("images", "image_triplet", "triplets", "stamps", "cutouts", "image", "arr_0"),
    "labels": ("labels",),
    "metadata": ("metadata", "features"),
    "oid": ("oid", "object_ids", "objectid", "object_id_", "object_id"),
    **{name: (name,) for name in (*PARTS, *TIMES)},
}

ENTRIES = {name for names in KEYS.values() for name in names}  # all that is read of a file
ROLES = {"images": "images", "labels": "labels", "ids": "oid", "metadata": "metadata"}  # of data.columns, and its entry
IDS = ("objectid", "oid", "ztfid", "id")  # columns of a CSV, row by row with the images, that name the object


def read(
    path: str | Path | None,
    test_path: str | Path | None = None,
    extra_path: str | Path | None = None,
    classes: Sequence[str] | str | None = None,
    labels_map: Mapping[str, str | None] | None = None,
    labels_path: str | Path | None = None,
    columns: Mapping[str, str | None] | None = None,
) -> Records:
    """Read a stamps file in any of its layouts, or all files in a folder or matching a pattern.

    test_path, extra_path: as in `join_files`. classes, labels_map: as in `labels.Naming.of`. labels_path, columns: as
    in `load`. Raises `InputError` if there is no such file, it is not of a format of arrays, an entry is missing,
    lengths differ or a label is unknown.
    """
    if path is None:
        raise InputError("data=alerce needs the stamps file: data.path=FILE, or ALERCE_STAMPS=FILE set.")
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
            raise InputError(f"{path}: some of its files prescribe a split and others none. Give them one at a time.")
        joined = join(parts, f"{len(parts):,} files of {Path(path).name}")
        records = replace(joined, part=np.concatenate(own) if own else None)
    return join_files(records, test_path, extra_path, naming, columns)


def _find(path: str | Path) -> list[Path]:
    """Return the files of arrays among those of a path; raises InputError where it has none."""
    files = raw_files.expand_path(path)
    found = [file for file in files if file.name.lower().endswith(ENDS) or look(file)[0].reader == "arrays"]
    if not found and len(files) > 1:
        seen = look(files[0], describe=True)[1]
        raise InputError(
            f"{path}: none of its {len(files):,} files is one of arrays; {files[0].name} is {seen}. Use data=alerts "
            "for packets and FITS files of stamps, or data=rubin for Rubin's."
        )
    return found or files


def load(
    path: str | Path,
    columns: Mapping[str, str | None] | None = None,
    labels_path: str | Path | None = None,
    labels_map: Mapping[str, str | None] | None = None,
    labelled: bool = True,
) -> Any:
    """Return the raw dict of a stamps file of any format, with the labels of a CSV where it has none.

    Parameters
    ----------
    columns : mapping, optional
        The names that images, labels, ids and metadata have in this file, by `ROLES`; others are found by `KEYS`.
    labels_path : path, optional
        A CSV of labels; default: one of `raw_files.find_tables`, for a file of images alone.
    labels_map : mapping, optional
        Names for labels that are numbers, by their digits.
    labelled : bool
        Whether the labels are needed, so that a CSV in the same folder must fit.

    Raises
    ------
    InputError
        If the file cannot be read, lacks a column that is named, or the CSV does not belong to it.
    """
    path = Path(path)
    given = {ROLES.get(role, role): name for role, name in (columns or {}).items() if name}
    if unknown := sorted(given.keys() - set(ROLES.values())):
        raise InputError(f"data.columns: has no part {', '.join(unknown)}. Name some of {', '.join(ROLES)}.")
    raw = array_files.load(path, ENTRIES | {name.lower() for name in given.values()})
    alone = isinstance(raw, np.ndarray)
    if alone:
        raw = {"images": raw[None] if raw.ndim == 3 else raw}
    if not isinstance(raw, Mapping):
        return raw  # which `from_raw` refuses
    if given:
        raw = _rename(raw, {} if alone else given, str(path))
    held = {str(name).lower() for name, value in raw.items() if value is not None}
    if not held & {*KEYS["images"], *PARTS}:
        seen = look(path, describe=True)[1]
        there = "" if ":" in seen else f" of {', '.join(str(name)[:20] for name in list(raw)[:20])}"
        raise InputError(
            f"{path}: is {seen}{there}; it has no images. Name them with data.columns.images=NAME, in predict with "
            "--columns images=NAME."
        )
    if "labels" in given and not alone and not labelled:
        raw.pop("labels")  # which may number classes that nobody names
    elif "labels" in given and not alone:
        raw["labels"] = _name_numbers(raw["labels"], labels_map or {}, given["labels"], str(path))
    table = Path(labels_path) if labels_path else None
    if alone and not table:
        table = next((one for one in raw_files.find_tables(path) if labelled or one.name != raw_files.LABELS), None)
    if alone and labelled and not table:
        raise InputError(
            f"{path}: is an npy file of images, without labels. Give a CSV of one row per stamp, in the same order, "
            f"with data.labels=FILE, or as {path.name.partition('.')[0]}.csv beside it."
        )
    if not table:
        return raw
    found = _labels_by_table(raw, table, given.get("labels"), str(path))
    return {name: value for name, value in raw.items() if str(name).lower() not in found} | found


def _rename(raw: Mapping[Any, Any], given: Mapping[str, str], origin: str) -> dict[Any, Any]:
    """Rename the entries that the user names, to the names in `KEYS`."""
    found = {str(name).lower(): value for name, value in raw.items()}
    for entry, name in given.items():
        if found.get(name.lower()) is None:
            role = next(role for role, held in ROLES.items() if held == entry)
            there = ", ".join(str(name)[:20] for name in list(raw)[:20])
            raise InputError(f"data.columns.{role}={name}: {origin} has no such column. Name one of {there}.")
    kept = {name: value for name, value in raw.items() if not any(str(name).lower() in KEYS[entry] for entry in given)}
    return kept | {entry: found[name.lower()] for entry, name in given.items()}


def _name_numbers(labels: Any, labels_map: Mapping[str, str | None], column: str, origin: str) -> list[Any]:
    """Convert labels that are numbers to text, the keys of data.labels_map; NaN means unlabelled."""
    values = list_labels(labels, origin)
    names = [f"{one:.12g}" if isinstance(one, float | int) else str(one) for one in values]
    numbers = {name for name, one in zip(names, values, strict=True) if not isinstance(one, str)} - {"nan"}
    if unknown := sorted(numbers - set(map(str, labels_map))):
        raise InputError(
            f"data.columns.labels={column}: {origin} holds the numbers {', '.join(unknown[:9])} there. Name the "
            f"classes with 'data.labels_map={{{unknown[0]}: CLASS}}'."
        )
    return [UNLABELLED if name == "nan" else name for name in names]


def _labels_by_table(raw: Mapping[str, Any], table: Path, column: str | None, origin: str) -> dict[str, Any]:
    """Return the labels, and the ids where it has them, of a CSV: by object, or row by row where a file has no ids."""
    found = {name.strip().lower(): values for name, values in read_csv(table).items()}
    labels = found.get(column.lower()) if column else find_label_column(found)
    if labels is None:
        there = ", ".join(found)[:200]
        raise InputError(
            f"{table}: has no column {column or ' or '.join(LABEL_COLUMNS[:3])}, only {there}. Name it with "
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
            f"{table}: has {len(labels):,} rows, {origin} {len(images):,} stamps without ids. Give one row per stamp "
            "in the same order, or another CSV with data.labels=FILE."
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
    """Return records with those of other stamps files: test_path is the test part, extra_path is for training only."""
    naming = naming or Naming()

    def read_part(path: str | Path) -> Records:
        return from_raw(load(path, columns, labels_map=naming.own), f"file {Path(path).name}", naming=naming)

    if test_path:
        records = join({"train": records, "test": read_part(test_path)})
    return with_extra(records, read_part(extra_path)) if extra_path else records


def _labels_of(raw: Any, origin: str) -> list[Any]:
    """Return all labels of the raw dict of a stamps file, of all its parts."""
    entries = array_files.find_entries(raw, KEYS, (), origin)
    parts = chain.from_iterable(_labels_of(entries[name], origin) for name in PARTS if name in entries)
    return [*list_labels(entries.get("labels", ()), origin), *parts]


def from_raw(raw: Any, origin: str, labelled: bool = True, naming: Naming | None = None) -> Records:
    """Turn the raw dict of a stamps file into records; the errors are those of `read`.

    labelled: whether labels must be there; where they need not and are not, all rows are unlabelled. naming: the
    classes of labels, and what other names there are for them.
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
    """Return the raw dict of a stamps file without metadata, from images (N, H, W, 3), class names and object names.

    Raises `InputError` for a number of channels that such a file does not have.
    """
    if images.shape[3] != len(CHANNELS):
        raise InputError(f"a stamps file holds 3 channels; these are {images.shape[3]}. Train on data=alerce.")
    numbers = [CLASSES.index(label) for label in labels] if set(labels) <= set(CLASSES) else list(labels)
    return {"images": images.astype(np.float32), "labels": numbers, "metadata": None, "oid": list(ids)}


def _put_channels_last(images: Any, origin: str) -> Any:
    """Return stamps as (H, W, 3), given (H, W, 3) or (3, H, W)."""
    if isinstance(images, np.ndarray):
        at, shape = images.ndim - 3, images.shape[-3:]
    elif isinstance(images, list | tuple) and all(isinstance(image, np.ndarray) for image in images):
        return [_put_channels_last(image, origin) for image in images]
    else:
        return images
    if len(shape) < 3 or shape[0] != len(CHANNELS) or shape[2] == len(CHANNELS):  # the usual order, if both fit
        return images
    return np.moveaxis(images, at, -1)


def _check_stamps(images: Sequence[np.ndarray] | np.ndarray, origin: str) -> None:
    """Raise InputError unless every stamp is numbers (H, W, 3); size and squareness are the cleaning's business."""
    for image in images[:1] if isinstance(images, np.ndarray) else images:
        if not isinstance(image, np.ndarray) or image.dtype.kind not in "fiu" or image.shape[2:] != (3,):
            found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise InputError(
                f"{origin}: images include one of {found}. Give arrays of numbers of shape (height, width, 3), with "
                "science, template and difference last."
            )
