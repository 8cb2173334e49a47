"""Read optical spectra of SDSS and BOSS: a folder of `spec-PLATE-MJD-FIBER.fits`, or one file of arrays.

The arrays are (N, 886): 443 fluxes and 443 inverse variances on the grid of `spectral_grid`. A pickled dict or an npz
file contains them with class, z and Z_CONF_PERSON (visual confidence in z; 3: certain). Spectra with the same THING_ID,
or at the same position (PLUG_RA, PLUG_DEC), belong to one object.
"""

import gzip
import io
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data import coordinates, raw_files, text
from alerce_early.data.readers import array_files
from alerce_early.data.records import UNLABELLED, Records, join, number_rows, take, to_label_numbers
from alerce_early.data.spectral_grid import PIXELS, rebin
from alerce_early.errors import InputError, one_line, require_extra

log = logging.getLogger(__name__)

CLASSES = ("STAR", "GALAXY", "QSO", "QSO_BAL")
CHANNELS = ("flux", "ivar")
COLUMNS = ("z", "z_conf")
MATCH_RADIUS_ARCSEC = 1.5  # a fibre has a diameter of 2
CERTAIN = 3  # z_conf of a certain redshift
MAX_FILE_BYTES = 32 << 20  # of one decompressed file; a spectrum with all its exposures has a tenth
ENDS = (".fits", ".fits.gz")

# Names of each entry in known files, in lower case.
KEYS = {
    "spectra": ("spectra", "x", "data", "images"),
    "class": ("class", "class_person", "labels", "label", "y"),
    "z": ("z", "z_vi"),
    "z_conf": ("z_conf", "z_conf_person"),
    "id": ("id", "ids", "oid"),
    "thing_id": ("thing_id",),
    "plug_ra": ("plug_ra",),
    "plug_dec": ("plug_dec",),
}
ENTRIES = {name for names in KEYS.values() for name in names}  # all entries that are read


def read(path: str | Path | None, test_path: str | Path | None = None) -> Records:
    """Read spectra from FITS files or from one file of arrays.

    Files that are not spectra, and rows without a usable pixel, are rejected, logged and counted.

    Parameters
    ----------
    path : path
        Folder, pattern or file of FITS spectra, or a pickle or npz file of arrays.
    test_path : path, optional
        The same for the test split; by default rows of `path` are held out at random.

    Returns
    -------
    Records
        Spectra (N, 443, 2) float32, with redshift and its confidence as metadata.

    Raises
    ------
    InputError
        If no spectrum can be read, an entry is missing, lengths differ or a class is unknown.
    """
    if path is None:
        raise InputError(
            "data.path is not set. Give spectra with data.path=FOLDER, 'PATTERN*' or FILE, or set SDSS_SPECTRA."
        )
    if test_path is not None:
        return join({"train": read(path), "test": read(test_path)})
    found = raw_files.expand_path(path, ENDS)
    if len(found) == 1 and not found[0].name.lower().endswith(ENDS):
        return from_raw(array_files.load(found[0], ENTRIES), origin=f"file {found[0].name}")
    return _from_fits(found, origin=f"{len(found):,} files of {Path(path).name}")


def from_raw(raw: Any, origin: str) -> Records:
    """Convert a raw dict of arrays to records; raise InputError as `read` does."""
    entries = array_files.find_entries(raw, KEYS, ("spectra",), origin)
    rows = take(entries, "spectra", (None, 2 * PIXELS), origin).astype(np.float32)
    flux, ivar = np.split(rows, 2, axis=1)
    usable = np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)
    n = len(flux)
    return _records(
        np.stack([np.where(usable, flux, 0), np.where(usable, ivar, 0)], 2),
        take(entries, "class", (n,), origin, str, ""),
        take(entries, "z", (n,), origin),
        take(entries, "z_conf", (n,), origin, missing=CERTAIN),
        take(entries, "id", (n,), origin, str, number_rows(n)),
        [take(entries, name, (n,), origin) for name in ("thing_id", "plug_ra", "plug_dec")],
        origin,
        Counter(),
    )


