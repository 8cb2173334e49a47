"""Metadata columns whose distribution differs between two samples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

N_BINS = 10
ALPHA = 0.05  # significance level for all columns together


def find_drift(reference: np.ndarray, other: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Find the columns whose distribution differs by a Kolmogorov-Smirnov test.

    The test compares whole samples: a different mix of classes is drift, too.

    Parameters
    ----------
    reference, other : ndarray
        (N, F) and (M, F) float.
    names : sequence of str
        The F column names.

    Returns
    -------
    list of dict
        {"column", "ks", "p", "psi", "median", "other_median"} of each column with p < 0.05 / F (Bonferroni), largest
        KS statistic first.
    """
    if not len(reference) or not len(other):
        return []
    found = []
    for i, name in enumerate(names):
        test = ks_2samp(reference[:, i], other[:, i])
        if test.pvalue < ALPHA / len(names):
            found.append(
                {
                    "column": str(name),
                    "ks": float(test.statistic),
                    "p": float(test.pvalue),
                    "psi": psi(reference[:, i], other[:, i]),
                    "median": float(np.median(reference[:, i])),
                    "other_median": float(np.median(other[:, i])),
                }
            )
    return sorted(found, key=lambda one: -one["ks"])


def psi(reference: np.ndarray, other: np.ndarray) -> float:
    """Compute the population stability index of two samples (N,) and (M,).

    Sum of (q - p) ln(q / p) over deciles of the reference, with half a row added to each bin. By convention a value
    below 0.1 is small and one above 0.25 large.
    """
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, N_BINS + 1)[1:-1], method="lower"))
    edges = edges[edges > reference.min()]  # every bin has a row of the reference
    p, q = (_shares(values, edges) for values in (reference, other))
    return float(((q - p) * np.log(q / p)).sum())


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the fraction of values in each bin, with half a row added to each."""
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) + 0.5
    return counts / counts.sum()
