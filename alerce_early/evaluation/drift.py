"""Which metadata columns are distributed otherwise in one set of rows than in another."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

BINS = 10
ALPHA = 0.05  # for all columns together


def find_drift(
    reference: np.ndarray,
    other: np.ndarray,
    names: Sequence[str],
    reference_labels: np.ndarray | None = None,
    other_labels: np.ndarray | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return the columns that differ, the most different first: {"column", "ks", "p", "psi", "median", "other_median"}.

    reference: (N, F), other: (M, F) float; names: (F,). labels: (N,) and (M,) int64; where given, rows of the
    reference are left out until its classes have the shares they have in the other, so that another mix of
    classes is not taken for drift. A column is listed where the Kolmogorov-Smirnov test gives p < 0.05 / F
    (Bonferroni); psi is the population stability index, see `psi`.
    """
    if reference_labels is not None and other_labels is not None:
        reference = reference[match_classes(reference_labels, other_labels, seed)]
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


def match_classes(labels: np.ndarray, wanted: np.ndarray, seed: int = 0) -> np.ndarray:
    """Row numbers, as many as possible, that have the class shares of `wanted`; both (N,) int64 >= 0."""
    have, want = (np.bincount(column, minlength=1 + max(labels.max(), wanted.max())) for column in (labels, wanted))
    share = want / want.sum()
    most = (have[share > 0] / share[share > 0]).min()
    rows = np.random.default_rng([seed, 0xD21F7]).permutation(len(labels))
    rows = rows[np.argsort(labels[rows], kind="stable")]
    place = np.arange(len(rows)) - np.searchsorted(labels[rows], labels[rows])
    return np.sort(rows[place < np.round(share * most)[labels[rows]]])
