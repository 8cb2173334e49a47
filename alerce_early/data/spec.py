"""What a model must know of the data, in plain values that travel inside the checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alerce_early.construct import construct
from alerce_early.data import text
from alerce_early.data.records import has_data


@dataclass(frozen=True)
class DataSpec:
    """The facts of one data set, as seen by a network.

    kind: "stamps" or "spectra".
    shape: what the recipe delivers, (C, H, W) or (C, L).
    classes: class names in label order.
    features: names of the metadata columns in a batch, with their training-split mean and standard deviation.
    recipe: the cleaning steps as plain configs, in order.
    margin: pixels of sky the store keeps around the crop for augmentation.
    n_train: rows of the training split.
    fingerprint: of raw file, recipe and cleaning version; names the store.
    origin: in words, which file or simulation this was.
    raw_shape: what the recipe is given, (C, H, W) or (C, L); () if unknown.
    channels: names of the raw channels; they tell which reader's files the network can take.
    min_share: of a raw row's central pixels, as many as the network sees, the share that must hold data.
    survey: whose alerts these were; "" if unknown or of no matter.
    class_counts: labelled rows of the training split by class, in label order; () if unknown.

    Raises InputError for a class name that has a "|".
    """

    kind: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    features: tuple[str, ...]
    feature_mean: tuple[float, ...]
    feature_std: tuple[float, ...]
    recipe: tuple[dict[str, Any], ...]
    margin: int
    n_train: int
    fingerprint: str
    origin: str
    raw_shape: tuple[int, ...] = ()
    channels: tuple[str, ...] = ()
    min_share: float = 0.0
    survey: str = ""
    class_counts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        text.check_classes(self.classes)

    def has_data(self, images: np.ndarray) -> np.ndarray:
        """Tell which raw images (N, H, W, C) or (N, L, C) hold enough data, (N,) bool; the others are set aside."""
        return has_data(images, self.shape[-1], self.min_share)

    def plain(self) -> dict[str, Any]:
        """As a dict of plain values."""
        return asdict(self)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "DataSpec":
        """From `plain()`, also after a round trip through JSON or a checkpoint.

        Raises InputError for a value that is missing, unknown or of another type.
        """
        frozen: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return construct(cls, **frozen)
