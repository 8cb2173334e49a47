"""From Arrow to Arrow: rows that are alerts to rows that are predictions, whatever engine brings and takes them.

No state but the network, and a schema that is known before the first row: what Ray, Dask, Spark and a stream need of
a function that they run wherever they like.
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
from alerce_early.serving.predict import CHUNK, NOTHING, classify_chunk, keep_usable

REJECTED = pyarrow.field("rejected", pyarrow.string())  # why a row has no answer; null where it has one


@cache
def load_once(*sources: str | Path, runtime: str | None = None, embedding: bool = False) -> Classifier:
    """Return the classifier of `load`, which is the same for all that a process is given to do."""
    return load(*sources, runtime=runtime, embedding=embedding)


def prediction_schema(classifier: Classifier) -> pyarrow.Schema:
    """Return the columns of `classify_arrow`: those of the table of `predict` but label and source, and `rejected`."""
    schema = part_schema(classifier)
    return schema.remove(schema.get_field_index("source"))


def classify_arrow(rows: pyarrow.RecordBatch | pyarrow.Table, classifier: Classifier) -> pyarrow.RecordBatch:
    """Return one row for each that is given, in order.

    rows: alert packets with the columns objectId, candid, candidate (a struct of the survey's names) and the cutouts,
    each the bytes of its file, its numbers (of ZTF), or a struct with these as stampData; others are passed over. A
    row that cannot be used has its reason as `rejected` and null for its answers; no row is taken for a duplicate. An
    answer is that of `predict` to the bit if the same rows come together in portions of 256, and otherwise to 1e-6,
    since how many pass the network at once moves float32's last digits. Raises InputError where a column is lacking
    or of a type that cannot be read, and for anything else than rows of Arrow.
    """
    from alerce_early.data.readers.packets import stream  # needs an extra, which only those who have packets have

    if not isinstance(rows, pyarrow.RecordBatch | pyarrow.Table):
        raise InputError(f"rows: a {type(rows).__name__}. Give a pyarrow.RecordBatch or Table.")
    schema = part_schema(classifier)
    portions = (rows.slice(start, CHUNK) for start in range(0, len(rows), CHUNK))
    found = [
        answer(classifier, stream.decode_rows(some, classifier.survey, classifier.spec.channels)) for some in portions
    ]
    table = pyarrow.concat_tables(found or [schema.empty_table()]).drop_columns("source")
    return pyarrow.RecordBatch.from_arrays([column.combine_chunks() for column in table.columns], schema=table.schema)


def answer(classifier: Classifier, chunk: Chunk) -> pyarrow.Table:
    """Return one row for each of a chunk of packets, in the order of the numbers in their sources."""
    found, aside = classify_chunk(classifier, keep_usable(classifier, chunk), find_packets(classifier.spec).shown)
    kept = {"source": [row.source for row in aside], "rejected": [row.reason for row in aside]}
    rejected = pyarrow.table({"candid": pyarrow.array([row.key or None for row in aside], pyarrow.string()), **kept})
    rows = pyarrow.concat_tables([predictions.to_arrow(found), rejected], promote_options="permissive")
    numbers = [[int(digits) for digits in re.findall(r"\d+", source)] for source in rows["source"].to_pylist()]
    schema = part_schema(classifier)
    return rows.select(schema.names).take(sorted(range(len(rows)), key=numbers.__getitem__)).cast(schema)


def part_schema(classifier: Classifier) -> pyarrow.Schema:
    """Return the columns of `answer`, source among them. Raises InputError where a network takes no packets."""
    rows, _ = classify_chunk(classifier, NOTHING, find_packets(classifier.spec).shown)
    columns = predictions.to_arrow({name: column for name, column in rows.items() if name != "label"}).schema
    constants = json.dumps({predictions.CONSTANTS: classifier.constants})
    return columns.append(REJECTED).with_metadata({predictions.MADE_BY: constants})
