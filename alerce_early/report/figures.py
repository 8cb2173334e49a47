"""Figures of a run, drawn from arrays and tables in a common style, and narrow enough for a phone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.metrics import ConfusionMatrixDisplay, DetCurveDisplay

from alerce_early.evaluation import intervals, metrics, tables, thresholds
from alerce_early.report.palette import COLOURS, looks
from alerce_early.report.pictures import GREY, INK, STYLED, mosaic, trace

MOST_CHANNELS = 4  # of a stamp, the others are not shown
PER_CLASS = 5  # examples in a gallery of all classes
WIDTH, HEIGHT = 4.7, 3.5  # inches of a figure on a page
MOST_POINTS = 1_000  # of a curve, densest at high thresholds; larger scatter plots are drawn as pixels
# from transparent to blue, for light and dark pages
SHADES = LinearSegmentedColormap.from_list("shades", [f"{COLOURS[0]}00", COLOURS[0]])
DARK = 0.85  # cells above this share have white text


def _start(height: float = HEIGHT, **options: Any) -> tuple[Figure, Axes]:
    """Create a figure of the common width with one set of axes."""
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.add_subplot(**options)


def _explain(figure: Figure, axes: Axes, columns: int = 2) -> Figure:
    """Place the legend below the axes, so that it covers no data."""
    if axes.get_legend_handles_labels()[0]:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    return figure


def _count(axes: Axes, *names: str) -> None:
    """Restrict the ticks of axes that show counts to integers."""
    for name in names:
        getattr(axes, f"{name}axis").set_major_locator(MaxNLocator(integer=True))


@STYLED
def confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix with counts and the percentage of each true class.

    Parameters
    ----------
    counts : ndarray of int, shape (C, C)
        Rows by true class (first axis) and predicted class.
    classes : sequence of str
        The C class names.
    """
    figure = Figure(figsize=(0.8 * len(classes) + 1.1, 0.75 * len(classes) + 0.7))
    draw_confusion(figure.add_subplot(), counts, classes)
    return figure


def draw_confusion(axes: Axes, counts: np.ndarray, classes: Sequence[str]) -> None:
    """Draw a confusion matrix on existing axes; see `confusion`."""
    rates = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    display = ConfusionMatrixDisplay(rates, display_labels=classes)
    turned = 45 if max(map(len, classes)) > 9 else "horizontal"
    display.plot(ax=axes, cmap=SHADES, colorbar=False, im_kw={"vmin": 0, "vmax": 1}, xticks_rotation=turned)
    display.im_.set_interpolation("none")
    axes.set(xlabel="predicted class", ylabel="true class")
    for text, rate, count in zip(display.text_.flat, rates.flat, counts.flat, strict=True):
        text.set(text=f"{100 * rate:.0f} %\n{count}", color="white" if rate > DARK else INK)


