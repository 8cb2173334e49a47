"""A predictions table that somebody else made, read as one of our own."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.artifacts import predictions
from alerce_early.data import text
from alerce_early.data.labels import CLASSES, LABEL_COLUMNS, Naming, join_labels, read_csv, refuse_rounded
from alerce_early.errors import InputError
from alerce_early.evaluation import conformal, metrics, screening, tables, thresholds

SPLIT = "table"  # of all rows that are not said to be test rows
UNSEEN, SEEN = "new", "seen"  # the same of a table that tells which rows trained the network: the others, or all
WANTED = "wanted: id, label and either one p_<class> for each class, or score (the probability of the second class)"
SUM_TOLERANCE = 1e-3
LONG = {  # the columns of ALeRCE's table of probabilities, one row per object and class
    "oid": ("oid", "objectid", "id"),
    "classifier": ("classifier_name", "classifier"),
    "version": ("classifier_version",),
    "class": ("class_name", "class"),
    "probability": ("probability",),
}
STAMPS = "stamp_classifier"  # of several classifiers in such a table, the one that sees what our networks see


def read(path: Path, labels_path: Path | None = None) -> dict[str, np.ndarray]:
    """Return the table of `read_with_notes` alone."""
    return read_with_notes(path, labels_path)[0]


def read_with_notes(
    path: Path, labels_path: Path | None = None, target: str = metrics.TARGET, classifier: str | None = None
) -> tuple[dict[str, np.ndarray], tables.Constants, list[str]]:
    """Read a CSV or parquet table of classifications with the columns id, label and p_<class>, or score.

    labels_path: a table with the labels, see `labels`; where it is given, the first one needs none. target: the class
    that has thresholds. classifier: of ALeRCE's table of probabilities, see `pivot`.

    Where there is a column split with test rows, only these are kept, with the constants of `thresholds` if there are
    validation rows to choose them. Rows of objects that trained the network, by the column `predictions.TRAINED`, are
    left out if there are others. score, in [0, 1], is the probability of SN
    if that is one of the two labels, or else of the one that is last in alphabetical order (of 0 and 1, or bogus
    and real: the second). Returns our columns, with row, split and predicted; what holds for all rows; and what became
    of the labels and rows, in words. Raises InputError, which names the columns that are missing and the values that
    are no probabilities.
    """
    found, notes = pivot(path, predictions.read(path), classifier)
    constants = _take_constants(path, found)
    if labels_path:
        found["label"], matches = labels(labels_path, found)
        notes.append(f"{matches}.")
        found |= find_queues(labels_path, found)
    missing = [name for name in ("id", "label") if name not in found]
    if "score" not in found and not tables.classes_of(found):
        missing.append("p_<class> or score")
    if missing:
        raise InputError(
            f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(list(found)[:20])[:200]}; {WANTED}."
        )
    ids = text.check_names(found["id"], "ids", str(path))
    if "object" in found:
        found["object"] = text.check_names(found["object"], "objects", str(path))
    found |= {"id": ids, "label": _labels(path, found["label"]), **_read_known(path, found)}
    text.check_names(tables.classes_of(found), "classes", str(path))
    if classes := tables.classes_of(found):
        names = Counter(found["label"].tolist())
        given = find_naming(found).translate(names, str(path))
        found["label"] = np.array([given[name] for name in found["label"].tolist()], dtype=str)
        if other := {name: n for name, n in names.items() if name and not given[name]}:
            listed = ", ".join(f"{name} {n:,}" for name, n in other.items())
            notes.append(f"Rows of none of the classes {', '.join(classes)} are left out: {listed}.")
    if screening.QUEUE in found and (searched := thresholds.looked_for(tables.classes_of(found), target)):
        order = np.argsort(-_numbers(path, f"p_{searched}", found[f"p_{searched}"]), kind="stable")
        found[screening.RANK] = np.argsort(order) + 1
        constants |= {screening.RANKED: float(len(order))}
    found = tables.keep_labelled(found)
    known = predictions.TRAINED in found
    if known:
        found, said = _leave_out_trained(found)
        notes += said
    if "split" in found and (found["split"] == "test").any():
        found = tables.join_tables([tables.select_split(found, split) for split in ("test", "validation")])
    else:
        split = SPLIT if not known else SEEN if _is_true(found[predictions.TRAINED]).any() else UNSEEN
        found["split"] = np.full(len(found["id"]), split)
    if not len(found["id"]):
        raise InputError(f"{path} has no row with a label.")
    if not tables.classes_of(found):
        found |= _of_score(path, found, target)
    classes = tables.classes_of(found)
    if "" in classes:
        raise InputError(f"{path}: a column is called p_ and nothing else; {WANTED}.")
    probabilities = _check_probabilities(path, {f"p_{name}": found[f"p_{name}"] for name in classes})
    stacked = np.stack(list(probabilities.values()), 1)
    worst = np.abs(stacked.sum(1) - 1).argmax()
    if abs(stacked[worst].sum() - 1) > SUM_TOLERANCE:
        raise InputError(f"{path}: the columns p_* add up to {stacked[worst].sum():g} in row {worst + 1}; wanted 1.")
    predicted = np.array(classes)[stacked.argmax(1)]
    read = {**found, **probabilities, "row": np.arange(len(predicted)), "predicted": predicted}
    judged = tables.select_split(read, "test") if "test" in read["split"] else read
    fitted = thresholds.fit(tables.select_split(read, "validation"), target)
    return judged, constants | thresholds.list_constants(fitted), notes


def read_alerts(path: Path) -> dict[str, np.ndarray]:
    """Read a table of classifications that needs no labels: id and p_<class>.

    Returns its columns (N,), with ``q_<class>`` and ``predicted`` filled in from p_<class> if they are missing. Raises
    InputError naming missing columns and values outside [0, 1].
    """
    found = predictions.read(path)
    classes = tables.classes_of(found)
    if missing := [name for name, there in (("id", "id" in found), ("p_<class>", bool(classes))) if not there]:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}. Give a table of predict.")
    probabilities = _check_probabilities(path, {f"p_{name}": found[f"p_{name}"] for name in classes})
    names = {name: text.check_names(found[name], f"{name}s", str(path)) for name in ("id", "object") if name in found}
    known = {name: _numbers(path, name, found[name]) for name in tables.PLACE if name in found}
    predicted = np.array(classes)[np.stack(list(probabilities.values()), 1).argmax(1)]
    calibrated = {f"q_{name}": probabilities[f"p_{name}"] for name in classes}
    return calibrated | {"predicted": predicted} | found | probabilities | names | known | _read_known(path, found)


def pivot(
    path: Path, found: dict[str, np.ndarray], classifier: str | None = None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return ALeRCE's table of probabilities as one row per object with p_<class>, and what was chosen, in words.

    Any other table is returned as it is. classifier: whose rows; default: `STAMPS` if it is there, else the only one.
    Of several versions each object has its latest.
    Raises InputError where there are several classifiers to choose from.
    """
    columns = {name.lower(): column for name, column in found.items()}
    held = {name: columns[one] for name, names in LONG.items() for one in reversed(names) if one in columns}
    if tables.classes_of(found) or not {"oid", "class", "probability"} <= set(held):
        if classifier:
            raise InputError(f"--classifier {classifier}: {path} is not a table of oid, class and probability.")
        return found, []
    n = len(held["probability"])
    rows = {name: held[name].astype(str) if name in held else np.full(n, "") for name in LONG}
    there = sorted(set(rows["classifier"].tolist()))
    chosen = classifier or (STAMPS if STAMPS in there else there[0] if len(there) == 1 else "")
    if chosen not in there:
        raise InputError(f"{path} holds the classifiers {', '.join(there)[:200]}. Choose one with --classifier NAME.")
    mine = rows["classifier"] == chosen
    probability = _check_probabilities(path, {"probability": held["probability"]})["probability"]
    objects, first, which = np.unique(rows["oid"][mine], return_index=True, return_inverse=True)
    versions, version = np.unique(rows["version"][mine], return_inverse=True)
    age = [([int(number) for number in re.findall(r"\d+", name)], name) for name in versions.tolist()]
    rank = np.argsort(sorted(range(len(age)), key=age.__getitem__))[version]
    newest = np.zeros(len(objects), dtype=np.int64)
    np.maximum.at(newest, which, rank)
    kept = newest[which] == rank
    classes, number = np.unique(rows["class"][mine], return_inverse=True)
    shares = np.zeros((len(classes), len(objects)))
    shares[number[kept], which[kept]] = probability[mine][kept]
    order = np.argsort(first)  # as the table has them
    table = {f"p_{name}": share[order] for name, share in zip(classes.tolist(), shares, strict=True)}
    others = f"; the table also holds {', '.join(one for one in there if one != chosen)}" if len(there) > 1 else ""
    name = chosen or "one classifier"
    return {"id": objects[order], **table}, [f"{len(objects):,} objects with probabilities by {name}{others}."]


