"""Bayesian dense layers: a normal posterior over each weight, sampled for each example (Wen et al. 2018)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError
from alerce_early.models.net import Net

INITIAL_RHO = -5.0  # sigma = softplus(rho) = 0.007: training begins as in an ordinary network
SAMPLING_SEED = 0


class FlipoutLinear(nn.Module):
    """A dense layer whose weights have independent normal posteriors; its biases are point estimates.

    It has 2 x inputs x outputs + outputs parameters: means, `rho` with sigma = softplus(rho), and biases.

    Parameters
    ----------
    inputs, outputs : int
        Widths of input and output.
    prior_std : float
        Standard deviation of the zero-mean normal prior of each weight.
    """

    def __init__(self, inputs: int, outputs: int, prior_std: float = 1.0):
        super().__init__()
        self.prior_std = prior_std
        self.mean = nn.Parameter(nn.init.xavier_uniform_(torch.empty(outputs, inputs)))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.rho = nn.Parameter(torch.full_like(self.mean, INITIAL_RHO))

    @property
    def sigma(self) -> Tensor:
        """Standard deviations (outputs, inputs) of the posterior."""
        return nn.functional.softplus(self.rho)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with one posterior sample per example: (B, inputs) -> (B, outputs).

        All examples share one sample of the weight noise, whose signs are flipped at random for each input and
        output of each example (section 3.1 of the paper): each example sees an exact sample of the posterior, and
        the noise of the gradients averages out over the batch. In eval mode the weights are their means.
        """
        out = nn.functional.linear(x, self.mean, self.bias)
        if not self.training:
            return out
        noise = self.sigma * torch.randn_like(self.sigma)
        return out + nn.functional.linear(x * _signs(x), noise) * _signs(out)

    def sample(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Apply the layer with n samples of the weights, each shared by all examples.

        Parameters
        ----------
        x : Tensor
            (B, inputs), or (n, B, inputs) with an input for each sample.
        n : int
            Number of samples.
        generator : torch.Generator
            On the CPU.

        Returns
        -------
        Tensor
            (n, B, outputs).
        """
        noise = torch.randn(n, *self.mean.shape, generator=generator).to(x.device)
        inputs = "bi" if x.ndim == 2 else "nbi"
        return torch.einsum(f"{inputs},noi->nbo", x, self.mean + self.sigma * noise) + self.bias

    def kl(self) -> Tensor:
        """Return the Kullback-Leibler divergence of the posterior from the prior, summed over the weights, in nats."""
        mean, sigma = self.mean / self.prior_std, self.sigma / self.prior_std
        return (0.5 * (mean.square() + sigma.square() - 1) - sigma.log()).sum()


class FlipoutMLP(Net):
    """Dense Flipout layers on the flattened stamp, with ReLU between them.

    242,626 parameters for 4 channels, 21 x 21 pixels, 2 classes and three hidden layers of 64.

    Parameters
    ----------
    spec : DataSpec
        Shape and classes of the data.
    hidden : sequence of int
        Widths of the hidden layers.
    prior_std : float
        Standard deviation of the prior of each weight, above 0. With 1, weights at their prior add noise of about 10
        to the sum over 1,764 pixels, which drowns any stamp.

    Raises
    ------
    InputError
        If `prior_std` is not above 0.
    """

    def __init__(self, spec: DataSpec, hidden: Sequence[int] = (64, 64, 64), prior_std: float = 1.0):
        super().__init__(spec)
        if not prior_std > 0:
            raise InputError(f"model.net.prior_std={prior_std}: expected a number above 0.")
        self.prior_std = prior_std
        channels, height, width = spec.shape
        sizes = [channels * height * width, *hidden, len(spec.classes)]
        self.layers = nn.ModuleList(FlipoutLinear(*sides, prior_std) for sides in pairwise(sizes))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute logits (B, classes) from ``image`` (B, C, H, W) float32, with one posterior sample per example."""
        x = batch["image"].flatten(1)
        for i, layer in enumerate(self.layers):
            x = layer(x.relu() if i else x)
        return x

    def logit_samples(self, batch: dict[str, Tensor], n: int) -> Tensor:
        """Compute logits (n, B, classes) with n samples of the weights, the same n for every batch."""
        x = batch["image"].flatten(1)
        generator = torch.Generator().manual_seed(SAMPLING_SEED)  # on the CPU: the same samples on every device
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, FlipoutLinear)
            x = layer.sample(x.relu() if i else x, n, generator)
        return x

    @property
    def sigmas(self) -> list[Tensor]:
        """Standard deviations (outputs, inputs) of the posterior of each layer."""
        return [layer.sigma for layer in self.layers if isinstance(layer, FlipoutLinear)]

    def kl(self) -> Tensor:
        """Return the Kullback-Leibler divergence of all posteriors from their priors, in nats."""
        return torch.stack([layer.kl() for layer in self.layers if isinstance(layer, FlipoutLinear)]).sum()


def _signs(x: Tensor) -> Tensor:
    """Return -1 or 1 with equal probability, in the shape of x."""
    return torch.randint_like(x, 2).mul_(2).sub_(1)
