"""Labels that come in a table of their own: which rows they belong to, and which of our classes they name."""

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from alerce_early.data.records import UNLABELLED, list_labels, to_label_numbers
from alerce_early.data.text import check_classes, check_names
from alerce_early.errors import InputError

CLASSES = ("AGN", "SN", "VS", "asteroid", "bogus")  # where the user names no others
OF_LABELS = "labels"  # for a list of classes: those that the labels have
CLASS_NAMES = Path(__file__).with_name("class_names.csv")
# Columns of a label: ours, and those of BTS, TNS, SIMBAD, ALeRCE and Gaia.
LABEL = ("label", "class", "type", "obj. type", "otype", "class_name", "best_class_name")
SEVERAL = ("internal_names", "disc. internal name")  # of TNS: what each survey calls an object, by comma
JOINS = (  # what names rows, and its column
    *(("candid", name) for name in ("candid", "diasourceid")),
    *(("id", name) for name in ("ztfid", *SEVERAL, "id", "objectid", "oid")),
)
# How a float is written, with a point or a comma, and a cell too narrow for its number.
ROUNDED = re.compile(r"\d*[.,]\d*(e[+-]?\d+)?|\d+e[+-]\d+|#+", re.IGNORECASE | re.ASCII)
DATE = re.compile(r"\d{4}-\d\d-\d\d\b")  # of the first line of TNS's daily table, above the names of the columns
SUPERNOVA = re.compile(r"(sl)?sn-?i{1,2}([abcn]|[^a-z]|$)")  # a plain name, of a type that the table does not list


@dataclass(frozen=True)
class Naming:
    """The classes that labels may be of, and what becomes of other names.

    Parameters
    ----------
    classes : tuple of str
        The classes to tell apart, in label order.
    own : mapping of str to str or None
        The user's names for them; None for a name of no class.
    others : {"refuse", "leave_out", "keep"}
        What becomes of a name that neither these nor `CLASS_NAMES` know: an error, no label, or the label itself. A
        name that `CLASS_NAMES` knows for another class is no label.
    """

    classes: tuple[str, ...] = CLASSES
    own: Mapping[str, str | None] = field(default_factory=dict)
    others: Literal["refuse", "leave_out", "keep"] = "refuse"

    @classmethod
    def of(
        cls, classes: Sequence[str] | str | None, own: Mapping[str, str | None] | None, names: Iterable[Any]
    ) -> "Naming":
        """Return the naming of the options data.classes and data.labels_map, for the labels of a data set.

        classes: a list of the classes, beside which labels are left out; None: `CLASSES`, and those that `own` adds;
        `OF_LABELS`: those that the labels have. Raises InputError for options that do not fit together.
        """
        own = {str(name): given for name, given in (own or {}).items()}
        targets = [name for name in dict.fromkeys(own.values()) if name]
        if classes is None:
            naming = cls(tuple(dict.fromkeys([*CLASSES, *targets])), own)
        elif classes == OF_LABELS:
            naming = cls(_list_classes(own, {name for name in names if isinstance(name, str)}), own)
        elif isinstance(classes, str) or len(set(classes)) < max(2, len(classes)):
            raise InputError(f"data.classes={classes}: not a list of different classes. Give two or more, or labels.")
        elif strange := [name for name in targets if name not in classes]:
            raise InputError(f"data.labels_map: {strange[0]} is not one of data.classes={list(classes)}. Add it there.")
        else:
            naming = cls(tuple(classes), own, "leave_out")
        check_classes(check_names(list(naming.classes), "classes", "data.classes").tolist())
        return naming

    def translate(self, names: Collection[str], origin: str) -> dict[str, str]:
        """Return the class of each name, "" for none; raises InputError where one is refused."""
        own = {name.casefold(): given or "" for name, given in self.own.items()}
        known = {_plain(name): name for name in self.classes} | {name.casefold(): name for name in self.classes} | own
        found: dict[str, str | None] = {}
        for name in names:
            usual = find_usual(name)
            other = {"leave_out": "", "keep": name}.get(self.others) if usual is None else known.get(_plain(usual), "")
            found[name] = known.get(name.casefold(), known.get(_plain(name), other))
        if unknown := sorted(name for name, given in found.items() if given is None):
            raise InputError(
                f"{origin}: unknown label {', '.join(unknown[:5])[:200]}. Give one of {', '.join(self.classes)}; or "
                f"say what it is with 'data.labels_map={{{unknown[0][:40]}: CLASS}}'; or name your own classes with "
                "data.classes=[...], or data.classes=labels for those that the labels have."
            )
        return {name: given or "" for name, given in found.items()}

    def number(self, labels: Any, origin: str) -> np.ndarray:
        """Return labels, a list or array of numbers and names, as (N,) int64 indices into the classes."""
        held = list_labels(labels, origin)
        found = self.translate({name for name in held if isinstance(name, str)}, origin)
        held = [(found[name] or UNLABELLED) if isinstance(name, str) else name for name in held]
        return to_label_numbers(held, self.classes, origin)


