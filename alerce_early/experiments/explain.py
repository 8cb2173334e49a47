"""Figures of layer-wise relevance: which pixels and metadata columns drove a prediction."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alerce_early.artifacts.run_folder import Run
from alerce_early.data.datamodule import AlertData
from alerce_early.data.recipe import Mask, Recipe, TwoScales
from alerce_early.errors import InputError
from alerce_early.experiments.config import folder_name
from alerce_early.experiments.instantiate import make_data
from alerce_early.models.ensemble import Ensemble
from alerce_early.models.relevance import Relevance, explain
from alerce_early.report import pictures
from alerce_early.tasks import restore
from alerce_early.tasks.base import Task
from alerce_early.tasks.classify import ClassifyTask

N_SHOWN_COLUMNS = 10  # metadata columns in a figure


def explain_rows(task: Task, data: AlertData, rows: np.ndarray, rule: str) -> tuple[np.ndarray, Relevance]:
    """Compute the relevance of all inputs for rows of a store.

    Parameters
    ----------
    task : Task
        The trained classifier.
    data : AlertData
        The data module of its run.
    rows : ndarray
        Row numbers, (n,) int.
    rule : str
        Rule of relevance propagation, see `models.relevance.explain`.

    Returns
    -------
    stamps : ndarray
        Preprocessed stamps, (n, C, S, S) float32.
    found : Relevance
        Relevance of the pixels and metadata.
    """
    image = task.recipe.finish(torch.from_numpy(np.array(data.store.images[rows])))
    known = list(data.store.meta["features"])
    columns = data.store.features[rows][:, [known.index(name) for name in task.spec.features]]
    batch = {"image": image, "features": torch.from_numpy(columns.astype(np.float32))}
    mean = torch.tensor(task.spec.feature_mean)  # the reference without information, unless the network defines another
    found = explain(task.net.eval(), batch, rule, {"features": getattr(task.net, "neutral", mean)})
    return image.numpy(), found


def draw_relevance(
    stamp: np.ndarray, relevance: np.ndarray, channels: Sequence[str], title: str, columns: Sequence[tuple[str, float]]
) -> Figure:
    """Draw a stamp above its relevance, with a bar chart of metadata.

    Parameters
    ----------
    stamp, relevance : ndarray
        Preprocessed stamp and its relevance, (C, S, S).
    channels : sequence of str
        Names of the channels.
    title : str
        Title of the figure.
    columns : sequence of (str, float)
        Relevance of metadata columns, by name; empty for no bar chart.

    Returns
    -------
    matplotlib.figure.Figure
        Red supports the class and blue contradicts it, on one scale for all channels.
    """
    figure = Figure(figsize=(2.1 * len(stamp) + (3.2 if columns else 0.8), 4.9), layout="constrained")
    figure.suptitle(title, fontsize=9)
    widths = [1.0] * len(stamp) + ([1.2] if columns else [])
    axes = figure.subplots(2, len(widths), squeeze=False, width_ratios=widths)
    limit = float(np.abs(relevance).max()) or 1.0
    for i, name in enumerate(channels):
        axes[0, i].imshow(pictures.stretch(stamp[i]), cmap="gray", interpolation="nearest")
        heat = axes[1, i].imshow(relevance[i], cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axes[0, i].set_title(name if stamp[i].any() else f"{name}: nowhere", fontsize=9)
        axes[1, i].set_xlabel(f"sum {relevance[i].sum():+.2g}", fontsize=8)
        for one in axes[:, i]:
            one.set(xticks=[], yticks=[])
    bar = figure.colorbar(heat, ax=axes[1, : len(stamp)], location="bottom", shrink=0.6, aspect=40)
    bar.set_label("relevance of a pixel, in units of the logit", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    if columns:
        axes[0, -1].set_visible(False)
        _draw_bars(axes[1, -1], columns)
    return figure


def _draw_bars(axes: Axes, columns: Sequence[tuple[str, float]]) -> None:
    """Draw a bar chart of the relevance of metadata columns."""
    names, values = zip(*reversed(columns), strict=True)
    axes.barh(names, values, color=["tab:red" if value > 0 else "tab:blue" for value in values])
    axes.set_title("metadata", fontsize=9)
    axes.tick_params(labelsize=7)
    axes.axvline(0, color="0.5", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def name_channels(raw: Sequence[str], recipe: Recipe) -> list[str]:
    """Name the channels of preprocessed stamps.

    Parameters
    ----------
    raw : sequence of str
        Names of the channels before preprocessing.
    recipe : Recipe
        The recipe, whose steps may add channels.

    Returns
    -------
    list of str
        One name per channel of the network's input.
    """
    names = list(raw)
    for step in (*recipe.before, *recipe.after):
        if isinstance(step, Mask):
            names.append("no data")
        elif isinstance(step, TwoScales):
            names += [f"{name}, whole" for name in names]
    return names


def _make_title(task: Task, data: AlertData, row: int, found: Relevance, i: int) -> str:
    """Return true and predicted class of a row, and its logit as a sum of relevances."""
    label = data.labels[row]
    true = task.spec.classes[label] if label >= 0 else "unknown"
    parts = {"stamps": found.parts["image"][i].sum()}
    if task.spec.features:
        parts["metadata"] = found.parts["features"][i].sum()
    terms = " ".join(f"{value.item():+.2g} {name}" for name, value in (parts | {"biases": found.biases[i]}).items())
    predicted = task.spec.classes[int(found.predicted[i])]
    return (
        f"{data.store.ids[row]} (row {row}): true {true}, predicted {predicted}\n"
        f"logit of {predicted} {found.logit[i].item():.3g} = {terms}"
    )


def write_relevance(run: Run, ids: Sequence[str], folder: Path, rule: str) -> list[Path]:
    """Draw the relevance of all rows of some objects.

    Parameters
    ----------
    run : Run
        A finished run of a stamp classifier.
    ids : sequence of str
        Names of objects in the data of the run.
    folder : Path
        Folder of the PNG files.
    rule : str
        Rule of relevance propagation, see `models.relevance.explain`.

    Returns
    -------
    list of Path
        One file per row.

    Raises
    ------
    InputError
        If an object is unknown, or the run is not a single classifier of stamps.
    """
    config = run.config()
    task = restore.task(run.trained())
    if not isinstance(task, ClassifyTask):
        raise InputError(f"{run.path}: {config.model.name} is not a classifier. Choose a run of a classifier.")
    if isinstance(task.net, Ensemble):
        raise InputError(
            f"{run.path}: an ensemble cannot be explained. Choose one of the runs under members in its metrics.json."
        )
    data = make_data(config)
    unknown = sorted(set(ids) - set(data.store.ids.tolist()))
    if unknown:
        raise InputError(
            f"--id {unknown[0]}: no such object in {data.store.meta['origin']}. Choose one in its predictions.parquet."
        )
    if task.spec.kind != "stamps":
        raise InputError(f"{run.path}: {config.model.name} classifies {task.spec.kind}. Choose a run with stamps.")
    rows = np.flatnonzero(np.isin(data.store.ids, list(ids)))
    stamps, found = explain_rows(task, data, rows, rule)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for i, row in enumerate(rows.tolist()):
        parts = found.parts["features"][i].tolist() if task.spec.features else []
        columns = zip(task.spec.features, parts, strict=True)
        shown = sorted(columns, key=lambda pair: -abs(pair[1]))[:N_SHOWN_COLUMNS]
        channels = name_channels(data.store.meta["channels"], task.recipe)[: stamps.shape[1]]
        figure = draw_relevance(
            stamps[i], found.parts["image"][i].numpy(), channels, _make_title(task, data, row, found, i), shown
        )
        files.append(folder / f"{folder_name(data.store.ids[row])}_{row}.png")
        pictures.save(figure, files[-1])
    return files
