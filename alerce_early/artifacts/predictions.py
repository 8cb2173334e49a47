"""The file of a predictions table: one row per stamp, parquet or CSV by the extension.

Columns: id; object, if it differs from the id (a source with several names, see `coordinates.match_objects`); row;
split ("validation" or "test"); label and predicted (class names); p_<class>; q_<class>, the calibrated probabilities;
the sets of `conformal.KINDS`; and the columns of `tables.METADATA` that the store has. The label of an unlabelled row
is empty. A parquet file may also contain `EMBEDDING`, a list of numbers per row.

A table of `predict` lacks row and split, and adds candid, source, model, entropy, imputed, trained and is_<class>.
Read from either format, p_<class>, q_<class>, entropy, confidence and a predicted redshift are float32; jd, ra, dec,
magpsf, sigmapsf and snr float64; imputed, fid and ndethist int64 (float64 if some are unknown); trained and is_<class>
bool; all others text.

Constants that apply to all rows, such as the nominal coverage of the sets, are in the table's metadata: in the schema
of a parquet file, or in a hidden JSON file next to a CSV. Tables of older versions have them as columns.
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
# Maximum cells of a parquet file, plus 8 per byte: a column of equal values is compressed to almost nothing.
CELLS = 1 << 20
LONGEST = 1000  # maximum bytes of a string
Table = Mapping[str, np.ndarray]
Constants = Mapping[str, float | None]
MADE_BY = "alerce_early"  # key of this package in the metadata of a parquet file
CONSTANTS = "constants"  # key of the constants in that entry
EXTENSIONS = (".parquet", ".csv")
EMBEDDING = "embedding"  # the column of `predict --embedding`, (N, D) float16
TRAINED = "trained"  # column: whether the object of a row was used in training or model selection
# Types of columns by name, since a CSV has no types.
TEXTS = (
    *("candid", "id", "object", "source", "label", "predicted", "set", "set_marginal", "split", "model"),
    *("first_call", "last_call"),  # in a table of objects
)
WHOLE = ("fid", "ndethist")  # integers, null if unknown
# Types in a CSV of `predict`, recognised by its column model; in other tables these names may mean anything.
DTYPES = {
    **dict.fromkeys((*WHOLE, "imputed"), pyarrow.int64()),
    **dict.fromkeys(("jd", "ra", "dec", "magpsf", "sigmapsf", "snr"), pyarrow.float64()),
    **{TRAINED: pyarrow.bool_(), "entropy": pyarrow.float32(), "confidence": pyarrow.float32()},
}
PREFIXES = {"p_": pyarrow.float32(), "q_": pyarrow.float32(), "is_": pyarrow.bool_()}
LARGEST_WHOLE = 2.0**53  # float64 is exact up to it


def write(path: Path, table: Table, constants: Constants | None = None) -> None:
    """Write a table atomically, as parquet or CSV.

    Parameters
    ----------
    path : Path
        File to write; its extension decides the format.
    table : mapping of str to ndarray
        Columns (N,) of numbers or text, and `EMBEDDING` (N, D).
    constants : mapping of str to float, optional
        Numbers that apply to all rows.

    Raises
    ------
    InputError
        If the extension is not one of `EXTENSIONS`, or the file cannot be written.
    """
    if path.suffix not in EXTENSIONS:
        raise InputError(
            f"{path}: not a name of a predictions table. Choose one that ends in {' or '.join(EXTENSIONS)}."
        )
    origin = json.dumps({CONSTANTS: dict(constants)}) if constants else ""
    rows = to_arrow(table).replace_schema_metadata({MADE_BY: origin} if origin else None)
    with whole(path) as partial:
        (csv.write_csv if path.suffix == ".csv" else parquet.write_table)(rows, partial)
    if path.suffix == ".csv" and origin:
        write_text(origin_of(path), origin)


def origin_of(path: Path) -> Path:
    """Return the path of the hidden JSON file with the metadata of a CSV."""
    return path.with_name(f".{path.name}.json")


def read_origin(path: Path) -> dict[str, Any]:
    """Read this package's entry in the metadata of a table, or return {} if it is missing or unreadable."""
    try:
        if path.suffix == ".csv":
            found = json.loads(origin_of(path).read_text())
        else:
            found = json.loads((parquet.read_schema(path).metadata or {})[MADE_BY.encode()])
    except (OSError, ValueError, KeyError, pyarrow.ArrowException):
        return {}
    return found if isinstance(found, dict) else {}


