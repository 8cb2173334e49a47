"""Colour, marker and line style of each class, the same in all figures and on all pages."""

from collections.abc import Sequence
from typing import NamedTuple

from alerce_early.data.labels import CLASSES

# Okabe and Ito (2008), safe for colour-blind readers; grey replaces black, which is invisible on a dark page
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#999999", "#56B4E9", "#CC79A7", "#F0E442")
MARKERS = ("s", "o", "^", "D", "X", "v", "P", "*")  # names in matplotlib
SYMBOLS = ("■", "●", "▲", "◆", "✖", "▼", "✚", "★")  # the same markers as text
DASHES = ("-", "-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
FREE = (5, 6, 0, 2, 3, 1, 4, 7)  # indices of colours for other classes, in the order of use


class Look(NamedTuple):
    """Style of a class: `colour` and `symbol` on pages; `colour`, `marker` and `dash` in figures."""

    colour: str
    marker: str
    symbol: str
    dash: str | tuple[int, tuple[int, ...]]


def looks(classes: Sequence[str]) -> dict[str, Look]:
    """Assign a style to each class.

    Parameters
    ----------
    classes : sequence of str
        All classes of a network, in its order. Classes in `CLASSES` have a fixed style; others get the remaining
        colours. With more than eight classes, colours repeat with other markers.

    Returns
    -------
    dict of str to Look
        Styles by class, in the order of `classes`.
    """
    fixed = {name: CLASSES.index(name) for name in classes if name in CLASSES}
    free = [number for number in FREE if number not in fixed.values()] + list(
        range(len(FREE), len(FREE) + len(classes))
    )
    numbers = {name: fixed[name] if name in fixed else free.pop(0) for name in classes}
    return {name: _look(number) for name, number in numbers.items()}


def _look(number: int) -> Look:
    """Return the style with this number; there are 64 combinations of colour and marker."""
    colour, shape = number % len(COLOURS), (number + number // len(COLOURS)) % len(MARKERS)
    return Look(COLOURS[colour], MARKERS[shape], SYMBOLS[shape], DASHES[shape])
