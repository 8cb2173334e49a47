"""Bayesian dense layers: a normal distribution over each weight, drawn anew for each example (Wen et al. 2018)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError
from alerce_early.models.net import Net

INITIAL_RHO = -5.0  # sigma = softplus(rho) = 0.007: learning begins as in an ordinary network
DRAWS_SEED = 0


class FlipoutLinear(nn.Module):
    """A dense layer whose weights have independent normal posteriors; biases are plain numbers.

    prior_std: standard deviation of the prior of each weight, which is normal with mean 0. sigma = softplus(rho).
    Parameters: 2 x inputs x outputs + outputs.
    """

    def __init__(self, inputs: int, outputs: int, prior_std: float = 1.0):
        super().__init__()
        self.prior_std = prior_std
        self.mean = nn.Parameter(nn.init.xavier_uniform_(torch.empty(outputs, inputs)))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.rho = nn.Parameter(torch.full_like(self.mean, INITIAL_RHO))

    @property
    def sigma(self) -> Tensor:
        """(outputs, inputs), the posterior's standard deviations."""
        return nn.functional.softplus(self.rho)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) -> (B, outputs): the mean weights' output, plus a perturbation of its own for each example.

        All examples share one draw of the weights' noise, whose signs are flipped at random by input and by
        output of each example (section 3.1 of the paper): every example sees an exact draw of the posterior, and
        the noise of their gradients averages out over the batch. In eval mode the weights are their means.
        """
        out = nn.functional.linear(x, self.mean, self.bias)
        if not self.training:
            return out
        noise = self.sigma * torch.randn_like(self.sigma)
        return out + nn.functional.linear(x * _signs(x), noise) * _signs(out)

    def drawn(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """(B, inputs), or (n, B, inputs) for each draw its own, -> (n, B, outputs): n draws of the weights.

        Each draw is the same for all B examples.
        """
        noise = torch.randn(n, *self.mean.shape, generator=generator).to(x.device)
        inputs = "bi" if x.ndim == 2 else "nbi"
        return torch.einsum(f"{inputs},noi->nbo", x, self.mean + self.sigma * noise) + self.bias

    def kl(self) -> Tensor:
        """Kullback-Leibler divergence of the posterior from the prior, summed over the weights; nats, scalar."""
        mean, sigma = self.mean / self.prior_std, self.sigma / self.prior_std
        return (0.5 * (mean.square() + sigma.square() - 1) - sigma.log()).sum()


class FlipoutMLP(Net):
    """Dense Flipout layers over the flattened stamp, ReLU between them.

    242,626 parameters for 4 channels, 21 x 21 pixels, 2 classes and three hidden layers of 64. prior_std: of all
    weights. With 1, weights at their prior add noise of about 10 to the sum over 1,764 pixels, which drowns any stamp.
    """

    def __init__(self, spec: DataSpec, hidden: Sequence[int] = (64, 64, 64), prior_std: float = 1.0):
        super().__init__(spec)
        if not prior_std > 0:
            raise InputError(f"model.net.prior_std={prior_std}; wanted a number above 0.")
        self.prior_std = prior_std
        channels, height, width = spec.shape
        sizes = [channels * height * width, *hidden, len(spec.classes)]
        self.layers = nn.ModuleList(FlipoutLinear(*sides, prior_std) for sides in pairwise(sizes))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """image (B, C, H, W) float32 -> (B, classes) logits, of one draw per example; in eval mode of the means."""
        x = batch["image"].flatten(1)
        for i, layer in enumerate(self.layers):
            x = layer(x.relu() if i else x)
        return x

    def draws(self, batch: dict[str, Tensor], n: int) -> Tensor:
        """(n, B, classes) logits of n draws of the weights, always the same ones, for rows in any batch."""
        x = batch["image"].flatten(1)
        generator = torch.Generator().manual_seed(DRAWS_SEED)  # on the CPU: every device gets the same draws
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, FlipoutLinear)
            x = layer.drawn(x.relu() if i else x, n, generator)
        return x

    @property
    def sigmas(self) -> list[Tensor]:
        """The posterior's standard deviations, (outputs, inputs) of each layer."""
        return [layer.sigma for layer in self.layers if isinstance(layer, FlipoutLinear)]

    def kl(self) -> Tensor:
        """Divergence of all layers' posteriors from their priors; nats, scalar."""
        return torch.stack([layer.kl() for layer in self.layers if isinstance(layer, FlipoutLinear)]).sum()


def _signs(x: Tensor) -> Tensor:
    """-1 or 1 with equal chance, in the shape of x."""
    return torch.randint_like(x, 2).mul_(2).sub_(1)
