"""Figures of a run, from tables of numbers."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from alerce_early.report.pictures import mosaic, trace

MOST_CHANNELS = 4  # shown of a stamp


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


def by_class(counts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Of each class against the rest: precision against recall, and recall against the false positive rate.

    counts: by class (K,) own rows and (K,) others at or above falling thresholds, see `metrics.Ranking`.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    precision, recall = figure.subplots(1, 2)
    for name, (own, others) in counts.items():
        precision.plot(own / own[-1], own / (own + others), label=name, lw=1.4)
        recall.plot(others / others[-1], own / own[-1], label=name, lw=1.4)
    precision.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    recall.set(xlabel="false positive rate", ylabel="recall", xscale="log", xlim=(1e-3, 1), ylim=(0, 1.02))
    recall.legend(fontsize=8, frameon=False)
    for axes in (precision, recall):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def curves(history: Sequence[Mapping[str, float]], best_epoch: int | None, scores: Sequence[str]) -> Figure:
    """Losses and scores against epoch; the epoch of the best checkpoint is marked.

    scores: names of validation numbers; one that ends in "/" stands for all below it, drawn thinner.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    epochs = [row["epoch"] for row in history]
    known = [name for name in history[0] if name.startswith("val/")] if history else []
    chosen = [name for score in scores for name in known if name == f"val/{score}"]
    chosen += [name for score in scores for name in known if score.endswith("/") and name.startswith(f"val/{score}")]
    losses = {"train/loss": "training", "val/loss": "validation"}
    named = {name: name.split("/", 1)[-1].replace("_", " ") for name in chosen}
    for axes, title, names in zip(figure.subplots(1, 2), ("loss", "validation"), (losses, named), strict=True):
        for name, told in names.items():
            if history and name in history[0]:
                style = {"ls": "--", "lw": 1.1} if name.count("/") > 1 else {"lw": 1.8}
                marker = "o" if len(epochs) == 1 else None  # a line of one point does not show
                axes.plot(epochs, [row[name] for row in history], label=told, marker=marker, **style)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="grey", lw=0.8, ls=":")
        axes.set_xlabel("epoch")
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    return figure


def predicted_against_true(true: np.ndarray, predicted: np.ndarray, labels: np.ndarray, bound: np.ndarray) -> Figure:
    """Predicted against true values (N,), a colour for each label; bound: error (N,) that is still tolerated."""
    figure = Figure(figsize=(5.2, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="true", ylabel="predicted", aspect="equal")
    order = np.argsort(true)
    axes.fill_between(true[order], (true - bound)[order], (true + bound)[order], color="0.85", lw=0)
    for name in np.unique(labels):
        rows = labels == name
        axes.scatter(true[rows], predicted[rows], s=9, alpha=0.6, lw=0, label=str(name))
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def residuals(values: np.ndarray, limit: float, unit: str) -> Figure:
    """Histogram of errors (N,) within +- 2 limits; all beyond are in the outermost bins."""
    figure = Figure(figsize=(5.2, 3), layout="constrained")
    axes = figure.add_subplot(xlabel=f"error ({unit}); the outermost bins hold all beyond", ylabel="rows")
    axes.hist(np.clip(values, -2 * limit, 2 * limit), bins=np.linspace(-2 * limit, 2 * limit, 61).tolist())
    for end in (-limit, limit):
        axes.axvline(end, color="grey", lw=0.8, ls=":")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def by_confidence(confidence: np.ndarray, failed: np.ndarray) -> Figure:
    """Share of failures (N,) bool among the most confident rows, against how many rows are kept."""
    figure = Figure(figsize=(5.2, 3), layout="constrained")
    axes = figure.add_subplot(xlabel="share kept, most confident first", ylabel="catastrophic among them")
    order = np.argsort(-confidence, kind="stable")
    counts = np.arange(1, len(order) + 1)
    axes.plot(counts / len(order), np.cumsum(failed[order]) / counts)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def gallery(images: np.ndarray, captions: Sequence[str], columns: int = 2) -> Figure:
    """Examples with captions: (N, C, H, W) stamps, the first channels side by side, or (N, C, L) spectra.

    columns: two can still be read on a phone.
    """
    columns = min(columns, max(len(images), 1))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.9 * columns, 1.35 * rows + 0.3), layout="constrained")
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_visible(index < len(images))
        if index < len(images):
            if images.ndim == 4:
                mosaic(axes, images[index : index + 1, :MOST_CHANNELS])
            else:
                trace(axes, images[index, 0])
            axes.set_title(captions[index], fontsize=7.5)
    return figure


def side_by_side(tiles: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Blocks of stamps under their titles, each (classes, n, C, H, W): a row for each class, n stamps in it."""
    shown = {title: block[:, :, :MOST_CHANNELS] for title, block in tiles.items()}
    across = [block.shape[1] * block.shape[2] for block in shown.values()]
    figure = Figure(figsize=(0.42 * sum(across) + 1, 0.45 * len(classes) + 0.5), layout="constrained")
    for axes, (title, block) in zip(figure.subplots(1, len(shown), squeeze=False).flat, shown.items(), strict=True):
        mosaic(axes, block.reshape(len(classes), -1, *block.shape[3:]))
        axes.set_title(title, fontsize=10)
        axes.set_yticklabels(list(classes))
    return figure


def most_confident_mistakes(table: Mapping[str, np.ndarray], classes: Sequence[str], most: int = 16) -> np.ndarray:
    """Positions (n,) in a table of its mistakes, the most confident first."""
    confidence = np.max([table[f"p_{name}"] for name in classes], axis=0)
    wrong = np.flatnonzero(table["label"] != table["predicted"])
    return wrong[np.argsort(-confidence[wrong], kind="stable")][:most]


def mistakes(table: Mapping[str, np.ndarray], shown: np.ndarray, images: Callable[[np.ndarray], np.ndarray]) -> Figure:
    """Mistakes of a table, as pictures with id, true and predicted class and probability.

    shown: positions (n,) in the table; images: row numbers (n,) to (n, C, ...).
    """
    captions = [
        f"{table['id'][i]}\n{table['label'][i]} taken for {name}, p = {table[f'p_{name}'][i]:.2f}"
        for i, name in zip(shown, table["predicted"][shown], strict=True)
    ]
    return gallery(images(table["row"][shown]), captions)
