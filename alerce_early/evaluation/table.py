"""The predictions table on disk: one row a stamp, as parquet or CSV by the file's extension.

Columns: id, row, split ("validation" or "test"), label and predicted (class names), p_<class> for each class,
q_<class>, the same calibrated, the sets of classes of `conformal.KINDS`, and what of `slices.COLUMNS` the store has.
The label of a row that nobody has labelled is empty.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import csv, parquet

from alerce_early.errors import InputError

EXTENSIONS = (".parquet", ".csv")
Table = Mapping[str, np.ndarray]


def write(path: Path, table: Table) -> None:
    """Write columns (N,) under a temporary name, then rename."""
    partial = path.with_name(f".{path.name}.partial")
    rows = pyarrow.table({name: np.asarray(column) for name, column in table.items()})
    if path.suffix == ".csv":
        csv.write_csv(rows, partial)
    elif path.suffix == ".parquet":
        parquet.write_table(rows, partial)
    else:
        raise InputError(f"{path}: a predictions table ends in .parquet or .csv.")
    partial.rename(path)


def read(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read columns (N,), all or those named; raises InputError if there is no such table or it is damaged."""
    chosen = csv.ConvertOptions(include_columns=names)
    try:
        rows = (
            csv.read_csv(path, convert_options=chosen)
            if path.suffix == ".csv"
            else parquet.read_table(path, columns=names)
        )
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path} is no predictions table: {error}.") from None
    return {name: rows[name].to_numpy(zero_copy_only=False) for name in rows.column_names}


def classes_of(table: Table) -> tuple[str, ...]:
    """The classes in label order, from the names of the probability columns."""
    return tuple(name.removeprefix("p_") for name in table if name.startswith("p_"))


def probabilities(table: Table, classes: Sequence[str]) -> np.ndarray:
    """(N, C) float64 from the columns p_<class>."""
    return np.stack([table[f"p_{name}"] for name in classes], 1).astype(np.float64)


def label_indices(table: Table, classes: Sequence[str]) -> np.ndarray:
    """(N,) int64 indices into classes from the column label; raises InputError for another name."""
    names, index = np.unique(table["label"].astype(str), return_inverse=True)
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise InputError(f"label {', '.join(unknown)} has no column p_{unknown[0]}; there are {', '.join(classes)}.")
    return np.array([classes.index(name) for name in names], dtype=np.int64)[index]


def part(table: Table, split: str) -> dict[str, np.ndarray]:
    """The rows of one split."""
    return _rows(table, table["split"] == split)


def labelled(table: Table) -> dict[str, np.ndarray]:
    """The rows that can be judged."""
    return _rows(table, table["label"] != "")


def judged(table: Table, split: str) -> dict[str, np.ndarray]:
    """The rows of one split that can be judged."""
    return labelled(part(table, split))


def unlabelled(table: Table) -> dict[str, np.ndarray]:
    """The rows that can only be predicted; without the column label."""
    rows = _rows(table, table["label"] == "")
    return {name: column for name, column in rows.items() if name != "label"}


def joined(parts: Sequence[Table]) -> dict[str, np.ndarray]:
    """Tables end to end, as far as they have the same columns."""
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in shared}


def _rows(table: Table, chosen: np.ndarray) -> dict[str, np.ndarray]:
    return {name: column[chosen] for name, column in table.items()}
