"""What could be had without a network: the commonest class, and a forest on metadata alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from alerce_early import tables
from alerce_early.data.datamodule import AlertData
from alerce_early.data.records import UNLABELLED
from alerce_early.evaluation import comparison, drift
from alerce_early.evaluation.classification import WORDS, numbers
from alerce_early.evaluation.comparison import Outcome
from alerce_early.report.page import Section, number

TREES = 100
SHOWN = 8  # of the most important columns

# Columns from which the labels of some classes were made: whoever may see them need not look at the sky.
GIVES_AWAY = {
    "rb": {"bogus"},
    "z": {"STAR", "GALAXY", "QSO", "QSO_BAL"},
    "z_conf": {"STAR", "GALAXY", "QSO", "QSO_BAL"},
}


def evaluate_baselines(data: AlertData, table: tables.Table, seed: int = 0) -> dict[str, Any]:
    """Baselines trained on the training rows of a split and judged on the rows of a table, as plain values.

    table: the judged rows of a run, columns id, row, label and p_<class>; for a table without classes there is
    nothing. Returns {"majority", "metadata": {"n", "values", "intervals"}, "importances": {column: share of
    the impurity it removed}, "left_out": columns that give labels away, "paired": {test: p} of run against forest,
     "drift": see `drift.drifted`}; without usable columns "skipped" says why and only "majority" is there.
    """
    classes = tables.classes_of(table)
    if not classes:
        return {}
    train, test = data.parts["train"], table["row"]
    shares = np.bincount(data.labels[train], minlength=len(classes)) / len(train)
    result: dict[str, Any] = {"majority": _summarise(_as_table(table, classes, np.tile(shares, (len(test), 1))))}
    names = list(data.store.meta["features"])
    known = np.array(data.store.meta["classes"])
    original = data.store.labels[np.concatenate([train, test])]  # of groups, the classes inside
    present = set(known[original[original != UNLABELLED]].tolist())
    result["left_out"] = [name for name in names if GIVES_AWAY.get(name, set()) & present]
    used = [i for i, name in enumerate(names) if name not in result["left_out"]]
    if not used:
        return result | {"skipped": "These data have no metadata that a model without images could use."}

    values = np.asarray(data.store.features, dtype=np.float32)[:, used]
    forest = RandomForestClassifier(TREES, class_weight="balanced", random_state=seed, n_jobs=-1)
    forest.fit(values[train], data.labels[train])
    guessed = _as_table(table, classes, forest.predict_proba(values[test]))
    columns = [names[i] for i in used]
    labels = tables.label_indices(table, classes)
    return result | {
        "metadata": _summarise(guessed),
        "importances": dict(zip(columns, forest.feature_importances_.tolist(), strict=True)),
        "paired": comparison.compare_paired(Outcome.of([table]), Outcome.of([guessed])),
        "drift": drift.find_drift(values[train], values[test], columns, data.labels[train], labels, seed),
    }


def section(result: Mapping[str, Any], judged: Mapping[str, Any]) -> Section:
    """Return what the page says; result: of `beside`; judged: the run's own numbers on the same rows."""
    rows = {"this network": judged, "metadata alone": result.get("metadata"), "commonest class": result["majority"]}
    names = [name for name in WORDS if name in judged["values"]]
    table = [
        [told, *(number(of["values"][name], of["intervals"][name]) for name in names)]
        for told, of in rows.items()
        if of is not None
    ]
    page = Section("What the images bought", tables=[(("", *[WORDS[name] for name in names]), table)])
    if "skipped" in result:
        page.words.append(result["skipped"])
        return page
    left_out = f" Not {', '.join(result['left_out'])}: labels were made with it." if result["left_out"] else ""
    told = "; ".join(f"{test}: {comparison.verdict(p)}" for test, p in result["paired"].items())
    page.words.append(
        f"A random forest of {TREES} trees on {len(result['importances'])} metadata columns, trained and judged on the "
        f"same rows.{left_out} Network against forest: {told}."
    )
    ranked = sorted(result["importances"].items(), key=lambda pair: -pair[1])[:SHOWN]
    page.tables.append((("most important columns", "share"), [[name, f"{share:.3f}"] for name, share in ranked]))
    if result["drift"]:
        page.words.append(
            "Some columns are distributed otherwise in the judged rows than in training, at equal shares of the "
            "classes (Kolmogorov-Smirnov, p < 0.05 over all columns together); what rests on them may not carry over."
        )
        header = ("drifted columns", "KS", "p", "PSI", "median in training", "here")
        page.tables.append((header, [_drift_row(one) for one in result["drift"]]))
    else:
        page.words.append("No metadata column is distributed otherwise in the judged rows than in training.")
    return page


def _drift_row(one: Mapping[str, Any]) -> list[str]:
    return [
        one["column"],
        f"{one['ks']:.2f}",
        f"{one['p']:.1e}",
        f"{one['psi']:.2f}",
        f"{one['median']:.3g}",
        f"{one['other_median']:.3g}",
    ]


def _as_table(table: tables.Table, classes: tuple[str, ...], probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rows of a table with other probabilities (N, C)."""
    columns = {f"p_{name}": probabilities[:, i] for i, name in enumerate(classes)}
    return {name: table[name] for name in ("id", "row", "label")} | columns


def _summarise(table: tables.Table) -> dict[str, Any]:
    judged = numbers(table)
    return {name: judged[name] for name in ("n", "values", "intervals")}
