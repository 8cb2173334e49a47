"""The stamps file of the ALeRCE broker (`ALERCE_stamps_2020.pkl`) and its siblings.

A pickled dict of `images`, `labels`, `metadata` (any capitalisation), optionally `oid`, and `jd`, `mjd`, `candid` or
`night`; or a dict of such dicts, one for each of Train, Validation and Test.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data.labels import CLASSES as CLASSES
from alerce_early.data.labels import OF_LABELS, Naming
from alerce_early.data.nights import TIMES, find_nights
from alerce_early.data.readers import array_files
from alerce_early.data.records import UNLABELLED, Records, join, list_labels, number_rows, take, to_numbers, with_extra
from alerce_early.errors import InputError

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
KEYS = {
    "images": ("images",),
    "labels": ("labels",),
    "metadata": ("metadata", "features"),
    "oid": ("oid", "object_ids", "objectid"),
    **{name: (name,) for name in (*PARTS, *TIMES)},
}

ENTRIES = {name for names in KEYS.values() for name in names}  # all that is read of a file


def read(
    path: str | Path | None,
    test_path: str | Path | None = None,
    extra_path: str | Path | None = None,
    classes: Sequence[str] | str | None = None,
    labels_map: Mapping[str, str | None] | None = None,
) -> Records:
    """Read a stamps file in any of its layouts.

    test_path, extra_path: as in `join_files`. classes, labels_map: as in `labels.Naming.of`.
    Raises `InputError` if there is no such file, it is not a pickle of the format, an entry is missing,
    lengths differ or a label is unknown.
    """
    if path is None:
        raise InputError("data=alerce needs the stamps file: data.path=FILE, or ALERCE_STAMPS=FILE set.")
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder; wanted a stamps file with data.path=FILE. data=alerts takes folders.")
    raw, origin = array_files.load(path, ENTRIES), f"file {Path(path).name}"
    naming = Naming.of(classes, labels_map, _labels_of(raw, origin) if classes == OF_LABELS else ())
    return join_files(from_raw(raw, origin, naming=naming), test_path, extra_path, naming)


def join_files(
    records: Records, test_path: str | Path | None, extra_path: str | Path | None, naming: Naming | None = None
) -> Records:
    """Return records with those of other stamps files: test_path is the test part, extra_path is for training only."""
    naming = naming or Naming()

    def read_part(path: str | Path) -> Records:
        return from_raw(array_files.load(path, ENTRIES), f"file {Path(path).name}", naming=naming)

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


def _check_stamps(images: Sequence[np.ndarray] | np.ndarray, origin: str) -> None:
    """Raise InputError unless every stamp is numbers (H, W, 3); size and squareness are the cleaning's business."""
    for image in images[:1] if isinstance(images, np.ndarray) else images:
        if not isinstance(image, np.ndarray) or image.dtype.kind not in "fiu" or image.shape[2:] != (3,):
            found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise InputError(
                f"{origin}: images include one of {found}. Give arrays of numbers of shape (height, width, 3), with "
                "science, template and difference last."
            )
