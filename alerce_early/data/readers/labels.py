"""Labels that come in a table of their own: by which column they belong to rows, and what they say."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from alerce_early.errors import InputError

LABEL = ("label", "class")
JOINS = (  # what names rows, and its column
    *(("candid", name) for name in ("candid", "diasourceid")),
    *(("id", name) for name in ("id", "objectid", "oid")),
)


def join_labels(
    table: Mapping[str, np.ndarray | Sequence[str]], named_by: Collection[str], origin: str
) -> tuple[str, dict[str, str]]:
    """Return what of candid and id joins a table of labels to rows that have these names, and the label of each.

    table: columns (N,) of any capitalisation: label (or class), and candid (or diaSourceId), or else id (or
    objectId, oid); a row without a label does not count. Raises InputError where it has them not, or gives one row
    two labels.
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
    pairs = {(key, str(name)) for key, name in zip(keys, label, strict=True) if name}
    label_of = dict(sorted(pairs))
    if twice := sorted((key, name) for key, name in pairs if label_of[key] != name):
        key, name = twice[0]
        raise InputError(f"{origin} gives {key} two labels, {name} and {label_of[key]} ({len(twice):,} such).")
    return join[0], label_of
