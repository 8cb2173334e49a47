"""Labels that come in a table of their own: by which column they belong to rows, and what they say."""

import csv
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.errors import InputError

LABEL = ("label", "class")
JOINS = (  # what names rows, and its column
    *(("candid", name) for name in ("candid", "diasourceid")),
    *(("id", name) for name in ("id", "objectid", "oid")),
)
ROUNDED = re.compile(r"\d*\.\d*(e[+-]?\d+)?|\d+e[+-]\d+", re.IGNORECASE | re.ASCII)  # how a float is written


@dataclass(frozen=True)
class Labels:
    """The labels of one table: the label `of` each row that has one, by the row's candid or id, as `by` tells."""

    by: str
    of: Mapping[str, Any]
    origin: str

    def match(self, keys: Collection[str]) -> str:
        """Return how many labels belong to a row and how many rows have one, in words; keys: the rows' candid or id.

        Raises InputError if there are labels and not one of them belongs to a row.
        """
        matched = len(self.of.keys() & set(keys))
        if self.of and keys and not matched:
            raise InputError(
                f"{self.origin}: not one of its {len(self.of):,} labels names one of the {len(keys):,} rows by "
                f"{self.by}; it names {next(iter(self.of))}, the rows {next(iter(keys))}. Give the labels of these "
                "rows, with ids of the same kind."
            )
        without = sum(key not in self.of for key in keys)
        return (
            f"{self.origin}: {matched:,} of {len(self.of):,} labels name a row by {self.by}; "
            f"{without:,} of {len(keys):,} rows have no label"
        )


def read_csv(file: Path) -> dict[str, list[str]]:
    """Return the columns (N,) of a CSV as text, with or without a byte order mark; raises InputError if it is none."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text, restval="")
            names, rows = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is no readable CSV: {error}.") from None
    return {name: [row[name].strip() for row in rows] for name in names}


def join_labels(table: Mapping[str, np.ndarray | Sequence[str]], named_by: Collection[str], origin: str) -> Labels:
    """Return the labels of a table for rows that are named by candid, id or both.

    table: columns (N,) of any capitalisation: label (or class), and candid (or diaSourceId), or else id (or
    objectId, oid); a row without a label does not count. Raises InputError where it has them not, gives one row
    two labels, or names rows by fractions or powers of ten, as spreadsheets and float columns make of whole numbers.
    """
    columns = {name.lower(): column for name, column in table.items()}
    label = next((columns[name] for name in LABEL if name in columns), None)
    join = next((pair for pair in JOINS if pair[0] in named_by and pair[1] in columns), None)
    if label is None or join is None:
        there = ", ".join(columns)[:200]
        raise InputError(
            f"{origin} has the columns {there}; wanted candid (or diaSourceId, id, objectId) and label (or class)."
        )
    keys = np.asarray(columns[join[1]]).astype(str).tolist()
    pairs = {(key, str(name)) for key, name in zip(keys, label, strict=True) if name and key not in ("", "nan")}
    if rounded := sorted(key for key, _ in pairs if ROUNDED.fullmatch(key)):
        raise InputError(
            f"{origin}: column {join[1]} holds {rounded[0]} ({len(rounded):,} such), which a spreadsheet or a column "
            "of floats has rounded, so its last digits are lost. Write the ids as text, from where they came."
        )
    label_of = dict(sorted(pairs))
    if twice := sorted((key, name) for key, name in pairs if label_of[key] != name):
        key, name = twice[0]
        raise InputError(f"{origin} gives {key} two labels, {name} and {label_of[key]} ({len(twice):,} such).")
    return Labels(join[0], label_of, origin)
