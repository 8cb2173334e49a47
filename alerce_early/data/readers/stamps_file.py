"""The stamps file of the ALeRCE broker (`ALERCE_stamps_2020.pkl`) and its siblings.

A pickled dict of `images`, `labels`, `metadata` (any capitalisation), optionally `oid`; or a dict of such
dicts, one for each of Train, Validation and Test.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data import text
from alerce_early.data.readers import array_files
from alerce_early.data.records import (
    UNLABELLED,
    Records,
    join,
    number_rows,
    to_label_numbers,
    to_numbers,
    with_extra,
)
from alerce_early.errors import InputError

CLASSES = ("AGN", "SN", "VS", "asteroid", "bogus")
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

# Other names under which the same entry has been seen.
KEYS = {
    "images": ("images",),
    "labels": ("labels",),
    "metadata": ("metadata", "features"),
    "oid": ("oid", "object_ids", "objectid"),
}

PARTS = {"train": "train", "validation": "validation", "test": "test"}
ENTRIES = {*PARTS, *(name for names in KEYS.values() for name in names)}  # all that is read of a file


def read(path: str | Path | None, test_path: str | Path | None = None, extra_path: str | Path | None = None) -> Records:
    """Read a stamps file in any of its layouts; test_path, extra_path: as in `join_files`.

    Raises `InputError` if there is no such file, it is not a pickle of the format, an entry is missing,
    lengths differ or a label is unknown.
    """
    if path is None:
        raise InputError("data=alerce needs the stamps file: data.path=FILE, or ALERCE_STAMPS=FILE set.")
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder; wanted a stamps file with data.path=FILE. data=alerts takes folders.")
    raw = array_files.load(path, ENTRIES)
    return join_files(from_raw(raw, origin=f"file {Path(path).name}"), test_path, extra_path)


def join_files(records: Records, test_path: str | Path | None, extra_path: str | Path | None) -> Records:
    """Return records with those of other stamps files: test_path is the test part, extra_path is for training only."""
    if test_path:
        records = join({"train": records, "test": read(test_path)})
    return with_extra(records, read(extra_path)) if extra_path else records


def from_raw(raw: Any, origin: str, labelled: bool = True) -> Records:
    """Turn the raw dict of a stamps file into records; the errors are those of `read`.

    labelled: whether labels must be there; where they need not and are not, all rows are unlabelled.
    """
    if not isinstance(raw, Mapping):
        raise InputError(f"{origin}: holds a {type(raw).__name__}; wanted a dict of images, labels, metadata.")
    entries = array_files.lower_names(raw, origin)
    if "images" in entries:
        return _one_part(entries, origin, labelled)
    parts = {PARTS[key]: value for key, value in entries.items() if key in PARTS}
    if not parts:
        raise InputError(
            f"{origin}: has the entries {[name[:20] for name in sorted(entries)[:8]]}; wanted images, labels, metadata "
            "(or Train, Validation, Test with those inside)."
        )
    return join({name: from_raw(part, f"{origin}, {name}", labelled) for name, part in parts.items()}, origin)


def to_raw(images: np.ndarray, labels: Sequence[str], ids: Sequence[str]) -> dict[str, Any]:
    """Return the raw dict of a stamps file without metadata, from images (N, H, W, 3), class names and object names.

    Raises `InputError` for a class or a number of channels that such a file does not have.
    """
    unknown = sorted(set(labels) - set(CLASSES))
    if unknown or images.shape[3] != 3:
        raise InputError(
            f"a stamps file holds 3 channels of {', '.join(CLASSES)}; these are {images.shape[3]} channels"
            f"{' of ' + ', '.join(unknown) if unknown else ''}."
        )
    numbers = [CLASSES.index(label) for label in labels]
    return {"images": images.astype(np.float32), "labels": numbers, "metadata": None, "oid": list(ids)}


def _one_part(entries: Mapping[str, Any], origin: str, labelled: bool) -> Records:
    def entry(name: str) -> Any:
        return next((entries[key] for key in KEYS[name] if key in entries), None)

    images, labels, metadata, oid = (entry(name) for name in KEYS)
    if labels is None and labelled:
        raise InputError(f"{origin}: has no labels; wanted a list of 0..4 or of {', '.join(CLASSES)}.")
    if isinstance(images, np.ndarray) and images.dtype == object:
        images = list(images.ravel())
    if not isinstance(images, np.ndarray | list | tuple) or (isinstance(images, np.ndarray) and not images.ndim):
        raise InputError(f"{origin}: images are a {type(images).__name__}; wanted a list or array of stamps.")
    features, columns = _features(metadata, len(images), origin)
    return Records(
        images=_checked_images(images, origin),
        labels=np.full(len(images), UNLABELLED) if labels is None else to_label_numbers(labels, CLASSES, origin),
        ids=number_rows(len(images)) if oid is None else text.check_names(oid, "object ids", origin),
        features=features,
        feature_names=columns,
        classes=CLASSES,
        origin=origin,
        channels=CHANNELS,
        survey=SURVEY,
    )


def _checked_images(images: Any, origin: str) -> Any:
    """Every stamp must be a numeric array (H, W, 3); size and squareness are the cleaning's business."""
    if isinstance(images, np.ndarray):
        shapes, dtypes = {images.shape[1:]}, {images.dtype}
    else:
        if not all(isinstance(image, np.ndarray) for image in images):
            raise InputError(f"{origin}: images must be numpy arrays.")
        shapes, dtypes = {image.shape for image in images}, {image.dtype for image in images}
    wrong = [shape for shape in shapes if len(shape) != 3 or shape[2] != 3]
    if wrong:
        raise InputError(
            f"{origin}: an image has shape {wrong[0]}; wanted (height, width, 3) with science, template "
            "and difference last."
        )
    odd = [dtype for dtype in dtypes if dtype.kind not in "fiu"]
    if odd:
        raise InputError(f"{origin}: an image has dtype {odd[0]}; wanted floating-point numbers.")
    return images


def _features(metadata: Any, n: int, origin: str) -> tuple[np.ndarray, tuple[str, ...]]:
    if metadata is None:
        return np.empty((n, 0)), ()
    values = to_numbers(metadata, "metadata rows", origin)
    by_width = {len(COLUMNS): COLUMNS, len(PUBLISHED_COLUMNS): PUBLISHED_COLUMNS, 0: ()}
    width = values.shape[1] if values.ndim == 2 else 0 if values.size == 0 else -1
    if width not in by_width:
        raise InputError(
            f"{origin}: metadata has shape {values.shape}; wanted one row per stamp of {len(COLUMNS)} columns "
            f"({', '.join(COLUMNS[:3])}, ...) or the {len(PUBLISHED_COLUMNS)} without rb, distnr, magnr."
        )
    return values.reshape(len(values) if width else n, width), by_width[width]
