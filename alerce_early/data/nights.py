"""Observing nights: the night of each row, and groups of objects that were observed on the same nights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.data import labels
from alerce_early.data.coordinates import first_of_component
from alerce_early.errors import InputError

UNKNOWN = -1
JD_OF_MJD_0 = 2400000.5
MJD_OF_CANDID_0 = 57754.0  # of ZTF, whose candids are in units of 1e-15 days
LONGITUDE = {"ZTF": -116.86, "Rubin": -70.75}  # degrees east, of Palomar and Cerro Pachon
TIMES = ("jd", "mjd", "candid", "night")  # columns that give the night, in order of precedence


def find_nights(columns: Mapping[str, Any], survey: str) -> np.ndarray | None:
    """Find the observing night of each row.

    A night lasts from noon to noon in local mean time, and its number is the integer part of the MJD at the midnight in
    between. Neither JD nor MJD can replace it: ZTF at Palomar observes from 2 h to 14 h UT, including noon, when the JD
    changes, and Rubin in Chile from 23 h to 10 h UT, including midnight, when the MJD changes.

    Parameters
    ----------
    columns : mapping of str to ndarray
        Columns (N,) float64: any of ``jd``, ``mjd``, ``candid`` (of ZTF) and ``night`` (as returned here); NaN where
        unknown.
    survey : str
        Survey, which determines the longitude; nights of an unknown survey begin at noon UT.

    Returns
    -------
    ndarray or None
        (N,) int64: number of each night, or `UNKNOWN`; None if there is no such column.
    """
    name = next((time for time in TIMES if time in columns and (time != "candid" or survey == "ZTF")), None)
    if name is None:
        return None
    days = np.asarray(columns[name], dtype=np.float64)
    if name == "jd":
        days = days - JD_OF_MJD_0
    elif name == "candid":
        days = MJD_OF_CANDID_0 + days / 1e15
    if name != "night":
        days = days + 0.5 + LONGITUDE.get(survey, 0.0) / 360
    known = (days >= 0) & (days < 1e6)
    return np.floor(days, where=known, out=np.full(days.shape, float(UNKNOWN))).astype(np.int64)


def read_nights(file: str | Path, survey: str) -> dict[str, set[int]]:
    """Read the nights of each object from a CSV.

    Parameters
    ----------
    file : str or Path
        CSV with a column objectId (or id, oid), and one of `TIMES`.
    survey : str
        As in `find_nights`.

    Returns
    -------
    dict of str to set of int
        Numbers of the nights by object.

    Raises
    ------
    InputError
        If a column is missing or does not hold numbers.
    """
    table = {name.lower(): column for name, column in labels.read_csv(Path(file)).items()}
    ids = next((table[name] for by, name in labels.ID_COLUMNS if by == "id" and name in table), None)
    try:
        numbers = {name: np.array([value or "nan" for value in table[name]], float) for name in TIMES if name in table}
    except ValueError as error:
        raise InputError(f"data.nights={file}: {error}. Give numbers.") from None
    nights = find_nights(numbers, survey)
    if ids is None or nights is None:
        there = ", ".join(table)[:200]
        raise InputError(f"data.nights={file}: expected columns objectId and jd, mjd, candid or night; found {there}.")
    found: dict[str, set[int]] = {}
    for name, night in zip(ids, nights.tolist(), strict=True):
        if night != UNKNOWN:
            found.setdefault(name, set()).add(night)
    return found


def connect(objects: np.ndarray, rows: np.ndarray, nights: np.ndarray) -> np.ndarray:
    """Group objects that are connected by nights on which they were observed.

    Parameters
    ----------
    objects : ndarray
        (N,) str: object of each row.
    rows, nights : ndarray
        (M,) int64: pairs of a row number and a night on which the row was observed.

    Returns
    -------
    ndarray
        (N,) str: group of each row, named after its alphabetically first object. Objects that share a night, directly
        or by way of other objects, are in one group.
    """
    names, name = np.unique(objects, return_inverse=True)
    found, night = np.unique(nights, return_inverse=True)
    ends = np.stack([name[rows], len(names) + night])
    return names[first_of_component(len(names), len(names) + len(found), ends)][name]
