"""The predictions table on disk: one row per stamp, as parquet or CSV by the file's extension.

Columns: id, object where that is not the id (of a source with several names, see `coordinates.match_objects`), row,
split ("validation" or "test"), label and predicted (class names), p_<class> for each class, q_<class>, the same
calibrated, the sets of classes of `conformal.KINDS`, and what of `METADATA` the store has. The label of an unlabelled
row is empty. A parquet file may hold `EMBEDDING` as well, a list of numbers per row.

A table of `predict` has no row and split, and also candid, source, model, entropy, imputed, trained and is_<class>.
Read back from either format, p_<class>, q_<class>, entropy, confidence and a predicted redshift are float32; jd, ra,
dec, magpsf, sigmapsf and snr float64; imputed, fid and ndethist int64 (float64 where some are unknown); trained and
is_<class> bool; the rest is text.

What holds for all rows, such as the coverage that the sets promise, is in the table's metadata: in the schema of a
parquet file, in a hidden JSON file beside a CSV. Tables from before have it as columns.
"""

import csv as lines
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import compute, csv, parquet

from alerce_early.errors import InputError, one_line
from alerce_early.files import whole, write_text

COLUMNS = 10_000
CELLS = 1 << 20  # of any parquet file, and 8 for each of its bytes: columns of equal values take next to none
LONGEST = 1000  # bytes of a text
Table = Mapping[str, np.ndarray]
Constants = Mapping[str, float | None]
MADE_BY = "alerce_early"  # the key of our entry in the metadata of a parquet file
CONSTANTS = "constants"  # the key in that entry of what holds for all rows
EXTENSIONS = (".parquet", ".csv")
EMBEDDING = "embedding"  # the column of `predict --embedding`, (N, D) float16
TRAINED = "trained"  # the column that tells whether a row is of an object that trained or chose the network
# Of any format: a CSV does not tell text from numbers, nor whole numbers from others.
TEXTS = (
    *("candid", "id", "object", "source", "label", "predicted", "set", "set_marginal", "split", "model"),
    *("first_call", "last_call"),  # of a table of objects
)
WHOLE = ("fid", "ndethist")  # whole numbers where they are known
# Of a CSV of `predict`, which has a column model; a table from elsewhere may hold anything under these names.
DTYPES = {
    **dict.fromkeys((*WHOLE, "imputed"), pyarrow.int64()),
    **dict.fromkeys(("jd", "ra", "dec", "magpsf", "sigmapsf", "snr"), pyarrow.float64()),
    **{TRAINED: pyarrow.bool_(), "entropy": pyarrow.float32(), "confidence": pyarrow.float32()},
}
PREFIXES = {"p_": pyarrow.float32(), "q_": pyarrow.float32(), "is_": pyarrow.bool_()}
LARGEST_WHOLE = 2.0**53  # beyond it floats skip some


def write(path: Path, table: Table, constants: Constants | None = None) -> None:
    """Write columns (N,) of numbers or text, and numbers that hold for all rows, under a temporary name, then rename.

    Raises InputError for another ending of the file's name, or where the file cannot be written.
    """
    if path.suffix not in EXTENSIONS:
        raise InputError(f"{path}: a predictions table ends in {' or '.join(EXTENSIONS)}.")
    origin = json.dumps({CONSTANTS: dict(constants)}) if constants else ""
    rows = to_arrow(table).replace_schema_metadata({MADE_BY: origin} if origin else None)
    with whole(path) as partial:
        (csv.write_csv if path.suffix == ".csv" else parquet.write_table)(rows, partial)
    if path.suffix == ".csv" and origin:
        write_text(origin_of(path), origin)


def origin_of(path: Path) -> Path:
    """Return the hidden file beside a CSV with the metadata that a parquet file would carry."""
    return path.with_name(f".{path.name}.json")


def read_origin(path: Path) -> dict[str, Any]:
    """Return what a table's metadata say of it; nothing where there is no table, or it is not ours."""
    try:
        if path.suffix == ".csv":
            found = json.loads(origin_of(path).read_text())
        else:
            found = json.loads((parquet.read_schema(path).metadata or {})[MADE_BY.encode()])
    except (OSError, ValueError, KeyError, pyarrow.ArrowException):
        return {}
    return found if isinstance(found, dict) else {}


def read_constants(path: Path) -> dict[str, float | None]:
    """Return the numbers that hold for all rows of a table, by name, from its metadata."""
    found = read_origin(path).get(CONSTANTS)
    held = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in held if value is None or type(value) in (int, float)}


