"""What every reader returns: raw stamps or spectra with their ids, labels and columns, nothing cleaned yet."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alerce_early.errors import InputError

UNLABELLED = -1


@dataclass(frozen=True)
class Records:
    """N raw rows of one file or survey.

    kind: "stamps", or "spectra".
    images: N arrays (H, W, C), or one dense array (N, H, W, C); (L, C) and (N, L, C) for spectra; any float
        dtype and byte order, NaN allowed.
    labels: (N,) int64, an index into `classes`, or `UNLABELLED`.
    ids: (N,) str, the object a row belongs to; rows of one object are never split.
    features: (N, F) float64 columns named by `feature_names`; F may be 0.
    part: (N,) str, the split the file itself prescribes ("train", "validation", "test"), or None.
    origin: in words, for people: which file or which simulation this is.
    """

    images: Sequence[np.ndarray] | np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    features: np.ndarray
    feature_names: tuple[str, ...]
    classes: tuple[str, ...]
    origin: str
    part: np.ndarray | None = None
    kind: str = "stamps"

    def __post_init__(self) -> None:
        lengths = {
            "images": len(self.images),
            "labels": len(self.labels),
            "metadata": len(self.features),
            "ids": len(self.ids),
        }
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{count:,} {name}" for name, count in lengths.items())
            raise InputError(f"{self.origin}: every row needs one of each, but there are {told}.")
        if not len(self.images):
            raise InputError(f"{self.origin}: holds no rows.")

    def __len__(self) -> int:
        return len(self.images)
