"""Baselines without images: the majority class, and a random forest on the metadata."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from alerce_early.evaluation import comparison, drift, tables
from alerce_early.evaluation.comparison import Outcome
from alerce_early.evaluation.kinds import Classification

N_TREES = 100

# Columns that the labels of these classes were derived from, which would give the labels away.
LEAKS = {
    "rb": {"bogus"},
    "z": {"STAR", "GALAXY", "QSO", "QSO_BAL"},
    "z_conf": {"STAR", "GALAXY", "QSO", "QSO_BAL"},
}


def evaluate_baselines(
    table: tables.Table,
    columns: np.ndarray,
    train_labels: np.ndarray,
    train_columns: np.ndarray,
    *,
    names: Sequence[str],
    present: Collection[str],
    seed: int = 0,
    taught: np.ndarray | None = None,
) -> dict[str, Any]:
    """Train the baselines on the training rows and evaluate them on the rows of a table.

    Parameters
    ----------
    table : mapping of str to ndarray
        Evaluated rows of a run (M,): columns ``id``, ``row``, ``label`` and ``p_<class>``.
    columns : ndarray
        (M, F) metadata of these rows.
    train_labels : ndarray
        (N,) int64.
    train_columns : ndarray
        (N, F) metadata of the training rows.
    names : sequence of str
        The F column names.
    present : collection of str
        Classes of the file, before any grouping.
    seed : int
        Seed of the forest.
    taught : ndarray, optional
        (M, classes) probabilities of the teacher, if the network was distilled from one.

    Returns
    -------
    dict
        Plain values: "majority", "metadata" and, given `taught`, "teacher", each {"n", "values", "intervals"};
        "importances", {column: decrease of impurity, normalised}; "left_out", columns that leak labels; "paired",
        {test: p} of run against forest; "drift", see `drift.find_drift`. Without usable columns "skipped" gives the
        reason; empty for a table without classes.
    """
    classes = tables.classes_of(table)
    if not classes:
        return {}
    shares = np.bincount(train_labels, minlength=len(classes)) / len(train_labels)
    result: dict[str, Any] = {"majority": _summarise(_as_table(table, classes, np.tile(shares, (len(columns), 1))))}
    if taught is not None:
        result["teacher"] = _summarise(_as_table(table, classes, taught))
    result["left_out"] = [name for name in names if LEAKS.get(name, set()) & set(present)]
    used = [i for i, name in enumerate(names) if name not in result["left_out"]]
    if not used:
        return result | {"skipped": "These data have no metadata columns for a random forest."}

    train, test = (np.asarray(values, dtype=np.float32)[:, used] for values in (train_columns, columns))
    forest = RandomForestClassifier(N_TREES, class_weight="balanced", random_state=seed, n_jobs=-1)
    forest.fit(train, train_labels)
    predicted = _as_table(table, classes, forest.predict_proba(test))
    used_names = [names[i] for i in used]
    return result | {
        "metadata": _summarise(predicted),
        "importances": dict(zip(used_names, forest.feature_importances_.tolist(), strict=True)),
        "paired": comparison.compare_paired(Outcome.of([table]), Outcome.of([predicted])),
        "drift": drift.find_drift(train, test, used_names),
    }


def _as_table(table: tables.Table, classes: tuple[str, ...], probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Return the table with its probabilities replaced by these, (N, C)."""
    columns = {f"p_{name}": probabilities[:, i] for i, name in enumerate(classes)}
    return {name: table[name] for name in ("id", "object", "row", "label") if name in table} | columns


def _summarise(table: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return {"n", "values", "intervals"} of a table."""
    evaluated = Classification().summarise(table)
    return {name: evaluated[name] for name in ("n", "values", "intervals")}
