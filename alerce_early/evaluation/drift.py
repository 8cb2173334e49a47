"""Which metadata columns are distributed otherwise in one set of rows than in another."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

BINS = 10
ALPHA = 0.05  # for all columns together


def find_drift(reference: np.ndarray, other: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the columns that differ, the most different first: {"column", "ks", "p", "psi", "median", "other_median"}.

    reference: (N, F), other: (M, F) float; names: (F,). A column is listed where the Kolmogorov-Smirnov test gives
    p < 0.05 / F (Bonferroni), be it for another mix of classes; psi is the population stability index, see `psi`.
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
    """Return the population stability index of two samples, in bins that each hold a tenth of the reference.

    Sum of (q - p) ln(q / p) over bins, half a row added to each; by custom below 0.1 is little, above 0.25 much.
    """
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, BINS + 1)[1:-1], method="lower"))
    edges = edges[edges > reference.min()]  # no bin without a row of the reference
    p, q = (_shares(values, edges) for values in (reference, other))
    return float(((q - p) * np.log(q / p)).sum())


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) + 0.5
    return counts / counts.sum()
