"""Choose which alerts to label first (active learning), as functions of plain arrays.

An estimate of purity is unbiased only if its rows were drawn at random from the whole night. Each alert therefore has a
place in a random order that depends on its name alone. `reserve` keeps the first of that order, which no other queue
offers.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

SMALLEST = 1e-12  # probability, to avoid the logarithm of 0
MOST_RESERVED = 300  # random rows: enough to estimate a purity to within 6 percentage points
BLOCK = 512  # labelled rows whose distances are computed at once


class _Pool(NamedTuple):
    """Arguments of a strategy: probabilities (M, N, K), embeddings (N, D), labelled (N,) bool, and options."""

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
        Calibrated probabilities of one network, or of M networks to compare.
    embeddings : ndarray, (N, D) float
        Vectors between which distances are measured.
    labelled : ndarray, (N,) bool
        Rows with a label, which are never chosen.
    n : int
        Number of rows to return; fewer if fewer are unlabelled.
    rng : numpy.random.Generator
        Generator for random rows and for breaking ties.
    target : int
        Index of the class for ``probable``, or of the row for ``similar``.

    Returns
    -------
    ndarray, (<= n,) int64
        Row numbers, most useful first.

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
    shuffled = rng.permutation(free)  # so that ties are not in the order of the file
    scores = _SCORES[strategy](pool)
    return shuffled[np.argsort(-scores[shuffled], kind="stable")][:n]


def reserve(keys: Sequence[str], share: float) -> np.ndarray:
    """Draw the random sample of rows that only the random queue offers.

    Parameters
    ----------
    keys : sequence of str, N
        Names of the rows. They alone decide the order, so that every session and person draws the same rows.
    share : float in [0, 1]
        Share of the rows to draw; below 1, at most `MOST_RESERVED` rows are drawn.

    Returns
    -------
    ndarray, (n,) int64
        Row numbers of a simple random sample without replacement, in random order.
    """
    order = np.argsort([blake2b(key.encode(), digest_size=8).hexdigest() for key in keys], kind="stable")
    n = round(share * len(keys))
    return order[: n if share >= 1 else min(n, MOST_RESERVED)].astype(np.int64)


def mix(
    chosen: np.ndarray, drawn: np.ndarray, share: float, n: int, rng: np.random.Generator
) -> list[tuple[int, bool]]:
    """Interleave the rows of a strategy with random rows, keeping the order of both.

    Parameters
    ----------
    chosen, drawn : ndarray of int64
        Rows of the strategy, and random rows. If one runs out, the other is used instead.
    share : float in [0, 1]
        Share of random rows in the result.
    n : int
        Largest number of rows to return.
    rng : numpy.random.Generator
        Generator for the positions of the random rows.

    Returns
    -------
    list of (int, bool)
        Row number, and whether it was drawn at random.
    """
    n_drawn = min(len(drawn), max(round(share * n), n - len(chosen)))
    n_chosen = min(len(chosen), n - n_drawn)
    random = rng.permutation(np.arange(n_drawn + n_chosen) < n_drawn)
    rows = np.empty(len(random), np.int64)
    rows[random], rows[~random] = drawn[:n_drawn], chosen[:n_chosen]
    return list(zip(rows.tolist(), random.tolist(), strict=True))


def _mean(pool: _Pool) -> np.ndarray:
    """Average the probabilities over the networks, (N, K)."""
    return pool.probabilities.mean(0)


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return the Shannon entropy over the last axis, in nats."""
    return -(probabilities * np.log(np.maximum(probabilities, SMALLEST))).sum(-1)


def _margin(pool: _Pool) -> np.ndarray:
    """Return minus the difference between the two highest probabilities, (N,)."""
    best = np.sort(_mean(pool), 1)
    return best[:, -2] - best[:, -1]


def _disagreement(pool: _Pool) -> np.ndarray:
    """Return the Jensen-Shannon divergence between the networks, (N,) in nats."""
    return _entropy(_mean(pool)) - _entropy(pool.probabilities).mean(0)


def _unlikeness(pool: _Pool) -> np.ndarray:
    """Return the distance (N,) to the nearest labelled row, or to the mean of all rows if none is labelled."""
    centres = pool.embeddings[pool.labelled] if pool.labelled.any() else pool.embeddings.mean(0, keepdims=True)
    return _nearest(pool.embeddings, centres)


def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the distance (N,) of each point (N, D) to the nearest centre (m, D)."""
    squared = np.full(len(points), np.inf)
    norms = (points**2).sum(1)
    for start in range(0, len(centres), BLOCK):
        some = centres[start : start + BLOCK]
        found = norms[:, None] - 2 * points @ some.T + (some**2).sum(1)
        np.minimum(squared, found.min(1), out=squared)
    return np.sqrt(np.maximum(squared, 0))


def _cover(pool: _Pool, free: np.ndarray, n: int) -> np.ndarray:
    """Choose n rows greedily, each the farthest from all labelled and chosen rows."""
    points, chosen = pool.embeddings[free], list[int]()
    distance = _unlikeness(pool)[free]
    if not pool.labelled.any():  # start with the most central row, because the first label should be of a typical alert
        distance = distance.max(initial=0) - distance
    for _ in range(n):
        row = int(distance.argmax())
        new = np.sqrt(((points - points[row]) ** 2).sum(1))
        distance = new if not (chosen or pool.labelled.any()) else np.minimum(distance, new)
        distance[row] = -1  # never again, even if all points coincide
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
# strategies that can start a session; similar needs an alert
FROM_START = tuple(name for name in STRATEGIES if name != "similar")
