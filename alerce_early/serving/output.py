"""Write the table of `predict` in parts, so that an interrupted command can be resumed.

    FILE.partial/command.json            the command that writes the parts
    FILE.partial/000000.parquet          one chunk of rows; its metadata count the input rows read so far
    FILE.partial/000000.rejected.csv     the rejected rows of that chunk, written before it
    NAME.rejected.csv FILE               written at the end, in this order; then the folder is removed
                                         (for .csv output the first is FILE.rejected.csv)
    .FILE.csv.json                       for .csv output: the metadata that a Parquet file would contain

Every file is written under a temporary name and renamed, so each visible part is complete and the last one records
where to continue. The same command, killed at any time and repeated, produces the same table and recognises it.
"""

import csv
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from alerce_early import files
from alerce_early.artifacts import predictions
from alerce_early.data.records import Rejected
from alerce_early.errors import InputError
from alerce_early.evaluation import tables

REJECTED_COLUMNS = ("source", "key", "reason")
ROW_GROUP = 1 << 16  # rows per row group of the output
LOCK_TIMEOUT = 3.0  # seconds; workers of a killed process can hold the lock for a moment longer
ADVICE = "--out, or continue from here with the same command"  # what to change if the disk refuses
COUNTS = ("read", "rows", "rejected")  # of the input so far, in the metadata of a part


