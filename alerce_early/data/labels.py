"""Labels from a separate table: matching them to rows, and translating their names to classes.

`Naming` translates names of classes, with class_names.csv as the table of names that surveys and catalogues use.
`join_labels` matches the labels of a table to rows by candid or id.
"""

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

CLASSES = ("AGN", "SN", "VS", "asteroid", "bogus")  # default classes
OF_LABELS = "labels"  # value of data.classes that takes the classes from the labels
CLASS_NAMES = Path(__file__).with_name("class_names.csv")
# Columns with labels, as named by this package, BTS, TNS, SIMBAD, ALeRCE and Gaia.
LABEL_COLUMNS = ("label", "class", "type", "obj. type", "otype", "class_name", "best_class_name")
NAME_LIST_COLUMNS = ("internal_names", "disc. internal name")  # TNS: names in several surveys
ID_COLUMNS = (  # pairs of a kind of identifier and a column, in order of precedence
    *(("candid", name) for name in ("candid", "diasourceid")),
    *(("id", name) for name in ("ztfid", *NAME_LIST_COLUMNS, "id", "objectid", "oid")),
)
# A float with a decimal point or comma, or the ### of a spreadsheet column that was too narrow.
ROUNDED_ID = re.compile(r"\d*[.,]\d*(e[+-]?\d+)?|\d+e[+-]\d+|#+", re.IGNORECASE | re.ASCII)
DATE = re.compile(r"\d{4}-\d\d-\d\d\b")  # in TNS's daily table, a line above the column names
SUPERNOVA = re.compile(r"(sl)?sn-?i{1,2}([abcn]|[^a-z]|$)")  # supernova types that are not in the table, as normalised


@dataclass(frozen=True)
class Naming:
    """Translation of label names to classes.

    Parameters
    ----------
    classes : tuple of str
        Class names in label order.
    own : mapping of str to str or None
        Additional names defined by the user and their classes; None drops labels of this name.
    others : {"refuse", "leave_out", "keep"}
        Treatment of names found neither here nor in class_names.csv: raise an error, drop the label, or use the name as
        the class. Names that class_names.csv assigns to a class not in `classes` are dropped.
    """

    classes: tuple[str, ...] = CLASSES
    own: Mapping[str, str | None] = field(default_factory=dict)
    others: Literal["refuse", "leave_out", "keep"] = "refuse"

    @classmethod
    def of(
        cls, classes: Sequence[str] | str | None, own: Mapping[str, str | None] | None, names: Iterable[Any]
    ) -> "Naming":
        """Build a naming from the options data.classes and data.labels_map.

        Parameters
        ----------
        classes : sequence of str, "labels" or None
            Classes to use, dropping labels of others; "labels" for the classes found in `names`; None for `CLASSES`
            and the classes that `own` adds.
        own : mapping of str to str or None, optional
            The user's names, as in data.labels_map.
        names : iterable
            Labels of the data set; values other than str are ignored.

        Returns
        -------
        Naming
            The naming.

        Raises
        ------
        InputError
            If `classes` is not a list of at least two distinct names, or `own` refers to a class that is not in it.
        """
        own = {str(name): given for name, given in (own or {}).items()}
        targets = [name for name in dict.fromkeys(own.values()) if name]
        if classes is None:
            naming = cls(tuple(dict.fromkeys([*CLASSES, *targets])), own)
        elif classes == OF_LABELS:
            naming = cls(_list_classes(own, {name for name in names if isinstance(name, str)}), own)
        elif isinstance(classes, str) or len(set(classes)) < max(2, len(classes)):
            raise InputError(f"data.classes={classes}: expected a list of at least two distinct classes, or labels.")
        elif strange := [name for name in targets if name not in classes]:
            raise InputError(f"data.labels_map: {strange[0]} is not one of data.classes={list(classes)}. Add it there.")
        else:
            naming = cls(tuple(classes), own, "leave_out")
        check_classes(check_names(list(naming.classes), "classes", "data.classes").tolist())
        return naming

    def translate(self, names: Collection[str], origin: str) -> dict[str, str]:
        """Translate names to classes.

        Parameters
        ----------
        names : collection of str
            Names of labels, in any capitalisation.
        origin : str
            Source of the labels, for messages.

        Returns
        -------
        dict of str to str
            Class of each name, "" for a dropped label.

        Raises
        ------
        InputError
            If a name is unknown and `others` is "refuse".
        """
        own = {name.casefold(): given or "" for name, given in self.own.items()}
        known = {_plain(name): name for name in self.classes} | {name.casefold(): name for name in self.classes} | own
        found: dict[str, str | None] = {}
        for name in names:
            usual = find_class(name)
            other = {"leave_out": "", "keep": name}.get(self.others) if usual is None else known.get(_plain(usual), "")
            found[name] = known.get(name.casefold(), known.get(_plain(name), other))
        if unknown := sorted(name for name, given in found.items() if given is None):
            raise InputError(
                f"{origin}: unknown label {', '.join(unknown[:5])[:200]}. Give one of {', '.join(self.classes)}; or "
                f"map it to one with 'data.labels_map={{{unknown[0][:40]}: CLASS}}'; or choose other classes with "
                "data.classes=[...], or the classes of the labels with data.classes=labels."
            )
        return {name: given or "" for name, given in found.items()}

    def number(self, labels: Any, origin: str) -> np.ndarray:
        """Convert labels, a list or array of numbers and names, to (N,) int64 indices into the classes."""
        values = list_labels(labels, origin)
        found = self.translate({name for name in values if isinstance(name, str)}, origin)
        values = [(found[name] or UNLABELLED) if isinstance(name, str) else name for name in values]
        return to_label_numbers(values, self.classes, origin)