def _from_fits(found: Sequence[Path], origin: str) -> Records:
    """Read FITS spectra, rebinned to the common grid; reject files that are not spectra."""
    with require_extra("FITS spectra", "alerts"):
        from astropy.io import fits

    known = {"", *CLASSES}

    def spectrum(file: Path) -> tuple[np.ndarray, str, float, float, list[float]]:
        """Return the image, label, z, confidence, and THING_ID with position of a FITS file."""
        # a compressed image can declare any size
        with fits.open(_content(file), memmap=False, disable_image_compression=True) as units:
            table = units[1].data
            image = rebin(table["loglam"], table["flux"], table["ivar"])
            place = [float(units[0].header.get(name, np.nan)) for name in ("PLUG_RA", "PLUG_DEC")]
            if len(units) < 3:  # without the pipeline's classification
                return image, "", np.nan, CERTAIN, [np.nan, *place]
            facts = units[2].data
            thing = float(facts["THING_ID"][0]) if "THING_ID" in facts.names else np.nan
            doubted = "ZWARNING" in facts.names and facts["ZWARNING"][0] != 0
            label = str(facts["CLASS"][0]).strip()
            if label.upper().replace(" ", "_") not in known:
                raise ValueError(f"unknown class {label[:20]!r}; expected {', '.join(CLASSES)}")
            return image, label, float(facts["Z"][0]), 0 if doubted else CERTAIN, [thing, *place]

    rows, ids, set_aside = [], list[str](), Counter[str]()
    for file in found:
        try:
            rows.append(spectrum(file))
            ids.append(file.name.partition(".fits")[0])
        except Exception as error:  # a damaged file can raise almost anything
            set_aside["not a FITS spectrum"] += 1
            log.warning("rejected: %s is not a FITS spectrum: %s", ascii(file.name)[1:-1], one_line(error))
    if not rows:
        raise InputError(
            f"{origin}: no FITS spectrum among them. Give files with flux, loglam and ivar in the first table."
        )
    images, labels, z, conf, place = (np.array(column) for column in zip(*rows, strict=True))
    return _records(images, labels, z, conf, text.check_names(ids, "file names", origin), place.T, origin, set_aside)


def _content(file: Path) -> io.BytesIO:
    """Read and decompress a FITS file; raise ValueError if it is larger than `MAX_FILE_BYTES`."""
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        content = stream.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES >> 20} MiB")
    return io.BytesIO(content)


def _records(
    images: np.ndarray,
    names: np.ndarray,
    z: np.ndarray,
    conf: np.ndarray,
    ids: np.ndarray,
    place: Sequence[np.ndarray] | np.ndarray,
    origin: str,
    set_aside: Counter[str],
) -> Records:
    """Combine columns to records, and reject rows without a usable pixel."""
    kept = images[:, :, 1].any(1)
    if not kept.all():
        set_aside["no pixel with weight"] += int((~kept).sum())
    classes = [name.strip().replace(" ", "_") for name in names.astype(str).tolist()]
    labels = to_label_numbers([name or UNLABELLED for name in classes], CLASSES, origin)
    return Records(
        images=images[kept],
        labels=labels[kept],
        ids=_name_objects(ids, *place)[kept],
        features=np.stack([z, conf], 1)[kept].astype(np.float64),
        feature_names=COLUMNS,
        classes=CLASSES,
        origin=origin,
        kind="spectra",
        channels=CHANNELS,
        set_aside=set_aside,
    )


def _name_objects(ids: np.ndarray, things: np.ndarray, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return the object of each spectrum, (N,) str: a THING_ID above 0, or else the first id at its position."""
    known = np.where((things > 0) & (things < 2**53), things, 0).astype(np.int64)
    return coordinates.match_objects(np.where(known > 0, known.astype(str), ids), ra, dec, MATCH_RADIUS_ARCSEC)
