"""Figures of a run, from tables of numbers; all in one style."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, DetCurveDisplay

from alerce_early.evaluation import intervals, metrics, tables, thresholds
from alerce_early.report.pictures import STYLED, mosaic, trace

MOST_CHANNELS = 4  # shown of a stamp
PER_CLASS = 5  # examples in a gallery of all classes


@STYLED
def confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw counts (C, C) by true and predicted class, with the percentage of each true class."""
    rates = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(1.1 * len(classes) + 1.2, 1.0 * len(classes) + 1))
    display = ConfusionMatrixDisplay(rates, display_labels=classes)
    display.plot(ax=figure.add_subplot(), cmap="Blues", colorbar=False, im_kw={"vmin": 0, "vmax": 1})
    for text, rate, count in zip(display.text_.flat, rates.flat, counts.flat, strict=True):
        text.set(text=f"{100 * rate:.0f} %\n{count}", color="white" if rate > 0.6 else "black")
    return figure


@STYLED
def by_class(counts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Of each class against the rest: precision against recall, and recall against the false positive rate.

    counts: by class (K,) own rows and (K,) others at or above falling thresholds, see `metrics.Ranking`.
    """
    figure = Figure(figsize=(9, 3.6))
    precision, recall = figure.subplots(1, 2)
    for name, (own, others) in counts.items():
        precision.plot(own / own[-1], own / (own + others), label=name, lw=1.4)
        recall.plot(others / others[-1], own / own[-1], label=name, lw=1.4)
    precision.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    recall.set(xlabel="false positive rate", ylabel="recall", xscale="log", xlim=(1e-3, 1), ylim=(0, 1.02))
    recall.legend()
    return figure


@STYLED
def curves(history: Sequence[Mapping[str, Any]], best_epoch: int | None, scores: Sequence[str]) -> Figure:
    """Draw the loss by step, raw and smoothed, the losses by epoch, and training against validation scores.

    history: of `Run.history`; the epoch of the best checkpoint is marked. scores: names of validation numbers; one
    that ends in "/" stands for all below it, drawn thinner.
    """
    figure = Figure(figsize=(12, 3.8))
    by_step, *by_epoch = figure.subplots(1, 3)
    epochs, first = [row["epoch"] for row in history], history[0] if history else {}
    raw = np.array([loss for row in history for loss in row.get("losses", ())])
    ends = np.array([0, *(row["step"] for row in history)])
    counts = [len(row.get("losses", ())) for row in history]
    steps = np.concatenate([np.linspace(ends[i], ends[i + 1], n + 1)[1:] for i, n in enumerate(counts)] or [raw])
    width = max(1, len(raw) // 20)
    by_step.plot(steps, raw, color="0.8", lw=0.8, label="training, raw")
    smooth = np.convolve(raw, np.ones(width) / width, "valid") if len(raw) else raw
    by_step.plot(steps[width - 1 :], smooth, lw=1.8, label=f"training, mean of {width}")
    by_step.set(xlabel="step", title="loss by step")

    known = [name for name in first if name.startswith("val/")]
    chosen = [f"train/{score}" for score in scores if f"train/{score}" in first]
    chosen += [name for score in scores for name in known if name == f"val/{score}"]
    chosen += [name for score in scores for name in known if score.endswith("/") and name.startswith(f"val/{score}")]
    words = {"train": "training", "val": "validation"}
    losses = {f"{split}/loss": word for split, word in words.items() if f"{split}/loss" in first}
    named = {name: f"{words[name.partition('/')[0]]} {_spell(name)}" for name in chosen}
    for axes, title, names in zip(by_epoch, ("loss by epoch", "scores by epoch"), (losses, named), strict=True):
        for name, label in names.items():
            style = {"ls": "--", "lw": 1.1} if name.count("/") > 1 else {"lw": 1.8}
            marker = "o" if len(epochs) == 1 else None  # a line of one point does not show
            axes.plot(epochs, [row[name] for row in history], label=label, marker=marker, **style)
        axes.set(xlabel="epoch", title=title)
    for axes in (by_step, *by_epoch):
        if axes.lines:  # beneath, where no curve is
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    for axes in by_epoch if best_epoch is not None else ():
        axes.axvline(best_epoch, color="grey", lw=0.8, ls=":")
    return figure


def _spell(name: str) -> str:
    """val/balanced_accuracy -> balanced accuracy; val/recall/SN -> recall SN"""
    return name.partition("/")[2].replace("_", " ").replace("/", " ")


@STYLED
def predicted_against_true(true: np.ndarray, predicted: np.ndarray, labels: np.ndarray, bound: np.ndarray) -> Figure:
    """Predicted against true values (N,), a colour for each label; bound: error (N,) that is still tolerated."""
    figure = Figure(figsize=(5.2, 5))
    axes = figure.add_subplot(xlabel="true", ylabel="predicted", aspect="equal")
    order = np.argsort(true)
    axes.fill_between(true[order], (true - bound)[order], (true + bound)[order], color="0.85", lw=0)
    for name in np.unique(labels):
        rows = labels == name
        axes.scatter(true[rows], predicted[rows], s=9, alpha=0.6, lw=0, label=str(name))
    axes.legend()
    return figure


@STYLED
def residuals(values: np.ndarray, limit: float, unit: str) -> Figure:
    """Histogram of errors (N,) within +- 2 limits; all beyond are in the outermost bins."""
    figure = Figure(figsize=(5.2, 3))
    axes = figure.add_subplot(xlabel=f"error ({unit}); the outermost bins hold all beyond", ylabel="rows")
    axes.hist(np.clip(values, -2 * limit, 2 * limit), bins=np.linspace(-2 * limit, 2 * limit, 61).tolist())
    for end in (-limit, limit):
        axes.axvline(end, color="grey", lw=0.8, ls=":")
    return figure


@STYLED
def by_confidence(confidence: np.ndarray, failed: np.ndarray) -> Figure:
    """Share of failures (N,) bool among the most confident rows, against how many rows are kept."""
    figure = Figure(figsize=(5.2, 3))
    axes = figure.add_subplot(xlabel="share kept, most confident first", ylabel="catastrophic among them")
    order = np.argsort(-confidence, kind="stable")
    counts = np.arange(1, len(order) + 1)
    axes.plot(counts / len(order), np.cumsum(failed[order]) / counts)
    axes.set_ylim(bottom=0)
    return figure


@STYLED
def gallery(images: np.ndarray, captions: Sequence[str], columns: int = 2) -> Figure:
    """Examples with captions: (N, C, H, W) stamps, the first channels side by side, or (N, C, L) spectra.

    columns: two can still be read on a phone.
    """
    columns = min(columns, max(len(images), 1))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.9 * columns, 1.35 * rows + 0.3))
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_visible(index < len(images))
        if index < len(images):
            if images.ndim == 4:
                mosaic(axes, images[index : index + 1, :MOST_CHANNELS])
            else:
                trace(axes, images[index, 0])
            axes.set_title(captions[index], fontsize=7.5)
    return figure


def most_confident(
    table: tables.Table, classes: Sequence[str], find: Callable[[Sequence[str]], Mapping[str, np.ndarray]]
) -> Figure:
    """Draw the stamps of the rows that are most confident of each class.

    Parameters
    ----------
    table : mapping of str to ndarray
        Predictions, with at least one row.
    classes : sequence of str
    find : callable
        Returns the stamps (C, H, W) of some rows by candid.
    """
    chosen: dict[str, str] = {}
    predicted = tables.probabilities(table, classes).argmax(1)  # a CSV may take names for numbers
    for number, name in enumerate(classes):
        rows = np.flatnonzero(predicted == number)
        for row in rows[np.argsort(-table[f"q_{name}"][rows], kind="stable")][:PER_CLASS]:
            chosen[str(table["candid"][row])] = f"{name}, q = {table[f'q_{name}'][row]:.2f}\n{table['id'][row]}"
    found = find(list(chosen))
    return gallery(np.stack([found[key] for key in chosen]), list(chosen.values()), columns=PER_CLASS)


@STYLED
def side_by_side(tiles: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Blocks of stamps under their titles, each (classes, n, C, H, W): a row for each class, n stamps in it."""
    shown = {title: block[:, :, :MOST_CHANNELS] for title, block in tiles.items()}
    across = [block.shape[1] * block.shape[2] for block in shown.values()]
    figure = Figure(figsize=(0.42 * sum(across) + 1, 0.45 * len(classes) + 0.5))
    for axes, (title, block) in zip(figure.subplots(1, len(shown), squeeze=False).flat, shown.items(), strict=True):
        mosaic(axes, block.reshape(len(classes), -1, *block.shape[3:]))
        axes.set_title(title, fontsize=10)
        axes.set_yticklabels(list(classes))
    return figure


@STYLED
def reliability(labels: np.ndarray, shown: Mapping[str, np.ndarray]) -> Figure:
    """Draw the share of right rows against mean confidence; shown: probabilities (N, C) by what they are."""
    figure = Figure(figsize=(4.6, 4.4))
    axes = figure.add_subplot(xlabel="mean probability of the class predicted", ylabel="share that is right")
    axes.plot((0, 1), (0, 1), color="grey", lw=0.8, ls=":")
    for name, probabilities in shown.items():
        confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
        bins = metrics.equal_bins(confidence)
        rows = np.bincount(bins)
        counts, sums = np.bincount(bins, right), np.bincount(bins, confidence)
        used = rows > 0
        _shares(axes, sums[used] / rows[used], counts[used], rows[used], fmt="o-", label=name)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend()
    return figure


@STYLED
def accuracy_by_column(bins: Sequence[tuple[float, float, int, int]], name: str) -> Figure:
    """Draw accuracy against a column; bins: of `uncertainty.bin_by_column`."""
    figure = Figure(figsize=(5.2, 3))
    low, high, right, rows = np.array(bins).T
    axes = figure.add_subplot(xlabel=name, ylabel="accuracy")
    _shares(axes, (low + high) / 2, right, rows, xerr=(high - low) / 2, fmt="o")
    return figure


def _shares(axes: Axes, x: np.ndarray, counts: np.ndarray, rows: np.ndarray, **style: Any) -> None:
    """Draw shares counts / rows (n,) with their Wilson intervals."""
    share = counts / rows
    ends = np.array([intervals.wilson(int(k), int(n)) for k, n in zip(counts, rows, strict=True)]).T
    axes.errorbar(x, share, np.abs(ends - share), ms=4, lw=1, **style)


@STYLED
def purity_completeness(own: np.ndarray, score: np.ndarray, name: str) -> Figure:
    """Draw both against the threshold on the score (N,) of one class, and against each other; own: (N,) bool."""
    threshold, purity, completeness = thresholds.purity_completeness(own, score)
    figure = Figure(figsize=(9, 3.4))
    by_threshold, against = figure.subplots(1, 2)
    by_threshold.plot(threshold, completeness, label="completeness")
    by_threshold.plot(threshold, purity, label="purity")
    by_threshold.set(xlabel=f"threshold on the probability of {name}", xlim=(0, 1), ylim=(0, 1.02))
    by_threshold.legend()
    against.plot(completeness, purity, color="tab:green")
    against.axhline(own.mean(), color="grey", lw=0.8, ls=":")  # of a coin
    against.set(xlabel="completeness", ylabel="purity", xlim=(0, 1), ylim=(0, 1.02))
    return figure


@STYLED
def error_tradeoff(own: np.ndarray, score: np.ndarray, name: str) -> Figure:
    """Draw misses against false positives on normal-deviate axes (Martin et al. 1997); own, score as above."""
    hits, others = metrics.Ranking(own, score).counts(np.ones(len(own)))
    figure = Figure(figsize=(4.6, 4.2))
    axes = figure.add_subplot()
    DetCurveDisplay(fpr=others / others[-1], fnr=1 - hits / hits[-1]).plot(axes)
    axes.set(xlabel="false positive rate", ylabel=f"false negative rate ({name} missed)")
    axes.grid(lw=0.4)
    return figure


@STYLED
def risk_coverage(accuracies: np.ndarray) -> Figure:
    """Draw the accuracy of the k most confident rows, (N,), against their share of all."""
    figure = Figure(figsize=(5, 3.2))
    axes = figure.add_subplot(xlabel="share of the rows kept, most confident first", ylabel="accuracy", xlim=(0, 1))
    n = len(accuracies)
    axes.plot(np.arange(1, n + 1) / n, accuracies)
    axes.axhline(accuracies[-1], color="grey", lw=0.8, ls=":")
    # the first few rows are noise: one mistake among ten
    axes.set_ylim(max(0.0, accuracies[n // 20 :].min() - 0.02), 1.005)
    return figure


@STYLED
def weight_draws(table: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Draw the mean probability of each class over draws of the weights above its standard deviation, by true class."""
    figure = Figure(figsize=(max(2.6 * len(classes), 6), 4.4))
    axes = figure.subplots(2, len(classes), squeeze=False, sharey="row")
    for column, name in enumerate(classes):
        own = table["label"] == name
        for row, (prefix, words) in enumerate((("p", "probability"), ("std", "standard deviation"))):
            values = table[f"{prefix}_{name}"]
            bins = np.linspace(0, 1 if prefix == "p" else 0.5, 26)
            parts, labels = [values[own], values[~own]], [name, "other"]
            axes[row, column].hist(parts, bins, stacked=True, label=labels, color=["tab:blue", "lightgrey"])
            axes[row, column].set_xlabel(f"{words} of {name}", fontsize=9)
        axes[0, column].legend(title="true class", title_fontsize=8)
    for row in axes[:, 0]:
        row.set_ylabel("rows")
    return figure


@STYLED
def draws_by_class(draws: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw histograms of the probability of the true class in all draws (n, R, C), right and wrong, by class.

    labels: (R,) indices into classes.
    """
    figure = Figure(figsize=(max(2.6 * len(classes), 6), 2.8))
    own, right = draws[:, np.arange(len(labels)), labels], draws.argmax(2) == labels
    for i, axes in enumerate(figure.subplots(1, len(classes), squeeze=False).flat):
        parts = [own[right & (labels == i)], own[~right & (labels == i)]]
        counts = [f"{len(part):,} {word}" for part, word in zip(parts, ("right", "wrong"), strict=True)]
        axes.hist(parts, np.linspace(0, 1, 26).tolist(), stacked=True, label=counts, color=["tab:blue", "tab:red"])
        axes.set_xlabel(f"probability of {classes[i]}", fontsize=9)
        axes.set_title(f"true {classes[i]}", fontsize=10)
        axes.legend()
    return figure


@STYLED
def draws_by_stamp(images: np.ndarray, draws: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw stamps (R, C, H, W) and beside each the probability of each class over draws (n, R, classes).

    labels: (R,) indices into classes; the true class is filled.
    """
    figure = Figure(figsize=(9, 1.1 * -(-len(images) // 2) + 0.4))
    grid = figure.subplots(-(-len(images) // 2), 4, squeeze=False).reshape(-1, 2)
    for axes in grid[len(images) :].flat:
        axes.set_visible(False)
    for (stamp, histogram), image, of_row, label in zip(grid, images, draws.swapaxes(0, 1), labels, strict=False):
        mosaic(stamp, image[None, :MOST_CHANNELS])
        stamp.set_title(f"true {classes[label]}", fontsize=8)
        for i, name in enumerate(classes):
            filled = "stepfilled" if i == label else "step"
            histogram.hist(of_row[:, i], np.linspace(0, 1, 26).tolist(), histtype=filled, label=name, color=f"C{i}")
        histogram.set_yticks([])
        histogram.tick_params(labelsize=7)
    figure.legend(*grid[0, 1].get_legend_handles_labels(), loc="outside upper right", ncols=len(classes))
    return figure