def _list_classes(own: Mapping[str, str | None], names: Collection[str]) -> tuple[str, ...]:
    """Return the classes found in these names, spelled as they are unless the user or `CLASSES` names them."""
    known = {_plain(name): name for name in CLASSES}
    given = {name.casefold(): value for name, value in own.items()}
    kept = {name: "" if find_class(name) == "" else known.setdefault(_plain(name), name) for name in sorted(names)}
    found = {given.get(name.casefold(), usual) for name, usual in kept.items()} - {"", None}
    return tuple(sorted(map(str, found), key=[*CLASSES, *sorted(map(str, found))].index)) or CLASSES


def find_class(name: Any) -> str | None:
    """Look up the class of a name used by a survey or catalogue.

    Parameters
    ----------
    name : object
        A name; several joined ones, as VSX's EA/RS or Gaia's DSCT|GDOR, count as a class that they all belong to.

    Returns
    -------
    str or None
        The class, "" if the name stands for no class, or None if it is unknown or not a str.
    """
    if not isinstance(name, str):
        return None
    table, plain = _read_class_names(), _plain(name)
    if plain in table:
        return table[plain]
    parts = {table.get(_plain(part)) for part in re.split(r"[|/+]", name)}
    return parts.pop() if len(parts) == 1 and parts != {None} else "SN" if SUPERNOVA.match(plain) else None


def _plain(name: str) -> str:
    """Normalise a name: remove spaces, underscores and the marks of a doubtful class, and fold the case."""
    return re.sub(r"[\s_]+", "", name).casefold().rstrip("?:")


@cache
def _read_class_names() -> dict[str, str]:
    """Read class_names.csv: the class of each normalised name."""
    columns = read_csv(CLASS_NAMES)
    return dict(zip(map(_plain, columns["name"]), columns["class"], strict=True))


@dataclass(frozen=True)
class Labels:
    """Labels of one table.

    Parameters
    ----------
    by : {"candid", "id"}
        Kind of identifier in the table.
    class_by_key : mapping of str to str
        Class by identifier; a row with several identifiers has several entries.
    first_key : mapping of str to str
        First identifier of the same row, by identifier.
    left_out : mapping of str to int
        Number of dropped labels, by name.
    origin : str
        Source of the table, for messages.
    disputed : int
        Number of rows without a label because people labelled them differently.
    """

    by: str
    class_by_key: Mapping[str, str]
    first_key: Mapping[str, str]
    left_out: Mapping[str, int]
    origin: str
    disputed: int = 0

    def __len__(self) -> int:
        return len(set(self.first_key.values()))

    def count(self, keys: Collection[str]) -> int:
        """Count the labels that match one of these identifiers."""
        return len({self.first_key[key] for key in self.class_by_key.keys() & set(keys)})

    def describe(self, keys: Collection[str]) -> str:
        """Describe in a sentence how many labels match the rows with these identifiers, and how many rows have none."""
        without = sum(key not in self.class_by_key for key in keys)
        words = (
            f"{self.origin}: {self.count(keys):,} of {len(self):,} labels name a row by {self.by}; "
            f"{without:,} of {len(keys):,} rows have no label"
        )
        if self.left_out:
            some = ", ".join(f"{name} {n:,}" for name, n in Counter(self.left_out).most_common(5))
            more = ", ..." if len(self.left_out) > 5 else ""
            words += f"; {sum(self.left_out.values()):,} labels belong to none of the classes ({some}{more})"
        if self.disputed:
            words += f"; {self.disputed:,} more were labelled differently by different people and count as unlabelled"
        return words

    def match(self, keys: Collection[str]) -> str:
        """Return `describe(keys)`; raise InputError if there are labels and none of them matches a row."""
        if self.class_by_key and keys and not self.count(keys):
            raise InputError(
                f"{self.origin}: no label of {len(self):,} matches one of the {len(keys):,} rows by {self.by}: the "
                f"labels have {next(iter(self.class_by_key))}, the rows {next(iter(keys))}. Give labels of these rows, "
                "with the same kind of id and all its digits; a spreadsheet keeps only 15."
            )
        return self.describe(keys)


