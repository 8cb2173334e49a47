"""The stamps of the rows of which a table is surest, as one picture."""

from pathlib import Path

import numpy as np

from alerce_early import tables
from alerce_early.errors import InputError, require_extra
from alerce_early.serving.classifier import Classifier
from alerce_early.serving.inputs import Shard, Source

SHOWN = 5  # of each class
ROWS = 256  # read at once


def draw(classifier: Classifier, source: Source, shard: Shard, out: Path, picture: Path) -> None:
    """Draw the stamps of the rows that are surest of each class; reads the input once more to find them."""
    with require_extra("--gallery"):
        from alerce_early.report import (
            figures,
            pictures,  # with matplotlib, which who only classifies can spare
        )
    table = tables.read(out)
    if not classifier.classes:
        raise InputError("--gallery: shows the surest of each class; this network tells no classes.")
    if not len(table["candid"]):
        raise InputError(f"--gallery: {out} has no row to show.")
    chosen: dict[str, str] = {}
    predicted = tables.probabilities(table, classifier.classes).argmax(1)  # a CSV may take names for numbers
    for number, name in enumerate(classifier.classes):
        rows = np.flatnonzero(predicted == number)
        for row in rows[np.argsort(-table[f"q_{name}"][rows], kind="stable")][:SHOWN]:
            chosen[str(table["candid"][row])] = f"{name}, q = {table[f'q_{name}'][row]:.2f}\n{table['id'][row]}"
    found: dict[str, np.ndarray] = {}
    for chunk in source.chunks(ROWS, shard):
        if chunk.records is not None:
            for i in np.flatnonzero(np.isin(chunk.keys, list(chosen))).tolist():
                found.setdefault(str(chunk.keys[i]), np.moveaxis(chunk.records.images[i], -1, 0).copy())
        if len(found) == len(chosen):
            break
    stamps = np.stack([found[key] for key in chosen])
    pictures.save(figures.gallery(stamps, list(chosen.values()), columns=SHOWN), picture)
