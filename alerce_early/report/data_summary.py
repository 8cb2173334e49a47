"""Row counts of a data store, compared with the published ones."""

from collections.abc import Mapping
from typing import Any

from alerce_early.data.records import TOO_LITTLE

# Of ALERCE_stamps_2020.pkl; lists are in the order of its classes.
PUBLISHED_COUNTS: dict[str, Any] = {
    "images": 52_244,
    "labels": 52_244,
    "metadata": 52_244,
    "raw_by_class": [14_966, 1_620, 14_996, 9_899, 10_763],
    "dropped_by_class": [224, 24, 273, 100, 29],
    "kept_by_class": [14_742, 1_596, 14_723, 9_799, 10_734],
    "nan_values": 9_743_759,
    "kept_with_nan_after_crop": 2_598,
}

ROW_NAMES = {
    "images": "images",
    "labels": "labels",
    "unmatched_labels": "labels without a row",
    "metadata": "metadata rows",
    "set_aside": "rejected by the reader",
    "raw_by_class": "read",
    "dropped_by_class": "not {raw_shape[0]} x {raw_shape[1]}, dropped",
    "lacking_by_class": f"{TOO_LITTLE}, dropped",
    "kept_by_class": "kept",
    "nan_values": "NaN values",
    "odd_values": "infinite values, or larger than 1.3e30",
    "kept_with_nan_after_crop": "kept, NaN in the crop",
}


def is_published_file(meta: Mapping[str, Any]) -> bool:
    """Return whether a store holds the published file, by its counts of images and classes."""
    same_images = meta["images"] == PUBLISHED_COUNTS["images"]
    same_classes = len(meta["classes"]) == len(PUBLISHED_COUNTS["kept_by_class"])
    return same_images and same_classes and meta["origin"].startswith("file ")


def list_counts(meta: Mapping[str, Any]) -> list[tuple[str, int, int | None]]:
    """List the counts of a store.

    Parameters
    ----------
    meta : mapping
        ``meta.json`` of the store.

    Returns
    -------
    list of (str, int, int or None)
        Name, count in this store, and published count where one exists, per row of the table.
    """
    published = PUBLISHED_COUNTS if is_published_file(meta) else {}
    blind = meta["unlabelled"]
    table: list[tuple[str, int, int | None]] = []
    for key, words in ROW_NAMES.items():
        name, here, there = words.format(**meta), meta[key], published.get(key)
        if isinstance(here, list):
            table.append((name, sum(here) + blind[key], sum(there) if there else None))
            for i, label in enumerate(meta["classes"]):
                table.append((f"  {label}", here[i], there[i] if there else None))
            if blind["raw_by_class"]:
                table.append(("  unlabelled", blind[key], None))
        elif isinstance(here, dict):
            table += [(f"{name}: {reason}", count, None) for reason, count in here.items()]
        else:
            table.append((name, here, there))
    return table


def format_summary(meta: Mapping[str, Any]) -> str:
    """Format the counts as a table for the log, and mark differences from the published ones."""
    published = is_published_file(meta)
    width = max(28, *[len(name) + 1 for name, _, _ in list_counts(meta)])
    rows = [f"{meta['origin']}", f"{'':{width}}{'here':>12}" + (f"{'published':>12}" if published else "")]
    for name, here, there in list_counts(meta):
        row = f"{name:{width}}{here:12,}"
        if there is not None:
            row += f"{there:12,}" + ("" if here == there else "   <- differs")
        rows.append(row)
    return "\n".join(rows)


def format_parts(sizes: Mapping[str, Mapping[str, int]], left_out: Mapping[str, int]) -> str:
    """Format the class counts of each part of a store, one part per line.

    Parameters
    ----------
    sizes : mapping of str to mapping
        Labelled rows of each class, by part.
    left_out : mapping of str to int
        Rows of the classes that are in no group, which make up the last line.
    """
    return "\n".join(
        f"{part:12}" + "".join(f"{name} {count:,}".rjust(18) for name, count in counts.items())
        for part, counts in [*sizes.items(), *([("in no group", left_out)] if left_out else [])]
    )