def _draw_classes(
    axes: Axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], areas: Mapping[str, float], classes: Sequence[str]
) -> None:
    """Draw one curve (x, y) per class, with the area below it in the legend."""
    for name, (x, y) in curves.items():
        look, shown = looks(classes)[name], np.unique(np.geomspace(1, len(x), MOST_POINTS).astype(int)) - 1
        axes.plot(x[shown], y[shown], label=f"{name}, {areas[name]:.3f}", lw=1.4, color=look.colour, ls=look.dash)
        axes.plot(x[len(x) // 2], y[len(x) // 2], color=look.colour, marker=look.marker, ms=5)


# by class: counts (K,) of its rows and of other rows at or above falling thresholds
Counts = Mapping[str, tuple[np.ndarray, np.ndarray]]


@STYLED
def precision_recall(counts: Counts, areas: Mapping[str, float], classes: Sequence[str]) -> Figure:
    """Draw precision-recall curves, each class against the rest.

    Parameters
    ----------
    counts : mapping of str to (ndarray, ndarray)
        By class, the counts (K,) of its rows and of other rows, from `metrics.Ranking.counts`.
    areas : mapping of str to float
        Average precision of each class, for the legend.
    classes : sequence of str
        All classes, which decide the colours.
    """
    figure, axes = _start(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    curves = {name: (own / own[-1], own / (own + others)) for name, (own, others) in counts.items()}
    _draw_classes(axes, curves, areas, classes)
    return _explain(figure, axes, 3)


@STYLED
def roc(counts: Counts, areas: Mapping[str, float], classes: Sequence[str]) -> Figure:
    """Draw ROC curves, each class against the rest, and the chance line.

    Parameters
    ----------
    counts, classes
        As of `precision_recall`.
    areas : mapping of str to float
        Area under the ROC curve of each class, for the legend.
    """
    limits: dict[str, Any] = {"xscale": "log", "xlim": (1e-3, 1), "ylim": (0, 1.02)}
    figure, axes = _start(xlabel="false positive rate", ylabel="recall", **limits)
    curves = {name: (others / others[-1], own / own[-1]) for name, (own, others) in counts.items()}
    _draw_classes(axes, curves, areas, classes)
    axes.plot(chance := np.geomspace(1e-3, 1, 50), chance, color=GREY, lw=1.1, ls=":", label="chance, 0.500")
    return _explain(figure, axes, 3)


def curves(
    history: Sequence[Mapping[str, Any]], best_epoch: int | None, scores: Sequence[str], classes: Sequence[str] = ()
) -> dict[str, Figure]:
    """Draw learning curves: the loss by step, and losses and scores by epoch.

    Parameters
    ----------
    history : sequence of mapping
        One entry per epoch, as returned by `Run.history`.
    best_epoch : int or None
        Epoch of the best checkpoint, marked by a dotted line.
    scores : sequence of str
        Names of metrics without their split; a name that ends in "/" is a prefix.
    classes : sequence of str
        All classes; scores of a class have its colour.

    Returns
    -------
    dict of str to Figure
        ``loss_by_step``, ``loss_by_epoch`` and ``scores_by_epoch``.
    """
    first = history[0] if history else {}
    words = {"train": "training", "val": "validation"}
    known = [name for name in first if name.startswith("val/")]
    chosen = [f"train/{score}" for score in scores if f"train/{score}" in first]
    chosen += [name for score in scores for name in known if name == f"val/{score}"]
    chosen += [name for score in scores for name in known if score.endswith("/") and name.startswith(f"val/{score}")]
    losses = {f"{split}/loss": word for split, word in words.items() if f"{split}/loss" in first}
    named = {name: f"{words[name.partition('/')[0]]} {_spell(name)}" for name in chosen}
    return {
        "loss_by_step": _loss_by_step(history),
        "loss_by_epoch": _by_epoch(history, losses, "loss", best_epoch, classes),
        "scores_by_epoch": _by_epoch(history, named, "score", best_epoch, classes),
    }


@STYLED
def _loss_by_step(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the loss of each step and its running mean."""
    figure, axes = _start(xlabel="step", ylabel="training loss")
    raw = np.array([loss for row in history for loss in row.get("losses", ())])
    ends = np.array([0, *(row["step"] for row in history)])
    counts = [len(row.get("losses", ())) for row in history]
    steps = np.concatenate([np.linspace(ends[i], ends[i + 1], n + 1)[1:] for i, n in enumerate(counts)] or [raw])
    width = max(1, len(raw) // 20)
    axes.plot(steps, raw, color=GREY, alpha=0.5, lw=0.8, label="each step")
    smooth = np.convolve(raw, np.ones(width) / width, "valid") if len(raw) else raw
    axes.plot(steps[width - 1 :], smooth, lw=1.8, label=f"mean of {width}")
    _count(axes, "x")
    return _explain(figure, axes)


@STYLED
def _by_epoch(
    history: Sequence[Mapping[str, Any]],
    labels: Mapping[str, str],
    what: str,
    best_epoch: int | None,
    classes: Sequence[str],
) -> Figure:
    """Draw columns of the history by epoch; `labels` maps their names to legend entries."""
    figure, axes = _start(xlabel="epoch", ylabel=what)
    epochs = [row["epoch"] for row in history]
    for i, (name, label) in enumerate(labels.items()):
        look = looks(classes).get(name.rpartition("/")[2])
        style: dict[str, Any] = {"color": (INK, GREY)[i % 2], "ls": ("-", "--", "-.")[i // 2 % 3], "lw": 1.8}
        if look:
            style = {"color": look.colour, "ls": look.dash, "lw": 1.1, "marker": look.marker, "ms": 3}
        elif len(epochs) == 1:  # a line through one point is invisible
            style["marker"] = "o"
        axes.plot(epochs, [row[name] for row in history], label=label, **style)
    if best_epoch is not None:
        axes.axvline(best_epoch, color=GREY, lw=1.1, ls=":", label="evaluated checkpoint")
    _count(axes, "x")
    return _explain(figure, axes)


def _spell(name: str) -> str:
    """Format the name of a metric for a legend: val/recall/SN becomes recall SN."""
    return name.partition("/")[2].replace("_", " ").replace("/", " ")


@STYLED
def predicted_against_true(true: np.ndarray, predicted: np.ndarray, labels: np.ndarray, bound: np.ndarray) -> Figure:
    """Draw predicted against true redshifts.

    Parameters
    ----------
    true, predicted : ndarray of float, shape (N,)
        Redshifts.
    labels : ndarray of str, shape (N,)
        Class of each row, which decides its colour.
    bound : ndarray of float, shape (N,)
        Largest tolerated error of each row, drawn as a band.
    """
    figure, axes = _start(WIDTH, xlabel="true redshift", ylabel="predicted redshift", aspect="equal")
    order = np.argsort(true)
    axes.fill_between(true[order], (true - bound)[order], (true + bound)[order], color=GREY, alpha=0.3, lw=0)
    for name, look in looks(np.unique(labels).tolist()).items():
        rows = labels == name
        style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "rasterized": len(true) > MOST_POINTS}
        axes.scatter(true[rows], predicted[rows], s=20, alpha=0.7, lw=0, label=name, **style)
    return _explain(figure, axes, 4)


@STYLED
def residuals(values: np.ndarray, limit: float, unit: str) -> Figure:
    """Draw a histogram of errors, from -2 to +2 times a limit.

    Parameters
    ----------
    values : ndarray of float, shape (N,)
        Errors; those beyond the range are counted in the outermost bins.
    limit : float
        Largest tolerated error, marked by dotted lines.
    unit : str
        Unit of both.
    """
    figure, axes = _start(xlabel=f"error ({unit})", ylabel="rows")
    bins = np.linspace(-2 * limit, 2 * limit, 61).tolist()
    axes.hist(np.clip(values, -2 * limit, 2 * limit), bins=bins, histtype="stepfilled", color=GREY)
    for end in (-limit, limit):
        axes.axvline(end, color=INK, lw=1.1, ls=":")
    _count(axes, "y")
    return figure


@STYLED
def by_confidence(confidence: np.ndarray, failed: np.ndarray) -> Figure:
    """Draw the failure rate among the most confident rows against the share of rows kept.

    Parameters
    ----------
    confidence : ndarray of float, shape (N,)
        Confidence of each row; only the order matters.
    failed : ndarray of bool, shape (N,)
        Whether the row is a catastrophic failure.
    """
    figure, axes = _start(xlabel="most confident rows kept", ylabel="catastrophic failures among them")
    order = np.argsort(-confidence, kind="stable")
    counts = np.arange(1, len(order) + 1)
    axes.plot(counts / len(order), np.cumsum(failed[order]) / counts)
    axes.set_ylim(bottom=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    return figure


@STYLED
def spectrum(values: np.ndarray) -> Figure:
    """Draw a small figure of a spectrum (L,)."""
    figure = Figure(figsize=(2.6, 1.3))
    trace(axes := figure.add_subplot(), values, color=INK)
    axes.set_xlabel("wavelength (angstrom)", fontsize=6)
    return figure


@STYLED
def gallery(images: np.ndarray, captions: Sequence[str], columns: int = 2) -> Figure:
    """Draw examples with captions.

    Parameters
    ----------
    images : ndarray of float, shape (N, C, H, W) or (N, C, L)
        Stamps, drawn with their first `MOST_CHANNELS` channels in a row, or spectra, drawn with their first
        channel.
    captions : sequence of str
        The N captions.
    columns : int
        Examples per row; two are still legible on a phone.
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
    """Draw the stamps of the most confident predictions of each class.

    Parameters
    ----------
    table : mapping of str to ndarray
        Predictions (N,), N > 0: ``candid``, ``id``, ``p_<class>`` and ``q_<class>``.
    classes : sequence of str
        Names of the classes.
    find : callable
        Maps a list of candids to their stamps (C, H, W), by candid.
    """
    chosen: dict[str, str] = {}
    # not from the column predicted: a CSV may have class names that are numbers
    predicted = tables.probabilities(table, classes).argmax(1)
    for number, name in enumerate(classes):
        rows = np.flatnonzero(predicted == number)
        for row in rows[np.argsort(-table[f"q_{name}"][rows], kind="stable")][:PER_CLASS]:
            chosen[str(table["candid"][row])] = f"{name}, q = {table[f'q_{name}'][row]:.2f}\n{table['id'][row]}"
    found = find(list(chosen))
    return gallery(np.stack([found[key] for key in chosen]), list(chosen.values()), columns=PER_CLASS)


@STYLED
def side_by_side(tiles: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Draw blocks of stamps below each other, with one row per class.

    Parameters
    ----------
    tiles : mapping of str to ndarray of float, shape (classes, n, C, H, W)
        Blocks by title: n stamps of each class.
    classes : sequence of str
        Names of the classes.
    """
    shown = {title: block[:, :, :MOST_CHANNELS] for title, block in tiles.items()}
    across = max(block.shape[1] * block.shape[2] for block in shown.values())
    figure = Figure(figsize=(0.42 * across + 1, len(shown) * (0.45 * len(classes) + 0.5)))
    for axes, (title, block) in zip(figure.subplots(len(shown), 1, squeeze=False).flat, shown.items(), strict=True):
        mosaic(axes, block.reshape(len(classes), -1, *block.shape[3:]))
        axes.set_title(title, fontsize=10)
        axes.set_yticklabels(list(classes))
    return figure


@STYLED
def reliability(labels: np.ndarray, shown: Mapping[str, np.ndarray]) -> Figure:
    """Draw a reliability diagram: the share of correct rows against mean confidence, in bins of equal counts.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
        Indices of the true classes.
    shown : mapping of str to ndarray of float, shape (N, C)
        At most two sets of probabilities, by their name in the legend.
    """
    figure, axes = _start(xlabel="mean probability of the predicted class", ylabel="share of correct rows")
    axes.plot((0, 1), (0, 1), color=GREY, lw=1.1, ls=":", label="perfect")
    for (name, probabilities), colour, style in zip(shown.items(), (GREY, INK), ("s--", "o-"), strict=False):
        confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
        bins = metrics.equal_bins(confidence)
        rows = np.bincount(bins)
        counts, sums = np.bincount(bins, right), np.bincount(bins, confidence)
        used = rows > 0
        _shares(axes, sums[used] / rows[used], counts[used], rows[used], fmt=style, label=name, color=colour)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    return _explain(figure, axes, 3)


@STYLED
def accuracy_by_column(bins: Sequence[tuple[float, float, int, int]], name: str) -> Figure:
    """Draw accuracy against a metadata column.

    Parameters
    ----------
    bins : sequence of (float, float, int, int)
        Lower edge, upper edge, correct rows and rows of each bin, from `uncertainty.bin_by_column`.
    name : str
        Name of the column, with its unit.
    """
    figure, axes = _start(xlabel=name, ylabel="accuracy")
    low, high, right, rows = np.array(bins).T
    _shares(axes, (low + high) / 2, right, rows, xerr=(high - low) / 2, fmt="o")
    return figure


def _shares(axes: Axes, x: np.ndarray, counts: np.ndarray, rows: np.ndarray, **style: Any) -> None:
    """Draw the shares counts / rows (n,) with Wilson intervals."""
    share = counts / rows
    ends = np.array([intervals.wilson(int(k), int(n)) for k, n in zip(counts, rows, strict=True)]).T
    axes.errorbar(x, share, np.abs(ends - share), ms=4, lw=1, **style)


@STYLED
def purity_by_threshold(own: np.ndarray, score: np.ndarray, name: str) -> Figure:
    """Draw purity and completeness of one class against the threshold on its probability.

    Parameters
    ----------
    own : ndarray of bool, shape (N,)
        Whether the row is of the class.
    score : ndarray of float, shape (N,)
        Probability of the class, in [0, 1].
    name : str
        Name of the class.
    """
    threshold, purity, completeness = thresholds.purity_completeness(own, score)
    figure, axes = _start(xlabel=f"threshold on the probability of {name}", ylabel="share of rows")
    axes.plot(threshold, completeness, label="completeness")
    axes.plot(threshold, purity, label="purity", ls="--", color=INK)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return _explain(figure, axes)


@STYLED
def purity_completeness(own: np.ndarray, score: np.ndarray, name: str) -> Figure:
    """Draw purity against completeness of one class and the chance line; see `purity_by_threshold`."""
    _, purity, completeness = thresholds.purity_completeness(own, score)
    figure, axes = _start(xlabel=f"completeness of {name}", ylabel=f"purity of {name}", xlim=(0, 1), ylim=(0, 1.02))
    axes.plot(completeness, purity, label="this classifier")
    axes.axhline(own.mean(), color=GREY, lw=1.1, ls=":", label="chance")
    return _explain(figure, axes)


@STYLED
def error_tradeoff(own: np.ndarray, score: np.ndarray, name: str) -> Figure:
    """Draw the detection error tradeoff of one class: misses against false positives on normal-deviate axes.

    The parameters are described in `purity_by_threshold`.

    References
    ----------
    Martin et al. 1997, Eurospeech, "The DET curve in assessment of detection task performance".
    """
    hits, others = metrics.Ranking(own, score).counts(np.ones(len(own)))
    figure, axes = _start()
    DetCurveDisplay(fpr=others / others[-1], fnr=1 - hits / hits[-1]).plot(axes)
    axes.set(xlabel="false positive rate", ylabel=f"false negative rate ({name} missed)")
    axes.grid(lw=0.4)
    return figure


@STYLED
def risk_coverage(accuracies: np.ndarray) -> Figure:
    """Draw accuracy against the share of most confident rows that is kept.

    Parameters
    ----------
    accuracies : ndarray of float, shape (N,)
        Accuracy of the 1, 2, ..., N most confident rows.
    """
    figure, axes = _start(xlabel="most confident rows kept", ylabel="accuracy", xlim=(0, 1))
    n = len(accuracies)
    axes.plot(np.arange(1, n + 1) / n, accuracies, label="most confident rows")
    axes.axhline(accuracies[-1], color=GREY, lw=1.1, ls=":", label="all rows")
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    # the first few values are noisy and would set the scale: one mistake among ten rows
    axes.set_ylim(max(0.0, accuracies[n // 20 :].min() - 0.02), 1.005)
    return _explain(figure, axes)


def _stack(axes: Axes, parts: Iterable[np.ndarray], end: float, labels: Sequence[str], colours: Sequence[str]) -> None:
    """Draw a stacked histogram of values between 0 and `end`."""
    bins = np.linspace(0, end, 26).tolist()
    axes.hist(list(parts), bins, stacked=True, histtype="stepfilled", label=labels, color=list(colours))
    _count(axes, "y")


@STYLED
def weight_draws(table: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Draw histograms of the mean and standard deviation of class probabilities over draws of the weights.

    Parameters
    ----------
    table : mapping of str to ndarray
        Predictions (N,): ``label``, ``p_<class>`` and ``std_<class>``.
    classes : sequence of str
        Names of the classes, one row of panels each.
    """
    figure = Figure(figsize=(WIDTH, 1.7 * len(classes)))
    for (name, look), row in zip(looks(classes).items(), figure.subplots(len(classes), 2, squeeze=False), strict=True):
        own = table["label"] == name
        for axes, (prefix, words, end) in zip(row, (("p", "mean", 1.0), ("std", "sd", 0.5)), strict=True):
            values = table[f"{prefix}_{name}"]
            _stack(axes, (values[own], values[~own]), end, (name, "other classes"), (look.colour, GREY))
            axes.set(xlabel=f"{words} of p_{name}", ylabel="rows" if prefix == "p" else "")
    return figure


@STYLED
def draws_by_class(draws: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw histograms of the probability of the true class over all draws, split into right and wrong ones.

    Parameters
    ----------
    draws : ndarray of float, shape (n, R, C)
        Class probabilities of R rows in n draws of the weights.
    labels : ndarray of int, shape (R,)
        Indices of the true classes.
    classes : sequence of str
        The C class names, one panel each.
    """
    figure = Figure(figsize=(WIDTH, 1.8 * len(classes)))
    own, right = draws[:, np.arange(len(labels)), labels], draws.argmax(2) == labels
    for i, axes in enumerate(figure.subplots(len(classes), 1, squeeze=False).flat):
        parts = [own[right & (labels == i)], own[~right & (labels == i)]]
        counts = [f"{len(part):,} {word}" for part, word in zip(parts, ("right", "wrong"), strict=True)]
        _stack(axes, parts, 1, counts, (looks(classes)[classes[i]].colour, GREY))
        axes.set(xlabel=f"probability of {classes[i]}", ylabel="draws")
        axes.set_title(f"true {classes[i]}: {', '.join(counts)} (grey)", fontsize=9)
    return figure


@STYLED
def draws_by_stamp(images: np.ndarray, draws: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw stamps, each with histograms of its class probabilities over draws of the weights.

    Parameters
    ----------
    images : ndarray of float, shape (R, C, H, W)
        Stamps, drawn with their first `MOST_CHANNELS` channels.
    draws : ndarray of float, shape (n, R, K)
        Probabilities of K classes in n draws.
    labels : ndarray of int, shape (R,)
        Indices of the true classes, whose histograms are filled.
    classes : sequence of str
        The K class names.
    """
    figure = Figure(figsize=(WIDTH, 1.1 * len(images) + 0.4))
    grid = figure.subplots(len(images), 2, squeeze=False)
    for (stamp, histogram), image, of_row, label in zip(grid, images, draws.swapaxes(0, 1), labels, strict=False):
        mosaic(stamp, image[None, :MOST_CHANNELS])
        stamp.set_title(f"true {classes[label]}", fontsize=8)
        for i, (name, look) in enumerate(looks(classes).items()):
            filled = "stepfilled" if i == label else "step"
            bins = np.linspace(0, 1, 26).tolist()
            histogram.hist(of_row[:, i], bins, histtype=filled, label=name, color=look.colour, ls=look.dash)
        histogram.set_yticks([])
        histogram.tick_params(labelsize=7)
    grid[-1, 1].set_xlabel("probability", fontsize=8)
    return _explain(figure, grid[0, 1], len(classes))
