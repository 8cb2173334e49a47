"""Description of the training data for the model, as plain values that are saved in the checkpoint."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alerce_early.construct import construct
from alerce_early.data import text
from alerce_early.data.records import has_data


@dataclass(frozen=True)
class DataSpec:
    """Description of a data set for a network.

    Parameters
    ----------
    kind : {"stamps", "spectra"}
        Kind of the rows.
    shape : tuple of int
        Shape after the recipe, (C, H, W) or (C, L).
    classes : tuple of str
        Class names in label order.
    features : tuple of str
        Names of the F metadata columns in a batch.
    feature_mean, feature_std : tuple of float
        Means and standard deviations of these columns in the training split.
    recipe : tuple of dict
        Cleaning steps as plain configs, in order.
    margin : int
        Pixels of sky that the store keeps around the crop for augmentation.
    n_train : int
        Number of rows of the training split.
    fingerprint : str
        Fingerprint of raw file, recipe and cleaning version, as in the name of the store.
    origin : str
        The file or simulation, for messages and reports.
    raw_shape : tuple of int
        Shape before the recipe, (C, H, W) or (C, L); () if unknown.
    channels : tuple of str
        Names of the raw channels, which determine the input formats that the network accepts.
    min_share : float
        Required fraction of valid central pixels, in [0, 1], in the area that the network sees.
    survey : str
        Survey of the alerts, "" if unknown or irrelevant.
    class_counts : tuple of int
        Number of labelled training rows by class, in label order; () if unknown.

    Raises
    ------
    InputError
        If a class name contains "|".
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
        """Return a mask (N,) of the raw images (N, H, W, C) or (N, L, C) with enough valid central pixels."""
        return has_data(images, self.shape[-1], self.min_share)

    def plain(self) -> dict[str, Any]:
        """Return the attributes as a dict of plain values."""
        return asdict(self)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "DataSpec":
        """Create a spec from the result of `plain`, or a copy of it from JSON or a checkpoint.

        Parameters
        ----------
        values : mapping of str to object
            Attributes by name.

        Returns
        -------
        DataSpec
            The spec.

        Raises
        ------
        InputError
            If an attribute is missing, unknown or of another type.
        """
        frozen: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return construct(cls, **frozen)