def read_constants(path: Path) -> dict[str, float | None]:
    """Read the constants of a table, by name, from its metadata."""
    found = read_origin(path).get(CONSTANTS)
    held = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in held if value is None or type(value) in (int, float)}


def to_arrow(table: Table) -> pyarrow.Table:
    """Convert a table to Arrow.

    Parameters
    ----------
    table : mapping of str to ndarray
        Columns (N,) of numbers or text, and `EMBEDDING` (N, D).

    Returns
    -------
    pyarrow.Table
        Values of the columns `WHOLE` are null if they are not integers; `EMBEDDING` is a list of fixed size.
    """
    columns = {name: pyarrow.array(np.asarray(column).reshape(-1)) for name, column in table.items()}
    if EMBEDDING in table:
        columns[EMBEDDING] = pyarrow.FixedSizeListArray.from_arrays(columns[EMBEDDING], table[EMBEDDING].shape[1])
    for name in (name for name in WHOLE if name in table):
        unknown = ~((np.trunc(table[name]) == table[name]) & (np.abs(table[name]) <= LARGEST_WHOLE))
        columns[name] = pyarrow.array(table[name], mask=unknown).cast(pyarrow.int64())
    return pyarrow.table(columns)


def read(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read a table from parquet or CSV.

    Needs less than 256 MiB plus 200 times the size of the file. Equal strings share memory, so converting a column of
    them to fixed width takes more.

    Parameters
    ----------
    path : Path
        File to read; any extension but .csv is read as parquet.
    names : sequence of str, optional
        Columns to read; all by default.

    Returns
    -------
    dict of str to ndarray
        Columns (N,) of numbers or text, and `EMBEDDING` (N, D).

    Raises
    ------
    InputError
        If the file is missing or damaged, or has columns that are nested, binary or far larger than the file.
    """
    try:
        rows = _csv(path, names) if path.suffix == ".csv" else _parquet(path, names)
        if repeated := [name for name, times in Counter(rows.column_names).items() if times > 1]:
            raise ValueError(f"column {repeated[0][:40]} appears more than once")
        return {name: _plain(name, rows[name]) for name in rows.column_names}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Give a table, .csv or .parquet.") from None
    except Exception as error:  # a damaged table may raise nearly anything
        raise InputError(f"{path} is not a predictions table: {one_line(error)}.") from None


def _csv(path: Path, names: Sequence[str] | None) -> pyarrow.Table:
    """Read a CSV, with types by column name."""
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
    """Read a parquet file after a check of its declared size, which a small file can make arbitrarily large."""
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
    return parquet.read_table(
        path, columns=names, read_dictionary=texts
    )  # distinct strings only, until their lengths are checked


def _is_text(kind: pyarrow.DataType) -> bool:
    """Return True for any of Arrow's string types, which differ between writers."""
    of = pyarrow.types
    return of.is_string(kind) or of.is_large_string(kind) or of.is_string_view(kind)


def _is_embedding(field: pyarrow.Field) -> bool:
    """Return True for the column of embeddings: fixed-size lists of floats."""
    of = pyarrow.types
    return field.name == EMBEDDING and of.is_fixed_size_list(field.type) and of.is_floating(field.type.value_type)


def _check_kind(name: str, kind: pyarrow.DataType) -> None:
    """Raise ValueError for a column that is nested or binary."""
    of = pyarrow.types
    bytes_ = of.is_binary(kind) or of.is_large_binary(kind) or of.is_binary_view(kind) or of.is_fixed_size_binary(kind)
    if of.is_nested(kind) or bytes_:
        raise ValueError(f"column {name[:40]} is of {kind}, neither numbers nor text")


def _plain(name: str, column: pyarrow.ChunkedArray) -> np.ndarray:
    """Convert a column to NumPy after checking its type and the length of its strings."""
    kind = column.type
    if name == EMBEDDING and pyarrow.types.is_fixed_size_list(kind):
        if column.null_count:  # rows that were not classified
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
            raise ValueError(f"column {name[:40]} has a text of {longest:,} bytes, more than {LONGEST:,}")
    return column.to_numpy()
