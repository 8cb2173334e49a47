"""Clipping of metadata columns to fixed ranges before standardisation."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from alerce_early.data.records import MISSING

# Bounds of Carrasco-Davis et al. 2021, AJ 162, 231. With a lower bound of -1, missing values (-999) become -1.
CLIPS: dict[str, tuple[float, float]] = {
    **{f"sgscore{i}": (-1.0, torch.inf) for i in (1, 2, 3)},
    **{f"distpsnr{i}": (-1.0, torch.inf) for i in (1, 2, 3)},
    "distnr": (-1.0, torch.inf),
    "magnr": (-1.0, torch.inf),
    "fwhm": (-torch.inf, 10.0),
    "ndethist": (-torch.inf, 20.0),
    "ncovhist": (-torch.inf, 3000.0),
    "non_detections": (-torch.inf, 2000.0),
    "chinr": (-1.0, 15.0),
    "sharpnr": (-1.0, 1.5),
}


class Clip(nn.Module):
    """Clip metadata columns to their ranges; NaN, and values that are infinite in float32, count as missing (-999).

    Columns that are not in `CLIPS` have no range. All bounds are exact in float32, so columns can be clipped before or
    after conversion to float32.

    Parameters
    ----------
    names : sequence of str
        Names of the F columns.
    """

    low: Tensor
    high: Tensor

    def __init__(self, names: Sequence[str]):
        super().__init__()
        bounds = torch.tensor([CLIPS.get(name, (-torch.inf, torch.inf)) for name in names]).reshape(-1, 2)
        self.register_buffer("low", bounds[:, 0].contiguous(), persistent=False)
        self.register_buffer("high", bounds[:, 1].contiguous(), persistent=False)

    def forward(self, columns: Tensor) -> Tensor:
        """Return clipped columns (B, F), with the dtype of the argument."""
        known = columns.where(columns.float().isfinite(), MISSING)
        return known.clamp(self.low.to(columns.dtype), self.high.to(columns.dtype))


def clip(columns: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return a clipped copy of columns (N, F) float64; see `Clip`."""
    return Clip(names)(torch.from_numpy(np.ascontiguousarray(columns))).numpy()
