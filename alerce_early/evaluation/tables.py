"""Columns and rows of a predictions table in memory; `alerce_early.artifacts.predictions` has its file formats."""

from collections.abc import Mapping, Sequence

import numpy as np

from alerce_early.errors import InputError

# ZTF: ndethist, the detections within 1.5 arcsec on the same field and readout channel, with a signal-to-noise ratio of
# about 3 or more. Rubin: nDiaSources of the diaObject. Both count the alert itself, so that the first alert has 1.
DETECTIONS = "ndethist"
MOST_DETECTIONS = 20.0  # larger counts are clipped, as for the published model
# Columns that are copied from the store if present, with their labels.
METADATA = {
    "magpsf": "magnitude (magpsf)",
    "sigmapsf": "magnitude error (sigmapsf)",
    "snr": "signal-to-noise ratio (snr)",
    DETECTIONS: "number of detections (ndethist)",
}
PLACE = ("jd", "fid", "ra", "dec")  # time, filter and position of an alert
SMALLEST = 1e-12  # lower bound on probabilities, which avoids log(0) where a network's output is rounded to 0
Table = Mapping[str, np.ndarray]
Constants = Mapping[str, float | None]  # numbers that hold for all rows of a table, by name


def classes_of(table: Table) -> tuple[str, ...]:
    """Return the classes in label order, from the names of the probability columns."""
    return tuple(name.removeprefix("p_") for name in table if name.startswith("p_"))


def probabilities(table: Table, classes: Sequence[str], prefix: str = "p") -> np.ndarray:
    """Return the columns p_<class>, or with another prefix, as one array (N, C) float64."""
    return np.stack([table[f"{prefix}_{name}"] for name in classes], 1).astype(np.float64)


def find_objects(table: Table) -> np.ndarray:
    """Return the object of each row, (N,). Rows of the same object are not independent."""
    return table["object" if "object" in table else "id"]


def label_indices(table: Table, classes: Sequence[str]) -> np.ndarray:
    """Convert the column label to class indices.

    Parameters
    ----------
    table : mapping of str to ndarray
        Has ``label`` (N,) str.
    classes : sequence of str
        Class names.

    Returns
    -------
    ndarray
        (N,) int64 indices into `classes`.

    Raises
    ------
    InputError
        If a label is not one of `classes`.
    """
    names, index = np.unique(table["label"].astype(str), return_inverse=True)
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise InputError(
            f"label {', '.join(unknown[:5])}: column p_{unknown[0]} is missing. Use the classes of the table: "
            f"{', '.join(classes[:20])}."
        )
    return np.array([classes.index(name) for name in names], dtype=np.int64)[index]


def select_split(table: Table, split: str) -> dict[str, np.ndarray]:
    """Return the rows of one split, "validation" or "test"."""
    return take_rows(table, table["split"] == split)


def keep_labelled(table: Table) -> dict[str, np.ndarray]:
    """Return the labelled rows."""
    return take_rows(table, table["label"] != "")


def select_judged(table: Table, split: str) -> dict[str, np.ndarray]:
    """Return the labelled rows of one split."""
    return keep_labelled(select_split(table, split))


def keep_unlabelled(table: Table) -> dict[str, np.ndarray]:
    """Return the unlabelled rows, without the column label."""
    rows = take_rows(table, table["label"] == "")
    return {name: column for name, column in rows.items() if name != "label"}


def join_tables(parts: Sequence[Table]) -> dict[str, np.ndarray]:
    """Concatenate tables, keeping the columns that all of them have."""
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in shared}


def take_rows(table: Table, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rows of a table selected by a mask (N,) bool or by indices (n,) int64."""
    return {name: column[chosen] for name, column in table.items()}
