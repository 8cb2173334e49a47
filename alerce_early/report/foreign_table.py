"""Read tables of predictions by any classifier, in the form of a predictions table of this package."""

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

SPLIT = "table"  # split of the rows if the table has neither test rows nor the column `predictions.TRAINED`
# split of a table with that column: without the rows that trained the network, or with all rows
UNSEEN, SEEN = "new", "seen"
EXPECTED = "Expected: id, label and either p_<class> for each class or score, the probability of one of two."
SUM_TOLERANCE = 1e-3
# ALeRCE's table of probabilities, with one row per object and class: names of each column
LONG_COLUMNS = {
    "oid": ("oid", "objectid", "id"),
    "classifier": ("classifier_name", "classifier"),
    "version": ("classifier_version",),
    "class": ("class_name", "class"),
    "probability": ("probability",),
}
STAMP_CLASSIFIER = "stamp_classifier"  # the default in a table of several: it has the same input as our networks


def read(path: Path, labels_path: Path | None = None) -> dict[str, np.ndarray]:
    """Read a table of classifications; the first value of `read_with_notes`."""
    return read_with_notes(path, labels_path)[0]


def read_with_notes(
    path: Path, labels_path: Path | None = None, target: str = metrics.TARGET, classifier: str | None = None
) -> tuple[dict[str, np.ndarray], tables.Constants, list[str]]:
    """Read a table of classifications with labels.

    If a column ``split`` marks test rows, only these are returned; validation rows choose the thresholds. If the column
    `predictions.TRAINED` marks rows of objects that trained the network, they are excluded, unless all rows are.

    Parameters
    ----------
    path : Path
        CSV or parquet file with the columns ``id``, ``label`` and either ``p_<class>`` for each class or ``score``,
        all probabilities in [0, 1]. ``score`` belongs to `target` if that is one of the two labels, otherwise to the
        label that is last in alphabetical order: 1 of 0 and 1, real of bogus and real.
    labels_path : Path, optional
        A table with the labels, see `match_labels`, for a table without them.
    target : str
        Class with operating points.
    classifier : str, optional
        Which classifier of ALeRCE's table of probabilities to read, see `pivot`.

    Returns
    -------
    table : dict of str to ndarray
        Columns (N,) of a predictions table, including ``row``, ``split`` and ``predicted``.
    constants : mapping
        Values that hold for all rows: the coverage of prediction sets, and thresholds.
    notes : list of str
        Sentences on matched labels and excluded rows, for the page.

    Raises
    ------
    InputError
        If columns are missing, values are not probabilities, or no row has a label.
    """
    found, notes = pivot(path, predictions.read(path), classifier)
    constants = _take_constants(path, found)
    if labels_path:
        found["label"], matches = match_labels(labels_path, found)
        notes.append(f"{matches}.")
        found |= find_queues(labels_path, found)
    missing = [name for name in ("id", "label") if name not in found]
    if "score" not in found and not tables.classes_of(found):
        missing.append("p_<class> or score")
    if missing:
        raise InputError(
            f"{path}: lacks the columns {', '.join(missing)}; it has {', '.join(list(found)[:20])[:200]}. {EXPECTED}"
        )
    ids = text.check_names(found["id"], "ids", str(path))
    if "object" in found:
        found["object"] = text.check_names(found["object"], "objects", str(path))
    found |= {"id": ids, "label": _clean_labels(path, found["label"]), **_read_known(path, found)}
    text.check_names(tables.classes_of(found), "classes", str(path))
    if classes := tables.classes_of(found):
        names = Counter(found["label"].tolist())
        given = find_naming(found).translate(names, str(path))
        found["label"] = np.array([given[name] for name in found["label"].tolist()], dtype=str)
        if other := {name: n for name, n in names.items() if name and not given[name]}:
            listed = ", ".join(f"{name} {n:,}" for name, n in other.items())
            notes.append(f"Rows with other labels than {', '.join(classes)} are excluded: {listed}.")
    if screening.QUEUE in found and (searched := thresholds.target_class(tables.classes_of(found), target)):
        order = np.argsort(-_numbers(path, f"p_{searched}", found[f"p_{searched}"]), kind="stable")
        found[screening.RANK] = np.argsort(order) + 1
        constants |= {screening.RANKED: float(len(order))}
    found = tables.keep_labelled(found)
    known = predictions.TRAINED in found
    if known:
        found, said = _exclude_trained(found)
        notes += said
    if "split" in found and (found["split"] == "test").any():
        found = tables.join_tables([tables.select_split(found, split) for split in ("test", "validation")])
    else:
        split = SPLIT if not known else SEEN if _is_true(found[predictions.TRAINED]).any() else UNSEEN
        found["split"] = np.full(len(found["id"]), split)
    if not len(found["id"]):
        raise InputError(f"{path}: no row has a label. Give labels with --labels.")
    if not tables.classes_of(found):
        found |= _split_score(path, found, target)
    classes = tables.classes_of(found)
    if "" in classes:
        raise InputError(f"{path}: the column p_ names no class. {EXPECTED}")
    probabilities = _check_probabilities(path, {f"p_{name}": found[f"p_{name}"] for name in classes})
    stacked = np.stack(list(probabilities.values()), 1)
    worst = np.abs(stacked.sum(1) - 1).argmax()
    if abs(stacked[worst].sum() - 1) > SUM_TOLERANCE:
        raise InputError(f"{path}: the columns p_* add up to {stacked[worst].sum():g} in row {worst + 1}, expected 1.")
    predicted = np.array(classes)[stacked.argmax(1)]
    read = {**found, **probabilities, "row": np.arange(len(predicted)), "predicted": predicted}
    judged = tables.select_split(read, "test") if "test" in read["split"] else read
    fitted = thresholds.fit(tables.select_split(read, "validation"), target)
    return judged, constants | thresholds.list_constants(fitted), notes


