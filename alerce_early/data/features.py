"""Metadata columns: the clips of the published model, before standardisation by training statistics."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from alerce_early.data.records import MISSING

# Carrasco-Davis et al. 2021: lower and upper bound; -1 stands for missing (-999) where a column has a floor.
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
    """Raw columns of these names to their physical ranges; NaN and what is infinite in float32 count as missing (-999).

    (B, F) of any float dtype -> the same. Columns without a known range pass unchanged. All bounds are exact in
    float32, so it makes no difference whether columns are clipped before or after they become float32.
    """

    low: Tensor
    high: Tensor

    def __init__(self, names: Sequence[str]):
        super().__init__()
        bounds = torch.tensor([CLIPS.get(name, (-torch.inf, torch.inf)) for name in names]).reshape(-1, 2)
        self.register_buffer("low", bounds[:, 0].contiguous(), persistent=False)
        self.register_buffer("high", bounds[:, 1].contiguous(), persistent=False)

    def forward(self, columns: Tensor) -> Tensor:
        known = columns.where(columns.float().isfinite(), MISSING)
        return known.clamp(self.low.to(columns.dtype), self.high.to(columns.dtype))


def clip(columns: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """`Clip` for an array (N, F) float64; returns a new one."""
    return Clip(names)(torch.from_numpy(np.ascontiguousarray(columns))).numpy()