class Parts:
    """The parts of one output file, as a context manager that holds a lock on them.

    Parameters
    ----------
    out : Path
        The output file, with one of `predictions.EXTENSIONS`.
    command : mapping
        Plain values that determine the rows.
    overwrite : bool, default False
        Replace an existing output, or the unfinished output of another command.
    notes : mapping, optional
        Plain values to store with the command in the metadata of the output.

    Attributes
    ----------
    counts : dict of str to int
        Input rows ``read``, output ``rows`` and ``rejected`` rows, also by earlier processes.
    files : list of Path
        The parts, in the order of the input.
    finished : bool
        Whether the same command has already written the complete output.

    Raises
    ------
    InputError
        If the extension is unknown, another process is writing the output, or, without `overwrite`, the output exists
        or belongs to another unfinished command.
    """

    def __init__(
        self, out: Path, command: Mapping[str, Any], overwrite: bool = False, notes: Mapping[str, Any] | None = None
    ):
        if out.suffix not in predictions.EXTENSIONS:
            raise InputError(f"--out {out}: expected a name that ends in {' or '.join(predictions.EXTENSIONS)}.")
        self.out, self.folder, self.rejected_file = out, partial_of(out), rejected_of(out)
        with ExitStack() as held:
            try:
                held.enter_context(files.hold_lock(self.folder / "lock", LOCK_TIMEOUT, ADVICE))
            except files.BusyError:
                raise InputError(f"{out}: another process is writing it. Wait, or choose another --out.") from None
            self.command, self.notes = json.loads(json.dumps(command)), dict(notes or {})
            made = {} if overwrite else self._read_origin()
            self.finished = made.get("command") == self.command
            if not self.finished:
                self._begin(self.command, overwrite)
            self._held = held.pop_all()
        self.files = [] if self.finished else sorted(self.folder.glob("*.parquet"))
        known = parquet.read_schema(self.files[-1]).metadata if self.files else {}
        self.counts = {name: int(known.get(name.encode(), 0)) for name in COUNTS} | made.get("counts", {})

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.files:  # nothing to resume from
            self._remove()
        self._held.close()

    def _begin(self, command: dict[str, Any], overwrite: bool) -> None:
        """Continue the parts of the same command, or clear the folder for a new one."""
        file = self.folder / "command.json"
        before = json.loads(file.read_text()) if file.exists() else None
        if before == command:
            return
        if self.out.exists() and not overwrite:
            if before is None:
                self._remove()
            raise InputError(f"{self.out}: already exists. Choose another --out, or replace it with --overwrite.")
        if before is not None and any(self.folder.glob("*.parquet")) and not overwrite:
            differs = ", ".join(name for name in command if before.get(name) != command[name])
            raise InputError(
                f"{self.folder}: unfinished output of another command, which differs in {differs}. Repeat that "
                "command, choose another --out, or remove the folder to start again."
            )
        self._clear()
        with files.whole(file, ADVICE) as partial:
            partial.write_text(json.dumps(command))

    def _clear(self) -> None:
        """Remove the command first, so that a partly cleared folder is never resumed, then the parts."""
        (self.folder / "command.json").unlink(missing_ok=True)
        for old in self.folder.glob("*.*"):
            old.unlink()

    def _remove(self) -> None:
        """Remove the folder, its lock last."""
        self._clear()  # while this process still holds the lock
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, table: tables.Table, rejected: Sequence[Rejected], read: int) -> None:
        """Write the next part.

        Parameters
        ----------
        table : mapping of str to ndarray
            Columns (N,) of the classified rows.
        rejected : sequence of Rejected
            The rejected rows.
        read : int
            Number of input rows in this chunk.
        """
        self.counts["read"] += read
        self.counts["rows"] += len(next(iter(table.values())))
        self.counts["rejected"] += len(rejected)
        path = self.folder / f"{len(self.files):06}.parquet"
        rejected_file = path.with_suffix(".rejected.csv")
        rejected_file.unlink(missing_ok=True)  # a killed process may have written it without the part
        if rejected:
            _write_rejected(rejected_file, rejected)
        rows = predictions.to_arrow(table).replace_schema_metadata({k: str(v) for k, v in self.counts.items()})
        with files.whole(path, ADVICE) as partial:
            parquet.write_table(rows, partial)
        self.files.append(path)

    def column(self, name: str) -> Iterator[np.ndarray]:
        """Yield one column of each part."""
        for file in self.files:
            yield parquet.read_table(file, columns=[name])[name].to_numpy()

    def reasons(self) -> Iterator[Rejected]:
        """Yield the rejected rows in the order of the input."""
        rejected_files = [file.with_suffix(".rejected.csv") for file in self.files]
        for rejected_file in [self.rejected_file] if self.finished else rejected_files:
            if rejected_file.exists():
                with rejected_file.open(newline="") as lines:
                    yield from (Rejected(*row) for row in list(csv.reader(lines))[1:])

    def finish(self) -> None:
        """Join the parts to the output file and the file of rejected rows, and remove them.

        The command and the notes are stored with the output. If every row was rejected, no output is written.
        """
        if self.counts["rejected"]:
            _write_rejected(self.rejected_file, self.reasons())
        else:
            self.rejected_file.unlink(missing_ok=True)  # it belongs to the overwritten output
        if self.counts["rows"] or not self.counts["rejected"]:
            with files.whole(self.out, ADVICE) as partial:
                self._join(partial)
            if self.out.suffix == ".csv":  # CSV has no metadata
                origin = self._describe_origin() | {"file": _size_and_time(self.out)}
                files.write_bytes(predictions.origin_of(self.out), json.dumps(origin).encode(), ADVICE)
        else:
            self.out.unlink(missing_ok=True)
        self._remove()

    def _join(self, path: Path) -> None:
        """Write all parts to one file, `ROW_GROUP` rows at a time."""
        origin = {predictions.MADE_BY: json.dumps(self._describe_origin())}
        schema = parquet.read_schema(self.files[0]).with_metadata(origin)
        is_csv = self.out.suffix == ".csv"
        with arrow_csv.CSVWriter(path, schema) if is_csv else parquet.ParquetWriter(path, schema) as writer:
            held: list[pyarrow.Table] = []
            for file in self.files:
                held.append(parquet.read_table(file).replace_schema_metadata(origin))
                if file == self.files[-1] or sum(map(len, held)) >= ROW_GROUP:
                    writer.write_table(pyarrow.concat_tables(held))
                    held = []

    def _describe_origin(self) -> dict[str, Any]:
        """Return the metadata of the output: command, counts and notes."""
        return {"command": self.command, "counts": self.counts, **self.notes}

    def _read_origin(self) -> dict[str, Any]:
        """Return the metadata of the existing output; empty without one, or if a CSV was changed since."""
        origin = predictions.read_origin(self.out)
        if self.out.suffix == ".csv" and not (self.out.exists() and origin.get("file") == _size_and_time(self.out)):
            return {}
        return origin


def partial_of(out: Path) -> Path:
    """Return the folder with the parts of an unfinished output."""
    return out.with_name(f"{out.name}.partial")


def _size_and_time(path: Path) -> list[int]:
    """Return size and modification time, which identify the content of a file."""
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns]


def rejected_of(out: Path) -> Path:
    """Return the file of rejected rows of an output.

    It is NAME.rejected.csv for NAME.parquet and NAME.csv.rejected.csv for NAME.csv, so that the two do not collide.
    """
    return out.with_name(f"{out.stem if out.suffix == '.parquet' else out.name}.rejected.csv")


def _write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    """Write rejected rows as a CSV."""
    with files.whole(path, ADVICE) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(REJECTED_COLUMNS)
        writer.writerows(astuple(one) for one in rejected)
