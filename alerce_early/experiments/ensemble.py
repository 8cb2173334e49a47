"""Combine the networks of a sweep over folds into one, evaluated on rows that the predicting members have not seen."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from sklearn.ensemble import RandomForestClassifier
from sklearn.utils.class_weight import compute_sample_weight

from alerce_early.artifacts import checkpoints, predictions
from alerce_early.artifacts.run_folder import Run, flatten_config
from alerce_early.data.datamodule import AlertData
from alerce_early.data.records import MISSING
from alerce_early.data.text import hash_objects
from alerce_early.errors import InputError
from alerce_early.evaluation import tables, thresholds
from alerce_early.experiments.compare import POOLED_KEYS
from alerce_early.experiments.instantiate import make_data
from alerce_early.experiments.run import describe_data, evaluate, fit_on_validation, make_constants, make_fit_columns
from alerce_early.models.ensemble import clamped_log
from alerce_early.report import run_page
from alerce_early.tasks import restore

log = logging.getLogger(__name__)


def combine_runs(
    runs: Sequence[Run], folder: Path, features: Sequence[str] = (), trees: int = 200, leaf: int = 2
) -> Run:
    """Combine the networks of a sweep over folds into one, optionally with a random forest on metadata.

    The logarithms of the members' probabilities are averaged, and the logarithm of the forest's probability is added.

    Parameters
    ----------
    runs : sequence of Run
        Finished runs that differ only in their test fold and their seed.
    folder : Path
        Folder of the new run; a number is appended if it exists.
    features : sequence of str
        Metadata columns of the forest; empty for no forest. If the networks were trained on simulated rows, so is the
        forest.
    trees, leaf : int
        Number of trees, and minimum number of rows in a leaf.

    Returns
    -------
    Run
        The new run. Its predictions are out of fold, and calibration and prediction sets are fitted to them.

    Raises
    ------
    InputError
        If a fold is missing, or the runs have different options or data.
    """
    options = [flatten_config(run.config()) for run in runs]
    differ = {key for one in options for key in one if one[key] != options[0].get(key)} - POOLED_KEYS
    if differ:
        keys = ", ".join(sorted(differ))
        raise InputError(f"{runs[0].path.parent}: its runs differ in {keys}. Give each sweep its own name=.")
    loaded = [checkpoints.read(run.best) for run in runs]
    config = runs[0].config()
    used = [name for one in loaded for name in one["hyper_parameters"]["spec"]["features"]]
    config.features.names = list(dict.fromkeys([*used, *features]))
    data = make_data(config)
    if any(one["hyper_parameters"]["spec"]["fingerprint"] != data.spec.fingerprint for one in loaded):
        raise InputError(f"{runs[0].path.parent}: its runs were trained on different data. Run the sweep again.")
    table, fold = _judge_out_of_fold(runs, data)
    evidence = _log(tables.probabilities(table, data.classes))
    net: dict[str, Any] = {"_target_": "alerce_early.models.ensemble.Ensemble"}
    net |= {"members": [_describe(one) for one in loaded]}
    weights = {
        f"members.{i}.{name}": weight for i, one in enumerate(loaded) for name, weight in one["state_dict"].items()
    }
    if features:
        truth, columns = data.labels[table["row"]], _metadata(data, features, table["row"])
        simulated = data.simulated_rows

        def grow(chosen: np.ndarray) -> RandomForestClassifier:
            """Grow a forest on these rows and all simulated rows, weighted as in a training batch."""
            forest = RandomForestClassifier(n_estimators=trees, min_samples_leaf=leaf, random_state=config.seed)
            rows, labels, weights = columns[chosen], truth[chosen], compute_sample_weight("balanced", truth[chosen])
            if len(simulated):
                added = compute_sample_weight("balanced", data.labels[simulated]) * len(labels) / len(simulated)
                weights = np.append(weights, added * data.n_simulated / (data.batch_size - data.n_simulated))
                rows = np.concatenate([rows, _metadata(data, features, simulated)])
                labels = np.append(labels, data.labels[simulated])
            return forest.fit(rows, labels, weights)

        for k in np.unique(fold):
            evidence[fold == k] += _log(grow(fold != k).predict_proba(columns[fold == k]))
        at = [data.feature_names.index(name) for name in features]
        net["forest"], tensors = to_tensors(grow(fold >= 0), at)
        weights |= {f"forest.{name}": tensor for name, tensor in tensors.items()}

    shares = torch.from_numpy(evidence).softmax(1).numpy().astype(np.float32)
    table |= {f"p_{name}": shares[:, i] for i, name in enumerate(data.classes)}
    table["predicted"] = np.array(data.classes)[shares.argmax(1)]
    loaded[0]["hyper_parameters"] |= {"net": net, "spec": data.spec.plain()}
    loaded[0]["state_dict"] = {f"net.{name}": weight for name, weight in weights.items()}
    return _write(folder, config, loaded[0], table, runs, data)


def _describe(checkpoint: checkpoints.Checkpoint) -> dict[str, Any]:
    """Return the options of `models.ensemble.Member`, without spec."""
    options = checkpoint["hyper_parameters"]
    columns = {name: list(options["spec"][name]) for name in ("features", "feature_mean", "feature_std")}
    return {"net": options["net"], **columns}


def _judge_out_of_fold(runs: Sequence[Run], data: AlertData) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return a table of the test rows of all runs and their folds (N,); over runs, log probabilities are averaged.

    Raises InputError if a labelled row is in no test split.
    """
    parts = [tables.keep_labelled(tables.select_split(predictions.read(run.predictions), "test")) for run in runs]
    judged = np.concatenate([part["row"] for part in parts])
    own = True if data.store.part is None else ~np.isin(data.store.part, ("extra", "simulated"))
    if lacking := len(np.setdiff1d(np.flatnonzero(own & (data.labels >= 0)), judged)):
        folder = runs[0].path.parent
        raise InputError(f"{folder}: {lacking} labelled rows are in no test split. Run all folds.")
    rows, first, at = np.unique(judged, return_index=True, return_inverse=True)
    kept = [name for name in parts[0] if name in ("id", "object", "row", "split", "label", *tables.METADATA)]
    table = {name: np.concatenate([part[name] for part in parts])[first] for name in kept}
    evidence = np.zeros((len(rows), len(data.classes)))
    np.add.at(evidence, at, np.concatenate([_log(tables.probabilities(part, data.classes)) for part in parts]))
    shares = torch.from_numpy(evidence / np.bincount(at)[:, None]).softmax(1).numpy()
    fold = np.repeat([run.config().data.split.fold for run in runs], [len(part["row"]) for part in parts])
    return table | {f"p_{name}": shares[:, i] for i, name in enumerate(data.classes)}, fold[first]