def read_alerts(path: Path) -> dict[str, np.ndarray]:
    """Read a table of classifications without labels.

    Parameters
    ----------
    path : Path
        CSV or parquet file with the columns ``id`` and ``p_<class>``.

    Returns
    -------
    dict of str to ndarray
        All columns (N,); ``q_<class>`` and ``predicted`` are derived from ``p_<class>`` if they are missing.

    Raises
    ------
    InputError
        If columns are missing or probabilities are outside [0, 1].
    """
    found = predictions.read(path)
    classes = tables.classes_of(found)
    if missing := [name for name, there in (("id", "id" in found), ("p_<class>", bool(classes))) if not there]:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}. Give a table that predict wrote.")
    probabilities = _check_probabilities(path, {f"p_{name}": found[f"p_{name}"] for name in classes})
    names = {name: text.check_names(found[name], f"{name}s", str(path)) for name in ("id", "object") if name in found}
    known = {name: _numbers(path, name, found[name]) for name in tables.PLACE if name in found}
    predicted = np.array(classes)[np.stack(list(probabilities.values()), 1).argmax(1)]
    calibrated = {f"q_{name}": probabilities[f"p_{name}"] for name in classes}
    return calibrated | {"predicted": predicted} | found | probabilities | names | known | _read_known(path, found)


