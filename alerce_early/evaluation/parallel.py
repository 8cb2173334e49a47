"""Parallel coordinates: what each option did, a line for each config."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

LONGEST = 22  # characters of a tick's label
BEND = 24  # points a line has between two axes


def options(configs: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys that tell configs apart, without those that follow from one before them.

    configs: key to value as text. Whoever picks another network changes a dozen keys; one axis says so.
    """
    keys = list(dict.fromkeys(key for config in configs for key in config))
    columns = {key: [config.get(key, "") for config in configs] for key in keys}
    chosen: list[str] = []
    for key, column in columns.items():
        if len(set(column)) > 1 and not any(follows(column, columns[other]) for other in chosen):
            chosen.append(key)
    return chosen


def follows(column: Sequence[str], other: Sequence[str]) -> bool:
    """Whether who knows the values (n,) of another option knows those (n,) of this one."""
    return len(set(zip(other, column, strict=True))) == len(set(other))


def picture(configs: Sequence[Mapping[str, str]], scores: Sequence[float], what: str, lower: bool = False) -> Figure:
    """A line for each config through its options to its score; the better, the darker.

    configs: (n) key to value as text; scores: (n,); what: the score's name; lower: whether less is better.
    """
    keys, values = options(configs), np.array(scores, dtype=np.float64)
    low, high = values.min(), values.max()
    height = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    worth = 1 - height if lower else height
    figure = Figure(figsize=(max(5.0, 2.4 * (len(keys) + 1)), 3.6), layout="constrained")
    axes = figure.add_subplot(xlim=(-0.35, len(keys) + 0.35), ylim=(-0.08, 1.2))
    # lines that share an option run side by side through it, in the order of their scores
    nudge = 0.06 * (np.argsort(np.argsort(values)) / max(1, len(values) - 1) - 0.5)
    points = np.empty((len(configs), len(keys) + 1))
    for column, key in enumerate(keys):
        told = [config.get(key, "-") for config in configs]
        # the option of the best mean on top, so that lines cross no more than they must
        means = {name: values[[one == name for one in told]].mean() for name in told}
        ticks = sorted(means, key=lambda name: means[name])
        place = {name: i / max(1, len(ticks) - 1) for i, name in enumerate(ticks)}
        points[:, column] = [place[name] for name in told] + nudge
        for name, at in place.items():
            label = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
            axes.annotate(
                label, (column, at), (0, 11), textcoords="offset points", ha="center", fontsize=8, zorder=3,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
            )  # fmt: skip
    points[:, -1] = height
    step = np.linspace(0, 1, BEND)
    smooth = step**2 * (3 - 2 * step)
    for i in np.argsort(worth):
        x = np.concatenate([column + step for column in range(len(keys))]) if keys else np.zeros(1)
        y = np.concatenate(
            [a + (b - a) * smooth for a, b in zip(points[i], points[i, 1:], strict=False)] or [points[i]]
        )
        axes.plot(x, y, color=colormaps["viridis_r"](0.15 + 0.8 * worth[i]), lw=1.8, alpha=0.85)
        axes.plot(x[-1:], y[-1:], "o", color=colormaps["viridis_r"](0.15 + 0.8 * worth[i]), ms=4)
    for end in sorted({low, high}):
        at = (end - low) / (high - low) if high > low else 0.5
        axes.annotate(f"{end:.3f}", (len(keys), at), (7, 0), textcoords="offset points", va="center", fontsize=8)
    axes.vlines(range(len(keys) + 1), -0.05, 1.05, color="0.6", lw=0.8, zorder=0)
    axes.set_xticks(range(len(keys) + 1), [*(key.rpartition(".")[2] for key in keys), what], fontsize=9)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
