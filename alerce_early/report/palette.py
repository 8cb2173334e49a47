"""The look of each class: one colour, marker and dash, the same in every figure and on every page."""

from collections.abc import Sequence
from typing import NamedTuple

from alerce_early.data.labels import CLASSES

# Okabe and Ito (2008), legible with every colour vision; their black is grey here, to show on a dark page as well
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#999999", "#56B4E9", "#CC79A7", "#F0E442")
MARKERS = ("s", "o", "^", "D", "X", "v", "P", "*")  # of matplotlib
SYMBOLS = ("■", "●", "▲", "◆", "✖", "▼", "✚", "★")  # the same as text
DASHES = ("-", "-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
OWN = (5, 6, 0, 2, 3, 1, 4, 7)  # numbers of colours for other classes, in the order in which they are taken


class Look(NamedTuple):
    """How a class is drawn: `colour` and `symbol` on a page, `colour`, `marker` and `dash` by matplotlib."""

    colour: str
    marker: str
    symbol: str
    dash: str | tuple[int, tuple[int, ...]]


def looks(classes: Sequence[str]) -> dict[str, Look]:
    """Choose how each class is drawn.

    Parameters
    ----------
    classes : sequence of str
        All classes of a network, in its order. Those of `CLASSES` always look the same; other classes get the remaining
        colours, and beyond eight the colours repeat with other markers.

    Returns
    -------
    dict of str to Look
        In the order of `classes`.
    """
    fixed = {name: CLASSES.index(name) for name in classes if name in CLASSES}
    free = [number for number in OWN if number not in fixed.values()] + list(range(len(OWN), len(OWN) + len(classes)))
    numbers = {name: fixed[name] if name in fixed else free.pop(0) for name in classes}
    return {name: _look(number) for name, number in numbers.items()}


def _look(number: int) -> Look:
    colour, shape = number % len(COLOURS), (number + number // len(COLOURS)) % len(MARKERS)
    return Look(COLOURS[colour], MARKERS[shape], SYMBOLS[shape], DASHES[shape])
