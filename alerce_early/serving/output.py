"""A table that is written in parts and can be stopped at any moment: what a long `predict` leaves on disk.

    FILE.partial/command.json            the command the parts belong to
    FILE.partial/000000.parquet          one chunk of rows; its metadata say how much input had been read
    FILE.partial/000000.rejected.csv     rows of that chunk that were set aside, if any; written first
    NAME.rejected.csv FILE               at the end, in this order; then the folder is removed
                                         (for .csv output the first is FILE.rejected.csv)
    .FILE.csv.json                       for .csv output: the metadata that a parquet file would carry

Every file is written under a temporary name and renamed. So the parts that can be seen are whole, the last one
says where to continue, and the same command, however often killed, ends in the same table, which it recognises as
its own.
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

REJECTED = ("source", "key", "reason")
ROW_GROUP = 1 << 16  # rows written together at the end
PATIENCE = 3.0  # seconds to wait for the lock, which the last workers of a killed process may hold for a moment longer
PLACE = "--out, or continue from here with the same command"
COUNTS = ("read", "rows", "rejected")  # of the input so far, in the metadata of a part


class Parts:
    """The parts of one output file; counts: read, rows and rejected so far, also of what an earlier process did.

    command: plain values that decide the rows. notes: plain values that its metadata hold with the command.
    finished: the output is there already, whole and of this command.
    Raises InputError where another output exists, is being written, or is the unfinished one of another command;
    overwrite starts it afresh then.
    """

    def __init__(
        self, out: Path, command: Mapping[str, Any], overwrite: bool = False, notes: Mapping[str, Any] | None = None
    ):
        if out.suffix not in predictions.EXTENSIONS:
            raise InputError(f"--out {out}: wanted a name that ends in {' or '.join(predictions.EXTENSIONS)}.")
        self.out, self.folder, self.rejected_file = out, partial_of(out), rejected_of(out)
        with ExitStack() as held:
            try:
                held.enter_context(files.hold_lock(self.folder / "lock", PATIENCE, PLACE))
            except files.BusyError:
                raise InputError(f"{out} is being written by another process.") from None
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
        if not self.files:  # there is nothing to continue with
            self._remove()
        self._held.close()

    def _begin(self, command: dict[str, Any], overwrite: bool) -> None:
        file = self.folder / "command.json"
        before = json.loads(file.read_text()) if file.exists() else None
        if before == command:
            return
        if self.out.exists() and not overwrite:
            if before is None:
                self._remove()
            raise InputError(f"{self.out} exists already. Choose another --out, or replace it with --overwrite.")
        if before is not None and any(self.folder.glob("*.parquet")) and not overwrite:
            differs = ", ".join(name for name in command if before.get(name) != command[name])
            raise InputError(
                f"{self.folder} is the unfinished output of another command: it differs in {differs}. Go on with "
                "what it was begun with, choose another --out, or remove that folder to start afresh."
            )
        self._clear()
        with files.whole(file, PLACE) as partial:
            partial.write_text(json.dumps(command))

    def _clear(self) -> None:
        """Parts without their command are nothing, so that goes first: half a folder is never continued."""
        (self.folder / "command.json").unlink(missing_ok=True)
        for old in self.folder.glob("*.*"):
            old.unlink()

    def _remove(self) -> None:
        self._clear()  # before the lock goes, after which another process may begin here
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, table: tables.Table, rejected: Sequence[Rejected], read: int) -> None:
        """Keep one more chunk: its rows, what was set aside, and how much of the input it is."""
        self.counts["read"] += read
        self.counts["rows"] += len(next(iter(table.values())))
        self.counts["rejected"] += len(rejected)
        path = self.folder / f"{len(self.files):06}.parquet"
        aside = path.with_suffix(".rejected.csv")
        aside.unlink(missing_ok=True)  # of a process that was stopped before it wrote the rows
        if rejected:
            _write_rejected(aside, rejected)
        rows = predictions.to_arrow(table).replace_schema_metadata({k: str(v) for k, v in self.counts.items()})
        with files.whole(path, PLACE) as partial:
            parquet.write_table(rows, partial)
        self.files.append(path)

    def column(self, name: str) -> Iterator[np.ndarray]:
        """One column of each part."""
        for file in self.files:
            yield parquet.read_table(file, columns=[name])[name].to_numpy()

    def reasons(self) -> Iterator[Rejected]:
        """Yield what was set aside, in the order of the input."""
        asides = [file.with_suffix(".rejected.csv") for file in self.files]
        for aside in [self.rejected_file] if self.finished else asides:
            if aside.exists():
                with aside.open(newline="") as lines:
                    yield from (Rejected(*row) for row in list(csv.reader(lines))[1:])

    def finish(self) -> None:
        """Join the parts to the output file, which tells what made it, and remove them.

        Where all that was read was set aside there is no output.
        """
        if self.counts["rejected"]:
            _write_rejected(self.rejected_file, self.reasons())
        else:
            self.rejected_file.unlink(missing_ok=True)  # of what is overwritten
        if self.counts["rows"] or not self.counts["rejected"]:
            with files.whole(self.out, PLACE) as partial:
                self._join(partial)
            if self.out.suffix == ".csv":  # a CSV has no place for it
                origin = self._describe_origin() | {"file": _stamp(self.out)}
                files.write_bytes(predictions.origin_of(self.out), json.dumps(origin).encode(), PLACE)
        else:
            self.out.unlink(missing_ok=True)
        self._remove()

    def _join(self, path: Path) -> None:
        origin = {predictions.MADE_BY: json.dumps(self._describe_origin())}
        schema = parquet.read_schema(self.files[0]).with_metadata(origin)
        csv_wanted = self.out.suffix == ".csv"
        with arrow_csv.CSVWriter(path, schema) if csv_wanted else parquet.ParquetWriter(path, schema) as writer:
            held: list[pyarrow.Table] = []
            for file in self.files:
                held.append(parquet.read_table(file).replace_schema_metadata(origin))
                if file == self.files[-1] or sum(map(len, held)) >= ROW_GROUP:
                    writer.write_table(pyarrow.concat_tables(held))
                    held = []

    def _describe_origin(self) -> dict[str, Any]:
        return {"command": self.command, "counts": self.counts, **self.notes}

    def _read_origin(self) -> dict[str, Any]:
        """Return what the output that is there says of its origin; nothing where there is none, or it is not ours."""
        origin = predictions.read_origin(self.out)
        if self.out.suffix == ".csv" and not (self.out.exists() and origin.get("file") == _stamp(self.out)):
            return {}  # it may have been replaced since
        return origin


def partial_of(out: Path) -> Path:
    """Return the folder with the parts of an unfinished output."""
    return out.with_name(f"{out.name}.partial")


def _stamp(path: Path) -> list[int]:
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns]


def rejected_of(out: Path) -> Path:
    """Return the file beside an output with what was set aside; of a CSV it has the whole name, for its own."""
    return out.with_name(f"{out.stem if out.suffix == '.parquet' else out.name}.rejected.csv")


def _write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    with files.whole(path, PLACE) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(REJECTED)
        writer.writerows(astuple(one) for one in rejected)
