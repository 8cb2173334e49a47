"""Classify Arrow rows: from a batch of alert packets to a batch of predictions.

The functions keep no state except the network, and the schema of the result is known before the first row, as Dask,
Spark and streams require.
"""

import json
import re
from functools import cache
from pathlib import Path

import pyarrow

from alerce_early.artifacts import predictions
from alerce_early.data.records import Chunk
from alerce_early.errors import InputError
from alerce_early.serving.classifier import Classifier, load
from alerce_early.serving.inputs import find_packets
from alerce_early.serving.predict import CHUNK, EMPTY_CHUNK, classify_chunk, reject_unusable

REJECTED = pyarrow.field("rejected", pyarrow.string())  # reason why a row has no prediction; null if it has one


@cache
def load_once(*sources: str | Path, runtime: str | None = None, embedding: bool = False) -> Classifier:
    """Load a classifier as `load` does, once per process."""
    return load(*sources, runtime=runtime, embedding=embedding)


def prediction_schema(classifier: Classifier) -> pyarrow.Schema:
    """Return the schema of `classify_arrow`.

    Parameters
    ----------
    classifier : Classifier
        The network.

    Returns
    -------
    pyarrow.Schema
        The columns of the table of `predict` without ``label`` and ``source``, and ``rejected``.

    Raises
    ------
    InputError
        If the network cannot classify alert packets.
    """
    schema = part_schema(classifier)
    return schema.remove(schema.get_field_index("source"))


def classify_arrow(rows: pyarrow.RecordBatch | pyarrow.Table, classifier: Classifier) -> pyarrow.RecordBatch:
    """Classify alert packets row by row.

    Duplicates are not detected. Predictions are bit-identical to the table of `predict` if rows are in the same groups
    of 256, and otherwise agree to 1e-6, because the batch size changes the last digits of float32.

    Parameters
    ----------
    rows : pyarrow.RecordBatch or pyarrow.Table
        Columns ``objectId``, ``candid``, ``candidate`` (a struct with the names of the survey) and the cutouts: the
        bytes of a FITS file, the pixels (ZTF only), or a struct with either as ``stampData``. Other columns are
        ignored.
    classifier : Classifier
        The network.

    Returns
    -------
    pyarrow.RecordBatch
        One row per input row, in order, with the columns of `prediction_schema`. A rejected row has a reason in
        ``rejected`` and null predictions.

    Raises
    ------
    InputError
        If a column is missing or has another type, or if `rows` are not Arrow.
    """
    from alerce_early.data.readers.packets import stream  # needs an extra that only packets need

    if not isinstance(rows, pyarrow.RecordBatch | pyarrow.Table):
        raise InputError(f"rows: unsupported type {type(rows).__name__}. Give a pyarrow.RecordBatch or Table.")
    schema = part_schema(classifier)
    portions = (rows.slice(start, CHUNK) for start in range(0, len(rows), CHUNK))
    found = [
        classify_packets(classifier, stream.decode_rows(some, classifier.survey, classifier.spec.channels))
        for some in portions
    ]
    table = pyarrow.concat_tables(found or [schema.empty_table()]).drop_columns("source")
    return pyarrow.RecordBatch.from_arrays([column.combine_chunks() for column in table.columns], schema=table.schema)


def classify_packets(classifier: Classifier, chunk: Chunk) -> pyarrow.Table:
    """Classify a chunk of packets: one row per packet, rejected ones included, in the order of their sources."""
    found, rejected_rows = classify_chunk(
        classifier, reject_unusable(classifier, chunk), find_packets(classifier.spec).shown
    )
    kept = {"source": [row.source for row in rejected_rows], "rejected": [row.reason for row in rejected_rows]}
    rejected = pyarrow.table(
        {"candid": pyarrow.array([row.key or None for row in rejected_rows], pyarrow.string()), **kept}
    )
    rows = pyarrow.concat_tables([predictions.to_arrow(found), rejected], promote_options="permissive")
    numbers = [[int(digits) for digits in re.findall(r"\d+", source)] for source in rows["source"].to_pylist()]
    schema = part_schema(classifier)
    return rows.select(schema.names).take(sorted(range(len(rows)), key=numbers.__getitem__)).cast(schema)


def part_schema(classifier: Classifier) -> pyarrow.Schema:
    """Return the schema of `classify_packets`, which includes ``source``; InputError for networks without packets."""
    rows, _ = classify_chunk(classifier, EMPTY_CHUNK, find_packets(classifier.spec).shown)
    columns = predictions.to_arrow({name: column for name, column in rows.items() if name != "label"}).schema
    constants = json.dumps({predictions.CONSTANTS: classifier.constants})
    return columns.append(REJECTED).with_metadata({predictions.MADE_BY: constants})
