"""Which alerts are worth a label: orders of a night's rows, as functions of plain arrays.

A purity is unbiased only if its rows were drawn at random from the whole night. So each alert has a place in a random
order that depends on its name alone, `reserve` keeps the first of that order, and no other queue offers them.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

SMALLEST = 1e-12  # probability
MOST_RESERVED = 300  # rows drawn at random: enough for a purity to within 6 percentage points
BLOCK = 512  # labelled rows whose distances are held at once


class _Pool(NamedTuple):
    """What an order is computed from: probabilities (M, N, K), embeddings (N, D), labelled (N,) bool."""

    probabilities: np.ndarray
    embeddings: np.ndarray
    labelled: np.ndarray
    rng: np.random.Generator
    target: int


def choose(
    strategy: str,
    probabilities: np.ndarray,
    embeddings: np.ndarray,
    labelled: np.ndarray,
    n: int,
    rng: np.random.Generator,
    target: int = 0,
) -> np.ndarray:
    """Choose the rows to label next.

    Parameters
    ----------
    strategy : str
        One of `STRATEGIES`.
    probabilities : ndarray, (N, K) or (M, N, K) float in [0, 1]
        Calibrated, of one network or of M that are to be compared.
    embeddings : ndarray, (N, D) float
        The space in which distances are measured.
    labelled : ndarray, (N,) bool
        Rows that have a label; they are never chosen.
    n : int
        How many rows to return; fewer if fewer are unlabelled.
    rng : numpy.random.Generator
        Draws the random rows and breaks ties; the same state chooses the same rows.
    target : int
        The class of ``probable``, or the row of ``similar``.

    Returns
    -------
    ndarray, (<= n,) int64
        Row numbers, the one to label first in front.

    References
    ----------
    ``uncertain`` and ``margin``: Settles 2009, Active Learning Literature Survey, section 3.1. ``disagree``: the
    Jensen-Shannon divergence, ibid., section 3.2. ``diverse``: Sener and Savarese 2018, ICLR, greedy k-center.
    """
    probabilities = np.asarray(probabilities, np.float64)
    members = probabilities if probabilities.ndim == 3 else probabilities[None]
    embeddings = np.asarray(embeddings, np.float64)
    labelled = np.asarray(labelled, bool)
    pool = _Pool(members, embeddings, labelled, rng, target)
    free = np.flatnonzero(~labelled)
    if strategy == "diverse":
        return _cover(pool, free, min(n, len(free)))
    shuffled = rng.permutation(free)  # equal scores are in no order of the file
    scores = _SCORES[strategy](pool)
    return shuffled[np.argsort(-scores[shuffled], kind="stable")][:n]


def reserve(keys: Sequence[str], share: float) -> np.ndarray:
    """Return the rows that only the random queue offers, in its order.

    Parameters
    ----------
    keys : sequence of str, N
        What names each row; it alone decides the order, so that another session and another person draw the same rows.
    share : float in [0, 1]
        Of the rows; a share below 1 is of at most `MOST_RESERVED` of them.

    Returns
    -------
    ndarray, (n,) int64
        A simple random sample of the rows, without replacement.
    """
    order = np.argsort([blake2b(key.encode(), digest_size=8).hexdigest() for key in keys], kind="stable")
    n = round(share * len(keys))
    return order[: n if share >= 1 else min(n, MOST_RESERVED)].astype(np.int64)


def mix(
    chosen: np.ndarray, drawn: np.ndarray, share: float, n: int, rng: np.random.Generator
) -> list[tuple[int, bool]]:
    """Shuffle random rows into a strategy's rows, keeping the order of both.

    Parameters
    ----------
    chosen, drawn : ndarray of int64
        Rows of the strategy and random rows; where one runs out, the other fills in.
    share : float in [0, 1]
        Of the result, how much is drawn at random.
    n : int
        How many rows to return at most.

    Returns
    -------
    list of (int, bool)
        Rows, and whether each was drawn at random.
    """
    n_drawn = min(len(drawn), max(round(share * n), n - len(chosen)))
    n_chosen = min(len(chosen), n - n_drawn)
    random = rng.permutation(np.arange(n_drawn + n_chosen) < n_drawn)
    rows = np.empty(len(random), np.int64)
    rows[random], rows[~random] = drawn[:n_drawn], chosen[:n_chosen]
    return list(zip(rows.tolist(), random.tolist(), strict=True))


def _mean(pool: _Pool) -> np.ndarray:
    return pool.probabilities.mean(0)


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    return -(probabilities * np.log(np.maximum(probabilities, SMALLEST))).sum(-1)


def _margin(pool: _Pool) -> np.ndarray:
    """Minus the distance between the two most probable classes."""
    best = np.sort(_mean(pool), 1)
    return best[:, -2] - best[:, -1]


def _disagreement(pool: _Pool) -> np.ndarray:
    """Jensen-Shannon divergence between the networks, nats."""
    return _entropy(_mean(pool)) - _entropy(pool.probabilities).mean(0)


def _unlikeness(pool: _Pool) -> np.ndarray:
    """Distance to the nearest labelled row, or to the mean of all rows if none is labelled."""
    centres = pool.embeddings[pool.labelled] if pool.labelled.any() else pool.embeddings.mean(0, keepdims=True)
    return _nearest(pool.embeddings, centres)


def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Distance (N,) of each point (N, D) to the nearest centre (m, D)."""
    squared = np.full(len(points), np.inf)
    norms = (points**2).sum(1)
    for start in range(0, len(centres), BLOCK):
        some = centres[start : start + BLOCK]
        found = norms[:, None] - 2 * points @ some.T + (some**2).sum(1)
        np.minimum(squared, found.min(1), out=squared)
    return np.sqrt(np.maximum(squared, 0))


def _cover(pool: _Pool, free: np.ndarray, n: int) -> np.ndarray:
    """Add, n times, the row that is farthest from all labelled and added ones."""
    points, chosen = pool.embeddings[free], list[int]()
    distance = _unlikeness(pool)[free]
    if not pool.labelled.any():  # begin in the middle: the first of a few labels should be typical
        distance = distance.max(initial=0) - distance
    for _ in range(n):
        row = int(distance.argmax())
        new = np.sqrt(((points - points[row]) ** 2).sum(1))
        distance = new if not (chosen or pool.labelled.any()) else np.minimum(distance, new)
        distance[row] = -1  # not again, even where all points are one
        chosen.append(row)
    return free[np.array(chosen, np.int64)]


_SCORES: dict[str, Callable[[_Pool], np.ndarray]] = {
    "probable": lambda pool: _mean(pool)[:, pool.target],
    "uncertain": lambda pool: _entropy(_mean(pool)),
    "margin": _margin,
    "disagree": _disagreement,
    "unlike": _unlikeness,
    "similar": lambda pool: -_nearest(pool.embeddings, pool.embeddings[[pool.target]]),
    "random": lambda pool: pool.rng.random(len(pool.labelled)),
}
STRATEGIES = (*_SCORES, "diverse")
FROM_START = tuple(name for name in STRATEGIES if name != "similar")  # which need no alert to begin with