def read_csv(file: Path) -> dict[str, list[str]]:
    """Read the columns of a CSV as text.

    Parameters
    ----------
    file : Path
        A UTF-8 file, with or without a byte order mark.

    Returns
    -------
    dict of str to list of str
        N stripped values by column.

    Raises
    ------
    InputError
        If the file cannot be read as CSV.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            rows = [row for row in csv.reader(text) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read as CSV: {error}.") from None
    names, *rows = rows[1:] if len(rows) > 1 and len(rows[0]) == 1 and DATE.match(rows[0][0]) else rows or [[]]
    return {name: [row[i].strip() if i < len(row) else "" for row in rows] for i, name in enumerate(names)}


def read_labels(file: Path, naming: Naming) -> Labels:
    """Read the labels of packets, named by candid or id, from a CSV; see `join_labels`."""
    return join_labels(read_csv(file), ("candid", "id"), str(file), naming)


def find_label_column(table: Mapping[str, Any]) -> Any:
    """Return the first column whose name is one of `LABEL_COLUMNS`, ignoring case, or None."""
    columns = {name.strip().lower(): column for name, column in table.items()}
    return next((columns[name] for name in LABEL_COLUMNS if name in columns), None)


def join_labels(
    table: Mapping[str, np.ndarray | Sequence[str]], named_by: Collection[str], origin: str, naming: Naming
) -> Labels:
    """Extract the labels from a table that names rows by candid or id.

    Parameters
    ----------
    table : mapping of str to sequence of str
        Columns (N,), with names in any capitalisation: one of `LABEL_COLUMNS`, and candid (or diaSourceId) or else id
        (or objectId, oid, ZTFID, or the names of TNS). Rows without a label are ignored. With a column ``who``, rows
        that people label differently are left unlabelled.
    named_by : collection of {"candid", "id"}
        Kinds of identifier that the rows to be labelled have.
    origin : str
        Source of the table, for messages.
    naming : Naming
        Translation of the labels to classes.

    Returns
    -------
    Labels
        The labels by identifier.

    Raises
    ------
    InputError
        If columns are missing, a row has conflicting labels, or identifiers were rounded by a spreadsheet.
    """
    columns = {name.strip().lower(): column for name, column in table.items()}
    label = find_label_column(table)
    join = next((pair for pair in ID_COLUMNS if pair[0] in named_by and pair[1] in columns), None)
    if label is None or join is None:
        there = ", ".join(columns)[:200]
        raise InputError(
            f"{origin}: expected columns candid (or diaSourceId, id, objectId) and label (or class); found {there}."
        )
    keys = np.asarray(columns[join[1]]).astype(str).tolist()
    pairs = {(key, str(name)) for key, name in zip(keys, label, strict=True) if name and key not in ("", "nan")}
    refuse_rounded((key for key, _ in pairs), join[1], origin)
    found = naming.translate({name for _, name in pairs}, origin)
    class_by_key, first_key, twice = dict[str, str](), dict[str, str](), dict[str, str]()
    for key, given in sorted((key, found[name]) for key, name in pairs if found[name]):
        names = [name for name in map(str.strip, key.split(",")) if name] if join[1] in NAME_LIST_COLUMNS else [key]
        for name in names:
            first_key.setdefault(name, names[0])
            if class_by_key.setdefault(name, given) != given:
                twice[name] = given
    disputed = twice.keys() if "who" in columns else ()
    if twice and not disputed:
        key, other = min(twice.items())
        raise InputError(
            f"{origin}: {key} has two labels, {class_by_key[key]} and {other} ({len(twice):,} such rows). "
            "Keep one, or add a column who."
        )
    for key in disputed:
        del class_by_key[key], first_key[key]
    left_out = Counter(name for _, name in pairs if not found[name])
    return Labels(join[0], class_by_key, first_key, left_out, origin, len(disputed))


def refuse_rounded(keys: Iterable[str], column: str, origin: str) -> None:
    """Raise InputError for ids written as floats, as spreadsheets and float columns write large integers."""
    if rounded := sorted(key for key in keys if ROUNDED_ID.fullmatch(key)):
        raise InputError(
            f"{origin}: column {column} holds {rounded[0]} ({len(rounded):,} such values), which was rounded by a "
            "spreadsheet or a column of floats. Export the ids from their source again, as text."
        )
