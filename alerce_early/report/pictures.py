"""Draw stamps and the pictures of a store: class counts, dropped rows, examples before and after preprocessing."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from alerce_early.data.records import MAX_PIXEL_VALUE, N_EXAMPLES
from alerce_early.data.spectral_grid import CENTRES
from alerce_early.files import hold_lock, whole
from alerce_early.report.palette import looks

if TYPE_CHECKING:  # the store imports torch, which a gallery of stamps does not need
    from alerce_early.data.store import Store

NAMES = ("labels", "dropped", "examples")  # of the pictures of a store
GAP = 2  # pixels between tiles
NO_DATA = (0.35, 0.45, 0.75)  # colour of pixels without data
LEVELS = 64  # of grey in a stamp on a page; more would enlarge the file without visible gain
INK, GREY = "#1c2430", "#808791"  # of text and of guide lines; in an SVG, ink becomes the page's text colour
THEME = ":root{color:%s} @media (prefers-color-scheme:dark){:root{color:#e4e8ee}}" % INK  # noqa: UP031  braces
# The style of every figure: decorate each function that draws or writes one.
STYLED = matplotlib.rc_context(
    {
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.prop_cycle": matplotlib.rcsetup.cycler(color=(INK, GREY)),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "",
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
)


def draw(store: Store) -> None:
    """Write the pictures of `NAMES` into the folder of a store, unless all of them exist."""
    with hold_lock(store.path / ".pictures.lock"):  # runs that share a store may start together
        if all((store.path / f"{name}.png").exists() for name in NAMES):
            return
        meta = store.meta
        classes, kind = meta["classes"], meta["kind"]
        dropped = np.add(meta["dropped_by_class"], meta["lacking_by_class"]).tolist()
        save(bars(meta["raw_by_class"], classes, f"{kind} by class, as read", kind), store.path / "labels.png")
        save(bars(dropped, classes, "dropped for shape or lack of data", kind), store.path / "dropped.png")
        save(EXAMPLES_OF[kind](store), store.path / "examples.png")


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as SVG or PNG, by the suffix of the path, and return the path."""
    with whole(path) as partial:
        if path.suffix == ".svg":
            partial.write_text(to_svg(figure))
        else:
            figure.savefig(partial, format="png", dpi=110)
    return path


@STYLED
def to_svg(figure: Figure) -> str:
    """Return a figure as SVG with a transparent background and text that follows the browser's colour scheme."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    head = '<style type="text/css">'
    return file.getvalue().replace(INK, "currentColor").replace(head, head + THEME, 1)


@STYLED
def bars(counts: Sequence[int], names: Sequence[str], title: str, what: str = "stamps") -> Figure:
    """Draw a bar chart with one bar per class, labelled with its count.

    Parameters
    ----------
    counts : sequence of int
        Rows of each class.
    names : sequence of str
        Classes.
    title : str
        Title of the figure.
    what : str
        Label of the vertical axis.
    """
    figure = Figure(figsize=(6, 3))
    axes = figure.add_subplot(title=title, ylabel=what)
    drawn = axes.bar(list(names), list(counts), color=[look.colour for look in looks(names).values()])
    axes.bar_label(drawn, [f"{count:,}" for count in counts])
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.15)
    return figure


def stretch(tiles: np.ndarray) -> np.ndarray:
    """Scale each tile linearly from its 1st to its 99.5th percentile.

    Parameters
    ----------
    tiles : ndarray of float, shape (..., H, W)
        Tiles; values that are not finite or larger than `MAX_PIXEL_VALUE` are missing.

    Returns
    -------
    ndarray of float64, shape (..., H, W)
        Values in [0, 1]; NaN where pixels are missing.
    """
    tiles = np.where(np.abs(tiles) < MAX_PIXEL_VALUE, tiles, np.nan).astype(np.float64)
    blank = np.isnan(tiles).all((-2, -1), keepdims=True)
    low, high = np.nanpercentile(np.where(blank, 0, tiles), [1, 99.5], axis=(-2, -1), keepdims=True)
    return np.clip((tiles - low) / np.where(high > low, high - low, 1), 0, 1)


def encode_figure(figure: Figure) -> str:
    """Encode a figure as a data URI, in SVG."""
    return "data:image/svg+xml;base64," + base64.b64encode(to_svg(figure).encode()).decode()


def encode(tiles: np.ndarray) -> str:
    """Encode stamps (K, H, W) in a row as a data URI, in PNG; pixels without data are blue."""
    shades = np.pad(stretch(tiles), ((0, 0), (0, 0), (0, GAP)), constant_values=np.inf)
    row = np.concatenate(list(shades), 1)[:, :-GAP]
    grey = np.where(np.isfinite(row), np.round((LEVELS - 1) * np.nan_to_num(row, posinf=0)), LEVELS)
    picture = Image.fromarray(np.where(np.isinf(row), LEVELS + 1, grey).astype(np.uint8), "P")
    greys, others = np.repeat(np.arange(LEVELS) * 255 // (LEVELS - 1), 3), (*NO_DATA, 1.0, 1.0, 1.0)
    picture.putpalette([*greys.tolist(), *(round(255 * part) for part in others)])
    file = io.BytesIO()
    picture.save(file, "png", optimize=True, transparency=LEVELS + 1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def mosaic(axes: Axes, tiles: np.ndarray) -> None:
    """Draw tiles in a grid; each is stretched separately, and pixels without data are blue.

    The grid is one image rather than R x K axes, because drawing axes is slow.

    Parameters
    ----------
    axes : Axes
        Axes to draw on.
    tiles : ndarray of float, shape (R, K, H, W)
        R rows of K tiles.
    """
    rows, columns, height, width = tiles.shape
    canvas = np.full((rows, height + GAP, columns, width + GAP), -1.0)
    canvas[:, :height, :, :width] = stretch(tiles).transpose(0, 2, 1, 3)
    colours = np.repeat(canvas.reshape(rows * (height + GAP), -1)[..., None], 3, axis=2)
    colours[canvas.reshape(colours.shape[:2]) == -1] = 1.0
    colours[np.isnan(colours).any(2)] = NO_DATA
    axes.imshow(colours, interpolation="none")
    axes.set_xticks((np.arange(columns) + 0.5) * (width + GAP) - GAP, [""] * columns)
    axes.set_yticks((np.arange(rows) + 0.5) * (height + GAP) - GAP, [""] * rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def trace(axes: Axes, spectrum: np.ndarray, **style: Any) -> None:
    """Draw a spectrum against wavelength.

    Parameters
    ----------
    axes : Axes
        Axes to draw on.
    spectrum : ndarray of float, shape (L,)
        Fluxes on the common grid `CENTRES`; pixels that are exactly 0 have no data and are left blank.
    **style
        Options of `Axes.plot`.
    """
    axes.plot(CENTRES, np.where(spectrum == 0, np.nan, spectrum), **{"lw": 0.6, **style})
    axes.set_xticks(range(4000, 10_001, 2000))
    axes.tick_params(labelsize=6, length=2)


def _group_examples(store: Store) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the raw and the preprocessed examples of each class."""
    rows, raw = store.examples
    labels = store.labels[rows]
    chosen = {name: labels == i for i, name in enumerate(store.meta["classes"])}
    shown = {name: which for name, which in chosen.items() if which.any()} or {"": labels == labels}
    return {name: (raw[which], store.images[rows[which]]) for name, which in shown.items()}


