"""Generation: what else could there be of this class?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from alerce_early.errors import InputError
from alerce_early.models.vae import Encoding, StampVAE
from alerce_early.tasks.base import Batch, Task

if TYPE_CHECKING:
    from alerce_early.data.datamodule import AlertData

SHOWN = 4  # stamps of each class and kind
AT_ONCE = 256  # stamps generated together; bounds memory


class GenerateTask(Task):
    """The negative evidence lower bound, nats per pixel and channel, with the divergence's weight annealed.

    beta: weight of the divergence from the prior (Higgins et al. 2017; 1 is the bound itself); anneal_steps:
    training steps over which it grows to that from 0, lest the code be given up before it is of use (Bowman
    et al. 2016).

    Columns: reconstruction, root mean square error of the reconstruction in the units of the image, of which
    sky noise is a part that no code can tell; nll, negative log likelihood, nats per pixel and channel; kl,
    divergence of the code from its prior, nats. All three are of the code's posterior mean.
    """

    net: StampVAE
    deployable = False  # the code is that of a stamp of a known class
    lower_is_better = frozenset({"loss", "reconstruction", "nll", "kl"})
    shown = ("reconstruction", "kl")

    def __init__(self, *args: Any, beta: float = 1.0, anneal_steps: int = 500, **options: Any):
        super().__init__(*args, **options)
        if not isinstance(self.net, StampVAE):
            raise InputError(f"GenerateTask needs a net that generates; {type(self.net).__name__} does not.")
        self.beta, self.anneal_steps = beta, anneal_steps

    def losses(self, z: Encoding, batch: Batch) -> dict[str, Tensor]:
        nll, kl = z.pixels.nll(batch["image"]).mean(), z.kl().mean()
        weight = min(1.0, self.global_step / self.anneal_steps) if self.anneal_steps and self.training else 1.0
        return {"loss": nll + weight * self.beta * kl / batch["image"][0].numel(), "nll": nll, "kl": kl}

    def outputs(self, z: Encoding, batch: Batch) -> dict[str, Tensor]:
        error = (z.pixels.mean - batch["image"]).flatten(1)
        return {
            "reconstruction": error.square().nanmean(1).sqrt(),
            "nll": z.pixels.nll(batch["image"]),
            "kl": z.kl(),
        }

    def report(self, table: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Means over the rows."""
        return {name: float(table[name].mean()) for name in ("reconstruction", "nll", "kl")}

    @torch.no_grad()
    def generate(self, labels: np.ndarray, size: int | None = None, seed: int = 0) -> Tensor:
        """Stamps (N, C, S, S) float32 of these classes (N,) int64, in the units of the recipe.

        size: of the stamps, with sky around, if not that of the training stamps.
        """
        self.eval()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            parts = torch.from_numpy(labels).to(self.device).split(AT_ONCE)
            return torch.cat([self.net.generate(part, size) for part in parts]).cpu()

    @torch.no_grad()
    def examples(self, data: AlertData) -> dict[str, np.ndarray]:
        """Return real test stamps of each class, what the code keeps of them (noise drawn anew), and generated ones."""
        self.eval()
        test = data.parts["test"]
        rows = np.concatenate([np.resize(test[data.labels[test] == i], SHOWN) for i in range(len(data.classes))])
        labels = data.labels[rows]
        real = self.recipe.finish(torch.from_numpy(data.store.images[rows]))
        batch = {"image": real.to(self.device), "label": torch.from_numpy(labels).to(self.device)}
        blocks = {
            "real": real,
            "reconstructed": self.net(batch).pixels.sample().cpu(),
            "generated": self.generate(labels),
        }
        return {name: stamps.numpy().reshape(-1, SHOWN, *stamps.shape[1:]) for name, stamps in blocks.items()}
