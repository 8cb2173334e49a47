"""The CSV of labels: one row per alert and person, appended and synced to disk label by label.

`data.labels` reads it. Each change takes a lock and re-reads the file, so several people can share one file, each with
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

UNSURE, SKIP = "unsure", "skip"  # answers without a class; `class_names.csv` lists them
COLUMNS = ("candid", "id", "label", "who", "when", "queue", "model")
PATIENCE = 10.0  # seconds to wait for another process that writes
PLACE = "--out"


class Agreement(NamedTuple):
    """How well another person's labels agree: Cohen's kappa of `n` alerts, None where it is not defined."""

    who: str
    n: int
    kappa: float | None


class LabelsFile:
    """The labels of one person in a file that others may share.

    Parameters
    ----------
    path : Path
        The CSV; made with the first label.
    who : str
        Whose labels are added and withdrawn.
    classes : sequence of str
        The classes of the network, whose probabilities are the last columns.

    Raises
    ------
    InputError
        If `path` is not a CSV of these columns, or `who` is not a name.
    """

    def __init__(self, path: Path, who: str, classes: Sequence[str]):
        if not who or not is_safe_name(who):
            raise InputError(f"--who {who[:40]}: not a name. Give one of at most 100 printable characters.")
        self.path, self.who, self.classes = path, who, tuple(classes)
        self.header = (*COLUMNS, *(f"p_{name}" for name in classes))
        with self._locked():
            pass  # complains now of what would fail at the first key

    def add(self, candid: str, name: str, label: str, queue: str, model: str, probabilities: Sequence[float]) -> None:
        """Append the label of an alert, in place of an earlier one by the same person, and wait for the disk.

        probabilities: (K,) in [0, 1], of `classes` in order. Raises InputError where the disk refuses.
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
        """Withdraw this person's last label among these alerts and return its candid, or None."""
        known = set(candids)
        with self._locked() as rows:
            mine = [i for i, row in enumerate(rows) if row["who"] == self.who and row["candid"] in known]
            if not mine:
                return None
            withdrawn = rows.pop(mine[-1])
            self._rewrite(rows)
        return withdrawn["candid"]

    def mine(self) -> dict[str, str]:
        """Return this person's label of each alert, by candid, in the order given."""
        return {row["candid"]: row["label"] for row in self._read() if row["who"] == self.who}

    def summarise(self) -> str:
        """Describe this person's rows: their number, and the count of each label."""
        counts = Counter(self.mine().values())
        listed = ", ".join(f"{name} {n:,}" for name, n in counts.most_common()) or "none"
        return f"{counts.total():,} rows by {self.who} in {self.path}: {listed}"

    def agreements(self) -> list[Agreement]:
        """Compare with every other person who labelled the same alerts."""
        from sklearn.metrics import cohen_kappa_score  # takes a second to import

        given: dict[str, dict[str, str]] = {}
        for row in self._read():
            if row["label"] not in (UNSURE, SKIP, ""):
                given.setdefault(row["who"], {})[row["candid"]] = row["label"]
        mine, found = given.pop(self.who, {}), []
        for who, theirs in given.items():
            if shared := mine.keys() & theirs.keys():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of one class alone, kappa is NaN
                    kappa = cohen_kappa_score([mine[key] for key in shared], [theirs[key] for key in shared])
                found.append(Agreement(who, len(shared), float(kappa) if np.isfinite(kappa) else None))
        return found

    def _has_header(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > 0

    @contextmanager
    def _locked(self) -> Iterator[list[dict[str, str]]]:
        """Hold the file's lock and yield its rows, after a line that a kill cut short was removed."""
        lock = self.path.with_name(f".{self.path.name}.lock")
        with files.hold_lock(lock, PATIENCE, PLACE), files.translate_refusals(self.path, files.ANY, PLACE):
            self._repair()
            yield self._read()

    def _repair(self) -> None:
        """Remove a last line that a kill cut short."""
        content = self.path.read_bytes() if self.path.exists() else b""
        if not content or content.endswith(b"\n"):
            return
        kept = content[: content.rfind(b"\n") + 1]
        last = next(csv.reader([content[len(kept) :].decode(errors="replace")]))
        top = _encode([self.header])
        if kept.startswith(top) and len(last) == len(self.header):  # an editor's; at most the last number lacks digits
            kept = content + b"\n"
        elif not (kept.startswith(top) or top.startswith(content)):
            raise self._complain("is not a file of labels, or its last line has no end")
        files.write_bytes(self.path, kept, PLACE)

    def _read(self) -> list[dict[str, str]]:
        try:
            text = self.path.read_bytes().decode("utf-8-sig")
            found = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""), restval="")
            header = tuple(found.fieldnames or ())
            rows = [{name: row[name] for name in header} for row in found]
        except FileNotFoundError:
            return []
        except (UnicodeDecodeError, csv.Error) as error:
            raise self._complain(f"is not a readable CSV ({error})") from None
        if header and header != self.header:
            there, wanted = (", ".join(names)[:200] for names in (header, self.header))
            raise self._complain(f"has the columns {there}, expected {wanted}")
        return rows

    def _complain(self, what: str) -> InputError:
        return InputError(f"{self.path}: {what}. Choose another file with {PLACE}.")

    def _append(self, rows: Sequence[Sequence[str]]) -> None:
        with self.path.open("ab") as file:
            file.write(_encode(rows))
            file.flush()
            os.fsync(file.fileno())

    def _rewrite(self, rows: Sequence[dict[str, str]]) -> None:
        content = _encode([self.header, *([row[name] for name in self.header] for row in rows)])
        files.write_bytes(self.path, content, PLACE)


def _encode(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