@STYLED
def _stamps(store: Store) -> Figure:
    """Draw examples of each class: raw stamps on the left, preprocessed ones on the right."""
    examples = _group_examples(store)
    channels = store.meta["channels"][: store.images.shape[1]]

    figure = Figure(figsize=(13, 1.2 * len(examples) + 0.6))
    raw_axes, stored_axes = figure.subplots(1, 2)
    raw = _rows_of([images.transpose(0, 3, 1, 2) for images, _ in examples.values()])
    stored = _rows_of([images[:, : len(channels)] for _, images in examples.values()])
    for axes, tiles, title in ((raw_axes, raw, "raw"), (stored_axes, stored, "preprocessed")):
        mosaic(axes, tiles)
        axes.set_title(f"{title}: {', '.join(channels)} of {N_EXAMPLES} stamps", fontsize=10)
        axes.set_yticklabels(list(examples))
    return figure


@STYLED
def _spectra(store: Store) -> Figure:
    """Draw examples of each class: a column of raw spectra and one of preprocessed spectra."""
    examples = _group_examples(store)
    figure = Figure(figsize=(4.5 * len(examples), 1.3 * N_EXAMPLES))
    grid = figure.subplots(N_EXAMPLES, 2 * len(examples), squeeze=False)
    for column, (name, (raw, stored)) in enumerate(examples.items()):
        grid[0, 2 * column].set_title(f"{name}, raw", fontsize=9)
        grid[0, 2 * column + 1].set_title("preprocessed", fontsize=9)
        for row, (before, after) in enumerate(zip(raw, stored, strict=True)):
            trace(grid[row, 2 * column], before[:, 0], color="0.35")
            trace(grid[row, 2 * column + 1], after[0])
    for axes in grid.flat:
        axes.set_visible(axes.has_data())
    return figure


def _rows_of(stamps: Sequence[np.ndarray]) -> np.ndarray:
    """Join arrays (n <= N_EXAMPLES, C, H, W), one per class, into (classes, N_EXAMPLES * C, H, W), padded with NaN."""
    tiles = np.full((len(stamps), N_EXAMPLES, *stamps[0].shape[1:]), np.nan)
    for row, images in zip(tiles, stamps, strict=True):
        row[: len(images)] = images
    return tiles.reshape(len(stamps), -1, *tiles.shape[3:])


EXAMPLES_OF: dict[str, Callable[[Store], Figure]] = {"stamps": _stamps, "spectra": _spectra}
