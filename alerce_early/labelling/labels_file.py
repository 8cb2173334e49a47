"""Write labels to a CSV file: one row per alert and person, synced to disk after each label.

`data.labels` reads it. Each change takes a lock and reads the file again, so several people can share a file, each with
their own server.
"""

import csv
import io
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alerce_early import files
from alerce_early.data.text import is_safe_name
from alerce_early.errors import InputError

UNSURE, SKIP = "unsure", "skip"  # labels without a class; `class_names.csv` lists them
COLUMNS = ("candid", "id", "label", "who", "when", "queue", "model")
LOCK_TIMEOUT = 10.0  # seconds to wait for another process that writes
OPTION = "--out"  # for messages


class Agreement(NamedTuple):
    """Agreement with another person: Cohen's kappa on `n` alerts labelled by both; None if it is undefined."""

    who: str
    n: int
    kappa: float | None


class LabelsFile:
    """Labels of one person in a file that several people may share.

    Parameters
    ----------
    path : Path
        The CSV file; it is created with the first label.
    who : str
        Name of the person.
    classes : sequence of str
        Classes of the network; their probabilities are the last columns.

    Raises
    ------
    InputError
        If `path` is a file with other columns, or `who` is not a valid name.
    """

    def __init__(self, path: Path, who: str, classes: Sequence[str]):
        if not who or not is_safe_name(who):
            raise InputError(f"--who {who[:40]}: not a name. Give one of at most 100 printable characters.")
        self.path, self.who, self.classes = path, who, tuple(classes)
        self.header = (*COLUMNS, *(f"p_{name}" for name in classes))
        with self._locked():
            pass  # report an invalid file now rather than at the first label

    def add(self, candid: str, name: str, label: str, queue: str, model: str, probabilities: Sequence[float]) -> None:
        """Write a label to disk; it replaces an earlier label of the same alert by the same person.

        Parameters
        ----------
        candid, name : str
            Ids of the alert and of its object.
        label : str
            A class, `UNSURE` or `SKIP`.
        queue : str
            Queue that offered the alert.
        model : str
            Id of the network.
        probabilities : sequence of float
            Probabilities (K,) in [0, 1], in the order of `classes`.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        when = datetime.now(UTC).isoformat(timespec="seconds")
        row = [candid, name, label, self.who, when, queue, model, *(f"{value:.6g}" for value in probabilities)]
        with self._locked() as rows:
            others = [one for one in rows if (one["who"], one["candid"]) != (self.who, candid)]
            if len(others) < len(rows):
                self._rewrite([*others, dict(zip(self.header, row, strict=True))])
            else:
                self._append([row] if rows or self._has_header() else [self.header, row])

    def undo(self, candids: Sequence[str]) -> str | None:
        """Remove this person's last label.

        Parameters
        ----------
        candids : sequence of str
            Alerts of the session; labels of other alerts stay.

        Returns
        -------
        str or None
            Candid of the alert; None without a label.
        """
        known = set(candids)
        with self._locked() as rows:
            mine = [i for i, row in enumerate(rows) if row["who"] == self.who and row["candid"] in known]
            if not mine:
                return None
            withdrawn = rows.pop(mine[-1])
            self._rewrite(rows)
        return withdrawn["candid"]

    def mine(self) -> dict[str, str]:
        """Return this person's labels by candid, oldest first."""
        return {row["candid"]: row["label"] for row in self._read() if row["who"] == self.who}

    def summarise(self) -> str:
        """Format the number of this person's rows and the count of each label."""
        counts = Counter(self.mine().values())
        listed = ", ".join(f"{name} {n:,}" for name, n in counts.most_common()) or "none"
        return f"{counts.total():,} rows by {self.who} in {self.path}: {listed}"

    def agreements(self) -> list[Agreement]:
        """Compute the agreement with each other person who labelled the same alerts."""
        from sklearn.metrics import cohen_kappa_score  # takes a second to import

        given: dict[str, dict[str, str]] = {}
        for row in self._read():
            if row["label"] not in (UNSURE, SKIP, ""):
                given.setdefault(row["who"], {})[row["candid"]] = row["label"]
        mine, found = given.pop(self.who, {}), []
        for who, theirs in given.items():
            if shared := mine.keys() & theirs.keys():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # kappa is NaN if all labels are of one class
                    kappa = cohen_kappa_score([mine[key] for key in shared], [theirs[key] for key in shared])
                found.append(Agreement(who, len(shared), float(kappa) if np.isfinite(kappa) else None))
        return found

    def _has_header(self) -> bool:
        """Return whether the file has any content."""
        return self.path.exists() and self.path.stat().st_size > 0

    @contextmanager
    def _locked(self) -> Iterator[list[dict[str, str]]]:
        """Lock the file, remove an incomplete last line, and yield the rows."""
        lock = self.path.with_name(f".{self.path.name}.lock")
        with files.hold_lock(lock, LOCK_TIMEOUT, OPTION), files.translate_refusals(self.path, files.ANY, OPTION):
            self._repair()
            yield self._read()

    def _repair(self) -> None:
        """Remove an incomplete last line, left by a process that was killed."""
        content = self.path.read_bytes() if self.path.exists() else b""
        if not content or content.endswith(b"\n"):
            return
        kept = content[: content.rfind(b"\n") + 1]
        last = next(csv.reader([content[len(kept) :].decode(errors="replace")]))
        top = _encode([self.header])
        if kept.startswith(top) and len(last) == len(self.header):
            # complete but for its newline, as some editors save it; at worst, the last number lacks digits
            kept = content + b"\n"
        elif not (kept.startswith(top) or top.startswith(content)):
            raise self._invalid("is not a file of labels, or its last line is incomplete")
        files.write_bytes(self.path, kept, OPTION)

    def _read(self) -> list[dict[str, str]]:
        """Read the rows, or raise InputError if the columns are others."""
        try:
            text = self.path.read_bytes().decode("utf-8-sig")
            found = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""), restval="")
            header = tuple(found.fieldnames or ())
            rows = [{name: row[name] for name in header} for row in found]
        except FileNotFoundError:
            return []
        except (UnicodeDecodeError, csv.Error) as error:
            raise self._invalid(f"is not a readable CSV ({error})") from None
        if header and header != self.header:
            found_columns, expected = (", ".join(names)[:200] for names in (header, self.header))
            raise self._invalid(f"has the columns {found_columns}, expected {expected}")
        return rows

    def _invalid(self, what: str) -> InputError:
        """Return the error for an invalid file."""
        return InputError(f"{self.path}: {what}. Choose another file with {OPTION}.")

    def _append(self, rows: Sequence[Sequence[str]]) -> None:
        """Append rows and wait until they are on disk."""
        with self.path.open("ab") as file:
            file.write(_encode(rows))
            file.flush()
            os.fsync(file.fileno())

    def _rewrite(self, rows: Sequence[dict[str, str]]) -> None:
        """Replace the content of the file with the header and these rows."""
        content = _encode([self.header, *([row[name] for name in self.header] for row in rows)])
        files.write_bytes(self.path, content, OPTION)


def _encode(rows: Sequence[Sequence[str]]) -> bytes:
    """Format rows as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