def pivot(
    path: Path, found: dict[str, np.ndarray], classifier: str | None = None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Pivot ALeRCE's table of probabilities, with one row per object and class, to one row per object.

    Each object keeps its latest version of the classifier. Any other table is returned unchanged.

    Parameters
    ----------
    path : Path
        The file, for messages.
    found : dict of str to ndarray
        Its columns.
    classifier : str, optional
        Name of the classifier; by default `STAMP_CLASSIFIER` if the table has it, or the only one.

    Returns
    -------
    table : dict of str to ndarray
        Columns ``id`` and ``p_<class>``, with probability 0 for classes without a row.
    notes : list of str
        A sentence on the chosen classifier; empty for any other table.

    Raises
    ------
    InputError
        If the table lacks the classifier, or has several and none is chosen.
    """
    columns = {name.lower(): column for name, column in found.items()}
    held = {name: columns[one] for name, names in LONG_COLUMNS.items() for one in reversed(names) if one in columns}
    if tables.classes_of(found) or not {"oid", "class", "probability"} <= set(held):
        if classifier:
            raise InputError(f"--classifier {classifier}: {path} is not a table of oid, class and probability.")
        return found, []
    n = len(held["probability"])
    rows = {name: held[name].astype(str) if name in held else np.full(n, "") for name in LONG_COLUMNS}
    there = sorted(set(rows["classifier"].tolist()))
    chosen = classifier or (STAMP_CLASSIFIER if STAMP_CLASSIFIER in there else there[0] if len(there) == 1 else "")
    if chosen not in there:
        raise InputError(f"{path}: has the classifiers {', '.join(there)[:200]}. Choose one with --classifier NAME.")
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
    order = np.argsort(first)  # objects in the order of the table
    table = {f"p_{name}": share[order] for name, share in zip(classes.tolist(), shares, strict=True)}
    others = f"; the table also has {', '.join(one for one in there if one != chosen)}" if len(there) > 1 else ""
    name = chosen or "one classifier"
    return {"id": objects[order], **table}, [f"{len(objects):,} objects with probabilities by {name}{others}."]


def _take_constants(path: Path, found: dict[str, np.ndarray]) -> dict[str, float | None]:
    """Read the constants of a table from its metadata, or remove them from the columns of an older table."""
    constants = predictions.read_constants(path)
    for name in [name for name in found if name == conformal.COVERAGE or name.startswith(thresholds.PREFIX)]:
        values = {None if value != value else value for value in found.pop(name).tolist()}
        if len(values) == 1 and not isinstance(value := values.pop(), str):
            constants[name] = value
    return constants


def _exclude_trained(table: tables.Table) -> tuple[dict[str, np.ndarray], list[str]]:
    """Exclude objects that were used in training or model selection, unless all were; return a note on it, too."""
    trained, n = _is_true(table[predictions.TRAINED]), len(table["id"])
    count = f"{trained.sum():,} of" if trained.any() else "none of the"
    summary = f"{count} {n:,} labelled rows are of objects used in training or model selection"
    if not trained.any():
        return dict(table), [f"{summary}."]
    if trained.all():
        return dict(table), [f"{summary}; all rows are evaluated, so the numbers are optimistic."]
    return {name: column[~trained] for name, column in table.items()}, [f"{summary}; they are excluded."]


def _is_true(column: np.ndarray) -> np.ndarray:
    """Convert a column of bool, numbers or text to bool."""
    return np.isin(np.char.lower(column.astype(str)), ("true", "1", "1.0"))


def match_labels(path: Path, table: tables.Table) -> tuple[np.ndarray, str]:
    """Match a table of labels to the rows of a table.

    Parameters
    ----------
    path : Path
        CSV or parquet file with the columns of `data.labels.join_labels`.
    table : mapping of str to ndarray
        Predictions (N,).

    Returns
    -------
    labels : ndarray of str, shape (N,)
        Class of each row, "" for a row without a label.
    matches : str
        How many labels matched, as a sentence without its full stop.

    Raises
    ------
    InputError
        If columns are missing, a row has conflicting labels, or no label matches a row.
    """
    content = read_csv(path) if path.suffix == ".csv" else predictions.read(path)
    named = {
        k: _clean_labels(path, column) if k.strip().lower() in LABEL_COLUMNS else column
        for k, column in content.items()
    }
    known = join_labels(named, table, str(path), find_naming(table))
    keys = table[known.by].astype(str).tolist()
    if known.class_by_key:
        refuse_rounded(keys, known.by, "the table to be labelled")
    matches = known.match(keys)
    return np.array([known.class_by_key.get(key, "") for key in keys], dtype=str), matches


def find_queues(path: Path, table: tables.Table) -> dict[str, np.ndarray]:
    """Read the labelling queue of each row from a table of labels.

    A row that was drawn at random counts as random, even if another queue showed it to a second person.

    Parameters
    ----------
    path : Path
        CSV or parquet file of labels.
    table : mapping of str to ndarray
        Predictions (N,) with ``candid`` or ``id``.

    Returns
    -------
    dict of str to ndarray
        The column `screening.QUEUE` (N,) str, "" for rows without a label; empty if the labels have no such column.
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
    """Return the class names of a table and of ALeRCE, for translating labels; unknown labels are kept."""
    return Naming(tuple(dict.fromkeys([*tables.classes_of(table), *CLASSES])), others="keep")


def _clean_labels(path: Path, labels: Iterable[Any]) -> np.ndarray:
    """Return labels as text, "" for a missing one."""
    texts = ["" if label is None or label != label else str(label) for label in labels]
    return text.check_names(texts, "labels", str(path))


def _read_known(path: Path, found: tables.Table) -> dict[str, np.ndarray]:
    """Convert the calibrated probabilities and the metadata of a table to numbers."""
    names = [name for name in found if name.startswith("q_") or name in tables.METADATA]
    return {name: _numbers(path, name, found[name]) for name in names}


def _numbers(path: Path, name: str, column: np.ndarray) -> np.ndarray:
    """Convert a column to float64, or raise InputError with its name."""
    try:
        return column.astype(np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{path}: column {name} is not numeric. Give numbers.") from None


def _split_score(path: Path, found: tables.Table, target: str) -> dict[str, np.ndarray]:
    """Return p_<class> of two classes from the column score, the target last."""
    labels = [str(name) for name in np.unique(found["label"])]
    if len(labels) != 2:
        listed = ", ".join(labels[:8])
        raise InputError(f"{path}: score needs two labels, there are {len(labels)}: {listed}. {EXPECTED}")
    score, chosen = _check_probabilities(path, {"score": found["score"]})["score"], metrics.positive(labels, target)
    other = next(name for name in labels if name != chosen)
    return {f"p_{other}": 1 - score, f"p_{chosen}": score}


def _check_probabilities(path: Path, columns: tables.Table) -> dict[str, np.ndarray]:
    """Convert columns to float64; raise InputError if values are not probabilities."""
    checked = {}
    for name, column in columns.items():
        checked[name] = _numbers(path, name, column)
        wrong = np.flatnonzero(~((checked[name] >= 0) & (checked[name] <= 1)))
        if len(wrong):
            raise InputError(
                f"{path}: column {name} is {checked[name][wrong[0]]:g} in row {wrong[0] + 1}; {len(wrong)} rows are "
                "outside 0 to 1. Give probabilities."
            )
    return checked