def _list_classes(own: Mapping[str, str | None], names: Collection[str]) -> tuple[str, ...]:
    """Return the classes that labels of these names have, as they are written but for the user's own names."""
    known = {_plain(name): name for name in CLASSES}
    given = {name.casefold(): value for name, value in own.items()}
    kept = {name: "" if find_usual(name) == "" else known.setdefault(_plain(name), name) for name in sorted(names)}
    found = {given.get(name.casefold(), usual) for name, usual in kept.items()} - {"", None}
    return tuple(sorted(map(str, found), key=[*CLASSES, *sorted(map(str, found))].index)) or CLASSES


def find_usual(name: Any) -> str | None:
    """Return the class that a survey or catalogue means by this name, "" for none in particular; None if unknown.

    Several names, as in VSX's EA/RS or Gaia's DSCT|GDOR, are one class if they all are.
    """
    if not isinstance(name, str):
        return None
    table, plain = _read_class_names(), _plain(name)
    if plain in table:
        return table[plain]
    parts = {table.get(_plain(part)) for part in re.split(r"[|/+]", name)}
    return parts.pop() if len(parts) == 1 and parts != {None} else "SN" if SUPERNOVA.match(plain) else None


def _plain(name: str) -> str:
    """Return a name without what surveys write differently: capitals, spaces and the mark of a doubtful class."""
    return re.sub(r"[\s_]+", "", name).casefold().rstrip("?:")


@cache
def _read_class_names() -> dict[str, str]:
    columns = read_csv(CLASS_NAMES)
    return dict(zip(map(_plain, columns["name"]), columns["class"], strict=True))


@dataclass(frozen=True)
class Labels:
    """The labels of one table.

    by: what names rows, "candid" or "id". of: the class of each row that has one, by each of its names. first: the
    first name of a row, by each. left_out: how many labels are of no class here, by label. origin: for messages.
    disputed: how many rows have no label because people gave them different ones.
    """

    by: str
    of: Mapping[str, str]
    first: Mapping[str, str]
    left_out: Mapping[str, int]
    origin: str
    disputed: int = 0

    def __len__(self) -> int:
        return len(set(self.first.values()))

    def count(self, keys: Collection[str]) -> int:
        """Return how many of the labels belong to one of these rows."""
        return len({self.first[key] for key in self.of.keys() & set(keys)})

    def describe(self, keys: Collection[str]) -> str:
        """Return how many labels belong to a row and how many rows have one, in words; keys: the rows' candid or id."""
        without = sum(key not in self.of for key in keys)
        words = (
            f"{self.origin}: {self.count(keys):,} of {len(self):,} labels name a row by {self.by}; "
            f"{without:,} of {len(keys):,} rows have no label"
        )
        if self.left_out:
            some = ", ".join(f"{name} {n:,}" for name, n in Counter(self.left_out).most_common(5))
            more = ", ..." if len(self.left_out) > 5 else ""
            words += f"; {sum(self.left_out.values()):,} labels are of no class here ({some}{more})"
        if self.disputed:
            words += f"; {self.disputed:,} more have different labels by different people and count as unlabelled"
        return words

    def match(self, keys: Collection[str]) -> str:
        """Return `describe`; raises InputError if there are labels and not one of them belongs to a row."""
        if self.of and keys and not self.count(keys):
            raise InputError(
                f"{self.origin}: not one of its {len(self):,} labels names one of the {len(keys):,} rows by "
                f"{self.by}; it names {next(iter(self.of))}, the rows {next(iter(keys))}. Give the labels of these "
                "rows, with ids of the same kind, all digits as they were: a spreadsheet keeps 15."
            )
        return self.describe(keys)