def _write(
    folder: Path,
    config: DictConfig,
    checkpoint: checkpoints.Checkpoint,
    table: dict[str, np.ndarray],
    members: Sequence[Run],
    data: AlertData,
) -> Run:
    """Write the combined network as a finished run."""
    fits = fit_on_validation({**table, "split": np.full(len(table["row"]), "validation")}, config)
    table |= make_fit_columns(fits, table)
    constants = make_constants(fits)
    trained_on = hash_objects([], *(checkpoints.read(one.best).get("trained_on") or "" for one in members))
    kept = {name: checkpoint[name] for name in ("format", "task", "hyper_parameters", "state_dict")}
    run = Run.new(folder)
    config.model.net, config.data.split.fold = checkpoint["hyper_parameters"]["net"], None
    run.begin(config)
    run.best.parent.mkdir()
    points = thresholds.fit_percents(table)
    checkpoints.save({**kept, **fits, "operating_points": points, "trained_on": trained_on}, run.best)
    predictions.write(run.predictions, table, constants)
    result = {
        **{name: members[0].result[name] for name in ("origin", "epochs", "best_epoch", "precision")},
        **evaluate(table, constants, config.target_class, config.metrics),
        "target_class": config.target_class,
        **fits,
        "members": [str(one.path) for one in members],
        "parameters": sum(weight.numel() for weight in restore.task(run.best).parameters()),
        "training_seconds": round(sum(one.result["training_seconds"] for one in members), 2),
    }
    weights = kept["state_dict"]
    run_page.write_run_page(run, config, table, result, describe_data(data), weights)
    run.write_json("metrics.json", result)
    log.info("%s", run_page.headline_text(result, table))
    return run


def _log(probabilities: np.ndarray) -> np.ndarray:
    """Return the logarithm of clamped probabilities, float64."""
    return clamped_log(torch.from_numpy(np.asarray(probabilities, dtype=np.float64))).numpy()


def _metadata(data: AlertData, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """Return metadata columns (N, F) float32 as in deployment, with -999 for missing values."""
    found = data.metadata(names, rows)
    return np.nan_to_num(np.stack([found[name] for name in names], 1), nan=MISSING).astype(np.float32)


def to_tensors(
    forest: RandomForestClassifier, columns: Sequence[int]
) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
    """Convert a random forest to the options and tensors of `models.ensemble.Forest`.

    Parameters
    ----------
    forest : RandomForestClassifier
        A fitted forest.
    columns : sequence of int
        Index, among the features of the network, of each feature of the forest.

    Returns
    -------
    options : dict of str to int
        Number of trees and nodes, and depth.
    tensors : dict of str to Tensor
        One entry per node, over all trees: column, threshold, children and class probabilities; and the roots.
    """
    trees = [estimator.tree_ for estimator in forest.estimators_]
    starts = np.cumsum([0, *(tree.node_count for tree in trees)])
    inner = np.concatenate([tree.children_left >= 0 for tree in trees])
    own = np.arange(starts[-1])

    def children(side: str) -> np.ndarray:
        return np.concatenate([getattr(tree, side) + start for tree, start in zip(trees, starts[:-1], strict=True)])

    threshold = np.concatenate([tree.threshold for tree in trees])
    rounded = threshold.astype(np.float32)
    # round down: no float32 value lies between the two thresholds, so every row takes the same branch as before
    rounded = np.where(rounded > threshold, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    tensors = {
        "column": np.where(inner, np.take(columns, np.concatenate([tree.feature for tree in trees]), mode="clip"), 0),
        "threshold": rounded,
        "below": np.where(inner, children("children_left"), own),
        "above": np.where(inner, children("children_right"), own),
        "probabilities": np.concatenate([tree.value[:, 0] for tree in trees]).astype(np.float32),
        "root": starts[:-1],
    }
    options = {"trees": len(trees), "nodes": int(starts[-1]), "depth": max(tree.max_depth for tree in trees)}
    return options, {name: torch.from_numpy(values) for name, values in tensors.items()}