def to_arrow(table: Table) -> pyarrow.Table:
    """Return columns (N,) of numbers or text as they are written; of `WHOLE`, null where it is no whole number.

    `EMBEDDING` (N, D) becomes a list of fixed size.
    """
    columns = {name: pyarrow.array(np.asarray(column).reshape(-1)) for name, column in table.items()}
    if EMBEDDING in table:
        columns[EMBEDDING] = pyarrow.FixedSizeListArray.from_arrays(columns[EMBEDDING], table[EMBEDDING].shape[1])
    for name in (name for name in WHOLE if name in table):
        unknown = ~((np.trunc(table[name]) == table[name]) & (np.abs(table[name]) <= LARGEST_WHOLE))
        columns[name] = pyarrow.array(table[name], mask=unknown).cast(pyarrow.int64())
    return pyarrow.table(columns)


def read(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read columns (N,) of numbers or text, and `EMBEDDING` (N, D), all or those named.

    Takes less memory than 256 MiB plus 200 times the file's size; equal texts share theirs, so that making a column
    of fixed width of them takes more. Raises InputError if there is no such table, it is damaged, or what it holds is
    nested, no text, or far larger than the file.
    """
    try:
        rows = _csv(path, names) if path.suffix == ".csv" else _parquet(path, names)
        if repeated := [name for name, times in Counter(rows.column_names).items() if times > 1]:
            raise ValueError(f"it has the column {repeated[0][:40]} more than once")
        return {name: _plain(name, rows[name]) for name in rows.column_names}
    except FileNotFoundError:
        raise InputError(f"{path} is not there; wanted a table, .csv or .parquet.") from None
    except Exception as error:  # a damaged table may raise nearly anything
        raise InputError(f"{path} is no predictions table: {one_line(error)}.") from None


def _csv(path: Path, names: Sequence[str] | None) -> pyarrow.Table:
    with path.open("rb") as file:
        header = file.readline(1 << 20)
    if (columns := header.count(b",") + 1) > COLUMNS:
        raise ValueError(f"it has {columns:,} columns, more than {COLUMNS:,}")
    types = dict.fromkeys(TEXTS, pyarrow.string())
    if "model" in (held := next(lines.reader([header.decode(errors="replace")]), [])):
        types |= {name: kind for name in held for prefix, kind in PREFIXES.items() if name.startswith(prefix)} | DTYPES
        if not any(name.startswith("p_") for name in held):
            types["predicted"] = pyarrow.float32()  # a redshift
    options = csv.ConvertOptions(include_columns=names, column_types=types)
    return csv.read_csv(path, convert_options=options)


def _parquet(path: Path, names: Sequence[str] | None) -> pyarrow.Table:
    """Check what a parquet file says of itself: a few bytes may stand for any number of equal rows."""
    with parquet.ParquetFile(path) as file:
        meta = file.metadata
        columns = meta.num_columns + sum(field.type.list_size for field in file.schema_arrow if _is_embedding(field))
        if columns > COLUMNS or meta.num_rows * columns > CELLS + 8 * path.stat().st_size:
            raise ValueError(f"it has {meta.num_rows:,} rows of {columns:,} columns, too many for its size")
        fields = [field for field in file.schema_arrow if names is None or field.name in names]
    for field in fields:
        if not _is_embedding(field):
            _check_kind(field.name, field.type)
    texts = [field.name for field in fields if _is_text(field.type)]
    return parquet.read_table(path, columns=names, read_dictionary=texts)  # each text once, until its length is known


def _is_text(kind: pyarrow.DataType) -> bool:
    """Is it text, however it lies in memory? Other writers have kinds of their own."""
    of = pyarrow.types
    return of.is_string(kind) or of.is_large_string(kind) or of.is_string_view(kind)


def _is_embedding(field: pyarrow.Field) -> bool:
    """Return whether a field is the column of embeddings, fixed-size lists of floats."""
    of = pyarrow.types
    return field.name == EMBEDDING and of.is_fixed_size_list(field.type) and of.is_floating(field.type.value_type)


def _check_kind(name: str, kind: pyarrow.DataType) -> None:
    of = pyarrow.types
    bytes_ = of.is_binary(kind) or of.is_large_binary(kind) or of.is_binary_view(kind) or of.is_fixed_size_binary(kind)
    if of.is_nested(kind) or bytes_:
        raise ValueError(f"column {name[:40]} is of {kind}, neither numbers nor text")


def _plain(name: str, column: pyarrow.ChunkedArray) -> np.ndarray:
    kind = column.type
    if name == EMBEDDING and pyarrow.types.is_fixed_size_list(kind):
        if column.null_count:  # of rows without an answer
            column = compute.fill_null(column, pyarrow.scalar([np.nan] * kind.list_size, kind))
        return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, kind.list_size)
    if pyarrow.types.is_dictionary(kind):
        kind, chunks = kind.value_type, [chunk.dictionary for chunk in column.chunks]
    else:
        chunks = column.chunks
    _check_kind(name, kind)
    if _is_text(kind):
        longest = max((compute.max(compute.binary_length(chunk)).as_py() or 0 for chunk in chunks), default=0)
        if longest > LONGEST:
            raise ValueError(f"column {name[:40]} has a text of {longest:,} bytes; wanted at most {LONGEST:,}")
    return column.to_numpy()
