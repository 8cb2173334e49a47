"""What could be had without a network: the majority class, and a forest on metadata alone."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from alerce_early.evaluation import comparison, drift, tables
from alerce_early.evaluation.comparison import Outcome
from alerce_early.evaluation.kinds import Classification

TREES = 100

# Columns from which the labels of some classes were made: whoever may see them need not look at the sky.
GIVES_AWAY = {
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
    """Train baselines on training rows and judge them on the rows of a table; returns plain values.

    table: the judged rows of a run (M,), columns id, row, label and p_<class>; for a table without classes there is
    nothing. columns: (M, F) their metadata called names (F,); train_labels: (N,) int64, train_columns: (N, F).
    present: the classes of the file that these rows are of, before any grouping. taught: (M, classes) probabilities of
    the network that taught this one, or None. Returns {"majority", "teacher" if there is one, "metadata": {"n",
    "values", "intervals"}, "importances": {column: share of the impurity it removed}, "left_out": columns that give
    labels away, "paired": {test: p} of run against forest, "drift": see `drift.find_drift`}; without usable columns
    "skipped" says why and only "majority" is there.
    """
    classes = tables.classes_of(table)
    if not classes:
        return {}
    shares = np.bincount(train_labels, minlength=len(classes)) / len(train_labels)
    result: dict[str, Any] = {"majority": _summarise(_as_table(table, classes, np.tile(shares, (len(columns), 1))))}
    if taught is not None:
        result["teacher"] = _summarise(_as_table(table, classes, taught))
    result["left_out"] = [name for name in names if GIVES_AWAY.get(name, set()) & set(present)]
    used = [i for i, name in enumerate(names) if name not in result["left_out"]]
    if not used:
        return result | {"skipped": "These data have no metadata that a model without images could use."}

    train, test = (np.asarray(values, dtype=np.float32)[:, used] for values in (train_columns, columns))
    forest = RandomForestClassifier(TREES, class_weight="balanced", random_state=seed, n_jobs=-1)
    forest.fit(train, train_labels)
    guessed = _as_table(table, classes, forest.predict_proba(test))
    kept = [names[i] for i in used]
    return result | {
        "metadata": _summarise(guessed),
        "importances": dict(zip(kept, forest.feature_importances_.tolist(), strict=True)),
        "paired": comparison.compare_paired(Outcome.of([table]), Outcome.of([guessed])),
        "drift": drift.find_drift(train, test, kept),
    }


def _as_table(table: tables.Table, classes: tuple[str, ...], probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rows of a table with other probabilities (N, C)."""
    columns = {f"p_{name}": probabilities[:, i] for i, name in enumerate(classes)}
    return {name: table[name] for name in ("id", "object", "row", "label") if name in table} | columns


def _summarise(table: Mapping[str, np.ndarray]) -> dict[str, Any]:
    judged = Classification().summarise(table)
    return {name: judged[name] for name in ("n", "values", "intervals")}
