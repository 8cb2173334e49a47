"""Observing nights: when a row was observed, and which rows must stay together because they share a night."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data import labels
from alerce_early.data.coordinates import first_of_component
from alerce_early.errors import InputError

UNKNOWN = -1
MJD = 2400000.5  # jd of mjd 0
FIRST_CANDID = 57754.0  # mjd of candid 0; a candid of ZTF counts on in units of 1e-15 days
LONGITUDE = {"ZTF": -116.86, "Rubin": -70.75}  # degrees east, of Palomar and Cerro Pachon
TIMES = ("jd", "mjd", "candid", "night")  # columns that give the night, the one that is trusted most first


def find_nights(columns: Mapping[str, Any], survey: str) -> np.ndarray | None:
    """Find the observing night of each row.

    A night lasts from noon to noon, local mean time at the observatory, and its number is the whole mjd at the midnight
    in between. No universal day does for all: ZTF at Palomar observes from 2 h to 14 h UT, across the noon at which the
    julian date changes, and Rubin in Chile from 23 h to 10 h UT, across the midnight at which the mjd changes.

    Parameters
    ----------
    columns : mapping of str to (N,) float64
        Any of ``jd``, ``mjd``, ``candid`` (of ZTF) and ``night`` (a number as returned here); NaN where unknown.
    survey : str
        Whose observatory; of an unknown one the noon is that of Greenwich.

    Returns
    -------
    (N,) int64 or None
        The number of each night, `UNKNOWN` where the columns do not say it; None if there is no such column.
    """
    name = next((time for time in TIMES if time in columns and (time != "candid" or survey == "ZTF")), None)
    if name is None:
        return None
    days = np.asarray(columns[name], dtype=np.float64)
    if name == "jd":
        days = days - MJD
    elif name == "candid":
        days = FIRST_CANDID + days / 1e15
    if name != "night":
        days = days + 0.5 + LONGITUDE.get(survey, 0.0) / 360
    known = (days >= 0) & (days < 1e6)
    return np.floor(days, where=known, out=np.full(days.shape, float(UNKNOWN))).astype(np.int64)


def read_nights(file: str | Path, survey: str) -> dict[str, set[int]]:
    """Read the nights of each object from a CSV of objectId (or id, oid) and one of `TIMES`.

    Raises InputError if a column is missing or holds no numbers.
    """
    table = {name.lower(): column for name, column in labels.read_csv(Path(file)).items()}
    ids = next((table[name] for by, name in labels.JOINS if by == "id" and name in table), None)
    try:
        numbers = {name: np.array([value or "nan" for value in table[name]], float) for name in TIMES if name in table}
    except ValueError as error:
        raise InputError(f"data.nights={file}: {error}. Give numbers.") from None
    nights = find_nights(numbers, survey)
    if ids is None or nights is None:
        there = ", ".join(table)[:200]
        raise InputError(f"data.nights={file}: its columns are {there}. Give objectId and jd, mjd, candid or night.")
    found: dict[str, set[int]] = {}
    for name, night in zip(ids, nights.tolist(), strict=True):
        if night != UNKNOWN:
            found.setdefault(name, set()).add(night)
    return found


def connect(objects: np.ndarray, rows: np.ndarray, nights: np.ndarray) -> np.ndarray:
    """Join the objects that nights connect.

    Parameters
    ----------
    objects : (N,) str
        The object of each row.
    rows, nights : (M,) int64
        A row's number and a night on which it was observed.

    Returns
    -------
    (N,) str
        The first of all objects that share a night, or share one with an object that does, and so on.
    """
    names, name = np.unique(objects, return_inverse=True)
    found, night = np.unique(nights, return_inverse=True)
    ends = np.stack([name[rows], len(names) + night])
    return names[first_of_component(len(names), len(names) + len(found), ends)][name]
