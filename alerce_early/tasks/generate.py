"""Training and sampling of the variational autoencoder that generates stamps."""

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

N_EXAMPLES = 4  # stamps of each class and kind
GENERATION_BATCH = 256  # stamps generated together; bounds memory


class GenerateTask(Task):
    """Minimise the negative evidence lower bound in nats per pixel and channel, with annealed KL weight.

    The outputs are computed from the posterior mean of the code: ``reconstruction``, the root mean square error in
    the units of the image, which includes the sky noise; ``nll``, the negative log likelihood in nats per pixel and
    channel; ``kl``, the divergence of the code from its prior in nats.

    Parameters
    ----------
    *args, **options
        See `Task`.
    beta : float
        Weight of the KL divergence; 1 is the evidence lower bound (Higgins et al. 2017).
    anneal_steps : int
        Training steps over which the weight grows from 0, so that the code is not abandoned early (Bowman et al. 2016).

    Raises
    ------
    InputError
        If the network does not generate.
    """

    net: StampVAE
    deployable = False  # the code depends on the label
    lower_is_better = frozenset({"loss", "reconstruction", "nll", "kl"})
    shown = ("reconstruction", "kl")

    def __init__(self, *args: Any, beta: float = 1.0, anneal_steps: int = 500, **options: Any):
        super().__init__(*args, **options)
        if not isinstance(self.net, StampVAE):
            raise InputError(f"model.net: {type(self.net).__name__} does not generate stamps. Choose model=stamp_vae.")
        self.beta, self.anneal_steps = beta, anneal_steps

    def losses(self, z: Encoding, batch: Batch) -> dict[str, Tensor]:
        """Return "loss", "nll" and "kl"."""
        nll, kl = z.pixels.nll(batch["image"]).mean(), z.kl().mean()
        weight = min(1.0, self.global_step / self.anneal_steps) if self.anneal_steps and self.training else 1.0
        return {"loss": nll + weight * self.beta * kl / batch["image"][0].numel(), "nll": nll, "kl": kl}

    def outputs(self, z: Encoding, batch: Batch) -> dict[str, Tensor]:
        """Return the columns "reconstruction", "nll" and "kl"."""
        error = (z.pixels.mean - batch["image"]).flatten(1)
        return {
            "reconstruction": error.square().nanmean(1).sqrt(),
            "nll": z.pixels.nll(batch["image"]),
            "kl": z.kl(),
        }

    def report(self, table: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the mean of each metric over the rows."""
        return {name: float(table[name].mean()) for name in ("reconstruction", "nll", "kl")}

    @torch.no_grad()
    def generate(self, labels: np.ndarray, size: int | None = None, seed: int = 0) -> Tensor:
        """Generate stamps of the given classes.

        Parameters
        ----------
        labels : ndarray
            (N,) int64.
        size : int, optional
            Side in pixels, if larger than the training stamps; the border is sky.
        seed : int
            Fixes codes and noise.

        Returns
        -------
        Tensor
            (N, C, S, S) float32, in the units of the recipe.
        """
        self.eval()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            parts = torch.from_numpy(labels).to(self.device).split(GENERATION_BATCH)
            return torch.cat([self.net.generate(part, size) for part in parts]).cpu()

    @torch.no_grad()
    def examples(self, data: AlertData) -> dict[str, np.ndarray]:
        """Return real, reconstructed (with new noise) and generated stamps of each class."""
        self.eval()
        test = data.parts["test"]
        rows = np.concatenate([np.resize(test[data.labels[test] == i], N_EXAMPLES) for i in range(len(data.classes))])
        labels = data.labels[rows]
        real = self.recipe.finish(torch.from_numpy(data.store.images[rows]))
        batch = {"image": real.to(self.device), "label": torch.from_numpy(labels).to(self.device)}
        blocks = {
            "real": real,
            "reconstructed": self.net(batch).pixels.sample().cpu(),
            "generated": self.generate(labels),
        }
        return {name: stamps.numpy().reshape(-1, N_EXAMPLES, *stamps.shape[1:]) for name, stamps in blocks.items()}