def _take_constants(path: Path, found: dict[str, np.ndarray]) -> dict[str, float | None]:
    """Return what holds for all rows of a table, from its metadata or, of one from before, out of its columns."""
    constants = predictions.read_constants(path)
    for name in [name for name in found if name == conformal.COVERAGE or name.startswith(thresholds.PREFIX)]:
        values = {None if value != value else value for value in found.pop(name).tolist()}
        if len(values) == 1 and not isinstance(value := values.pop(), str):
            constants[name] = value
    return constants


def _leave_out_trained(table: tables.Table) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the rows of objects that did not train or choose the network, or all where there are no others."""
    trained, n = _is_true(table[predictions.TRAINED]), len(table["id"])
    count = f"{trained.sum():,} of" if trained.any() else "none of the"
    of = f"{count} {n:,} labelled rows are of objects used in training or model selection"
    if not trained.any():
        return dict(table), [f"{of}."]
    if trained.all():
        return dict(table), [f"{of}; there are no others, so all numbers are optimistic."]
    return {name: column[~trained] for name, column in table.items()}, [f"{of}; they are excluded."]


def _is_true(column: np.ndarray) -> np.ndarray:
    """(N,) bool of a column that a table may hold as such, as numbers or as text."""
    return np.isin(np.char.lower(column.astype(str)), ("true", "1", "1.0"))


def labels(path: Path, table: tables.Table) -> tuple[np.ndarray, str]:
    """Return the classes of the rows of a table, (N,) str, "" where there is none, and how many labels matched.

    path: a CSV or parquet table with the columns of `labels.join_labels`. Raises InputError where it has others, or
    names not one of the rows.
    """
    content = read_csv(path) if path.suffix == ".csv" else predictions.read(path)
    named = {
        k: _labels(path, column) if k.strip().lower() in LABEL_COLUMNS else column for k, column in content.items()
    }
    known = join_labels(named, table, str(path), find_naming(table))
    keys = table[known.by].astype(str).tolist()
    if known.class_by_key:
        refuse_rounded(keys, known.by, "the table to be labelled")
    matches = known.match(keys)
    return np.array([known.class_by_key.get(key, "") for key in keys], dtype=str), matches


def find_queues(path: Path, table: tables.Table) -> dict[str, np.ndarray]:
    """Return the column `screening.QUEUE` (N,) str if a table of labels has one.

    A row that was drawn at random stays so, even if another queue showed it to a second person.
    """
    content = read_csv(path) if path.suffix == ".csv" else predictions.read(path)
    columns = {name.strip().lower(): np.asarray(column).astype(str).tolist() for name, column in content.items()}
    key = next((name for name in ("candid", "id") if name in columns and name in table), None)
    if screening.QUEUE not in columns or key is None:
        return {}
    of: dict[str, str] = {}
    for name, queue in zip(columns[key], columns[screening.QUEUE], strict=True):
        of[name] = screening.RANDOM if screening.RANDOM in (queue, of.get(name)) else queue
    return {screening.QUEUE: np.array([of.get(name, "") for name in table[key].astype(str).tolist()], dtype=str)}


def find_naming(table: tables.Table) -> Naming:
    """Return the classes that the labels of a table may be of: its own; what nobody knows is left as it is."""
    return Naming(tuple(dict.fromkeys([*tables.classes_of(table), *CLASSES])), others="keep")


def _labels(path: Path, labels: Iterable[Any]) -> np.ndarray:
    """Labels as text; nothing for a missing one."""
    texts = ["" if label is None or label != label else str(label) for label in labels]
    return text.check_names(texts, "labels", str(path))


def _read_known(path: Path, found: tables.Table) -> dict[str, np.ndarray]:
    """Return the other columns that the evaluation reads, where the table has them, as the numbers they are to be."""
    wanted = [name for name in found if name.startswith("q_") or name in tables.METADATA]
    return {name: _numbers(path, name, found[name]) for name in wanted}


def _numbers(path: Path, name: str, column: np.ndarray) -> np.ndarray:
    try:
        return column.astype(np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{path}: column {name} holds no numbers. Give numbers.") from None


def _of_score(path: Path, found: tables.Table, target: str) -> dict[str, np.ndarray]:
    """p_<class> of both classes, the one that is not looked for first."""
    labels = [str(name) for name in np.unique(found["label"])]
    if len(labels) != 2:
        raise InputError(f"{path}: score needs two labels, there are {len(labels)}: {', '.join(labels[:8])}; {WANTED}.")
    score, chosen = _check_probabilities(path, {"score": found["score"]})["score"], metrics.positive(labels, target)
    other = next(name for name in labels if name != chosen)
    return {f"p_{other}": 1 - score, f"p_{chosen}": score}


def _check_probabilities(path: Path, columns: tables.Table) -> dict[str, np.ndarray]:
    """Return the columns as (N,) float64; raises InputError where they are no probabilities."""
    checked = {}
    for name, column in columns.items():
        checked[name] = _numbers(path, name, column)
        wrong = np.flatnonzero(~((checked[name] >= 0) & (checked[name] <= 1)))
        if len(wrong):
            raise InputError(
                f"{path}: column {name} is {checked[name][wrong[0]]:g} in row {wrong[0] + 1} and no probability in "
                f"{len(wrong)} rows; wanted values from 0 to 1."
            )
    return checked