def read_csv(file: Path) -> dict[str, list[str]]:
    """Return the columns (N,) of a CSV as text, with or without a byte order mark; raises InputError if it is none."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            rows = [row for row in csv.reader(text) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is no readable CSV: {error}.") from None
    names, *rows = rows[1:] if len(rows) > 1 and len(rows[0]) == 1 and DATE.match(rows[0][0]) else rows or [[]]
    return {name: [row[i].strip() if i < len(row) else "" for row in rows] for i, name in enumerate(names)}


def read_labels(file: Path, naming: Naming) -> Labels:
    """Return the labels of a CSV for packets, as of `join_labels`."""
    return join_labels(read_csv(file), ("candid", "id"), str(file), naming)


def find_label_column(table: Mapping[str, Any]) -> Any:
    """Return the column of labels, whatever its name and capitals; None where there is none."""
    columns = {name.strip().lower(): column for name, column in table.items()}
    return next((columns[name] for name in LABEL if name in columns), None)


def join_labels(
    table: Mapping[str, np.ndarray | Sequence[str]], named_by: Collection[str], origin: str, naming: Naming
) -> Labels:
    """Return the labels of a table for rows that are named by candid, id or both.

    table: columns (N,) of any capitalisation: one of `LABEL`, and candid (or diaSourceId), or else id (or objectId,
    oid, ZTFID, or TNS's names); a row without a label does not count. If there is a column ``who``, rows that
    people label differently have no label. Raises InputError where it has them not, gives one row two classes, or
    names rows by fractions or powers of ten, as spreadsheets and float columns make of whole numbers.
    """
    columns = {name.strip().lower(): column for name, column in table.items()}
    label = find_label_column(table)
    join = next((pair for pair in JOINS if pair[0] in named_by and pair[1] in columns), None)
    if label is None or join is None:
        there = ", ".join(columns)[:200]
        raise InputError(
            f"{origin} has the columns {there}; wanted candid (or diaSourceId, id, objectId) and label (or class)."
        )
    keys = np.asarray(columns[join[1]]).astype(str).tolist()
    pairs = {(key, str(name)) for key, name in zip(keys, label, strict=True) if name and key not in ("", "nan")}
    refuse_rounded((key for key, _ in pairs), join[1], origin)
    found = naming.translate({name for _, name in pairs}, origin)
    of, first, twice = dict[str, str](), dict[str, str](), dict[str, str]()
    for key, given in sorted((key, found[name]) for key, name in pairs if found[name]):
        names = [name for name in map(str.strip, key.split(",")) if name] if join[1] in SEVERAL else [key]
        for name in names:
            first.setdefault(name, names[0])
            if of.setdefault(name, given) != given:
                twice[name] = given
    disputed = twice.keys() if "who" in columns else ()
    if twice and not disputed:
        key, other = min(twice.items())
        raise InputError(f"{origin} gives {key} two labels, {of[key]} and {other} ({len(twice):,} such).")
    for key in disputed:
        del of[key], first[key]
    left_out = Counter(name for _, name in pairs if not found[name])
    return Labels(join[0], of, first, left_out, origin, len(disputed))


def refuse_rounded(keys: Iterable[str], column: str, origin: str) -> None:
    """Raise InputError for ids that are written as a number with a fraction or a power of ten."""
    if rounded := sorted(key for key in keys if ROUNDED.fullmatch(key)):
        raise InputError(
            f"{origin}: column {column} holds {rounded[0]} ({len(rounded):,} such), which a spreadsheet or a column "
            "of floats has rounded, so its last digits are lost. Write the ids as text, from where they came."
        )
