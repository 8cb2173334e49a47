"""Figures of a run, from tables of numbers."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from alerce_early.data.pictures import CHANNELS, mosaic, trace


def confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """(C, C) counts, row: true class; colour and percentage by row."""
    rates = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(1.1 * len(classes) + 1.2, 1.0 * len(classes) + 1), layout="constrained")
    axes = figure.add_subplot(xlabel="predicted", ylabel="true")
    axes.imshow(rates, cmap="Blues", vmin=0, vmax=1)
    for (row, column), rate in np.ndenumerate(rates):
        colour = "white" if rate > 0.6 else "black"
        text = f"{100 * rate:.0f} %\n{counts[row, column]}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(classes)), list(classes))
    axes.set_yticks(range(len(classes)), list(classes))
    return figure


def curves(history: Sequence[Mapping[str, float]], best_epoch: int | None) -> Figure:
    """Loss and recalls against epoch; the epoch of the best checkpoint is marked."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    shared = [name for name in history[0] if name.startswith("val/")] if history else []
    recalls = [name for name in shared if name.startswith("val/recall/")]
    chosen = {
        left: [name for name in ("train/loss", "val/loss") if history and name in history[0]],
        right: [name for name in shared if name in ("val/accuracy", "val/balanced_accuracy")] + recalls,
    }
    for axes, names in chosen.items():
        for name in names:
            width = 2.2 if name in ("val/loss", "val/balanced_accuracy") else 1.1
            style = "--" if name in recalls else "-"
            axes.plot(epochs, [row[name] for row in history], style, lw=width, label=name.split("/", 1)[-1])
        if best_epoch is not None:
            axes.axvline(best_epoch, color="grey", lw=0.8, ls=":")
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    for axes, labels in ((left, ["training", "validation"]), (right, None)):
        if labels and len(chosen[axes]) == len(labels):
            axes.legend(labels, fontsize=8, frameon=False)
    left.set_title("loss", fontsize=10)
    right.set_title("validation", fontsize=10)
    return figure


def gallery(images: np.ndarray, captions: Sequence[str], columns: int = 4) -> Figure:
    """Examples with captions: (N, C, H, W) stamps, the first channels side by side, or (N, C, L) spectra."""
    columns = min(columns, max(len(images), 1))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.9 * columns, 1.35 * rows + 0.3), layout="constrained")
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_visible(index < len(images))
        if index < len(images):
            if images.ndim == 4:
                mosaic(axes, images[index : index + 1, : len(CHANNELS)])
            else:
                trace(axes, images[index, 0])
            axes.set_title(captions[index], fontsize=7.5)
    return figure


def mistakes(
    table: Mapping[str, np.ndarray],
    classes: Sequence[str],
    images: Callable[[np.ndarray], np.ndarray],
    most: int = 16,
) -> Figure | None:
    """The most confident mistakes of a table, as pictures with id, true and predicted class and probability.

    images: row numbers (n,) to (n, C, ...). None if there is no mistake.
    """
    confidence = np.max([table[f"p_{name}"] for name in classes], axis=0)
    wrong = np.flatnonzero(table["label"] != table["predicted"])
    shown = wrong[np.argsort(-confidence[wrong], kind="stable")][:most]
    if not len(shown):
        return None
    captions = [
        f"{table['id'][i]}\n{table['label'][i]} taken for {table['predicted'][i]}, p = {confidence[i]:.2f}"
        for i in shown
    ]
    return gallery(images(table["row"][shown]), captions)
