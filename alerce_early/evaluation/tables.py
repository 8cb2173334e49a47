"""Columns and rows of a predictions table, in memory."""

from collections.abc import Mapping, Sequence

import numpy as np

from alerce_early.errors import InputError

# Of ZTF ndethist: within 1.5 arcsec, on the same field and readout channel, down to a signal-to-noise ratio of about 3.
# Of Rubin nDiaSources of the diaObject. Both include the detection that the alert is about, so the first has 1.
DETECTIONS = "ndethist"
MOST_DETECTIONS = 20.0  # in any table, since stores have no more: the published model was given no more
# Of a row, taken from the store where it is there, and what it is called.
METADATA = {
    "magpsf": "magnitude (magpsf)",
    "sigmapsf": "magnitude error (sigmapsf)",
    "snr": "signal-to-noise ratio (snr)",
    DETECTIONS: "number of detections (ndethist)",
}
PLACE = ("jd", "fid", "ra", "dec")  # when, through which filter and where, of what is classified
SMALLEST = 1e-12  # probability; a network's zero is a rounded one
Table = Mapping[str, np.ndarray]
Constants = Mapping[str, float | None]  # numbers that hold for all rows of a table, by name


def classes_of(table: Table) -> tuple[str, ...]:
    """Return the classes in label order, from the names of the probability columns."""
    return tuple(name.removeprefix("p_") for name in table if name.startswith("p_"))


def probabilities(table: Table, classes: Sequence[str], prefix: str = "p") -> np.ndarray:
    """Return the columns p_<class>, or with another prefix, as one array (N, C) float64."""
    return np.stack([table[f"{prefix}_{name}"] for name in classes], 1).astype(np.float64)


def find_objects(table: Table) -> np.ndarray:
    """Return the object of each row, (N,): rows of one object are no independent evidence."""
    return table["object" if "object" in table else "id"]


def label_indices(table: Table, classes: Sequence[str]) -> np.ndarray:
    """(N,) int64 indices into classes from the column label; raises InputError for another name."""
    names, index = np.unique(table["label"].astype(str), return_inverse=True)
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise InputError(
            f"label {', '.join(unknown[:5])} has no column p_{unknown[0]}; there are {', '.join(classes[:20])}."
        )
    return np.array([classes.index(name) for name in names], dtype=np.int64)[index]


def select_split(table: Table, split: str) -> dict[str, np.ndarray]:
    """Return the rows of one split."""
    return take_rows(table, table["split"] == split)


def keep_labelled(table: Table) -> dict[str, np.ndarray]:
    """Return the rows that can be judged."""
    return take_rows(table, table["label"] != "")


def select_judged(table: Table, split: str) -> dict[str, np.ndarray]:
    """Return the rows of one split that can be judged."""
    return keep_labelled(select_split(table, split))


def keep_unlabelled(table: Table) -> dict[str, np.ndarray]:
    """Return the rows that can only be predicted; without the column label."""
    rows = take_rows(table, table["label"] == "")
    return {name: column for name, column in rows.items() if name != "label"}


def join_tables(parts: Sequence[Table]) -> dict[str, np.ndarray]:
    """Tables end to end, as far as they have the same columns."""
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in shared}


def take_rows(table: Table, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """Return some rows of a table; chosen: (N,) bool, or (n,) numbers."""
    return {name: column[chosen] for name, column in table.items()}
