"""Class-conditional convolutional variational autoencoder for stamps (Kingma & Welling 2014; Sohn et al. 2015)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alerce_early.data.spec import DataSpec
from alerce_early.models.net import Net

LOG_SQRT_2_PI = math.log(2 * math.pi) / 2
INITIAL_LOG_NOISE = -2.0  # about the noise of the sky in the units of recipe=invertible: training converges quickly
MIN_LOG_NOISE = -5.0  # bounds the likelihood of a constant channel
SAMPLE_NOISE_SCALE = 0.35  # share of the decoder's errors in a generated stamp that makes it as rough as a real one
MOMENT_RATE = 0.01  # of the codes' running moments, per training step


@dataclass(frozen=True)
class Pixels:
    """A normal distribution over the C channels of each pixel; pixels are independent of each other.

    x_c = mean_c + scale_c * (e_c + sum over j < c of mix_cj * e_j), with e standard normal. The mixing correlates the
    noise of difference and science image, as a real subtraction does.

    Parameters
    ----------
    mean, scale : Tensor
        (B, C, S, S) float32, in the units of the image.
    mix : Tensor
        (B, C (C - 1) / 2, S, S) float32, the lower triangle row by row.
    """

    mean: Tensor
    scale: Tensor
    mix: Tensor

    def nll(self, image: Tensor) -> Tensor:
        """Return the negative log likelihood (B,) in nats per pixel and channel, without pixels that have a NaN."""
        present = image.isfinite().all(1)
        scaled = (image.nan_to_num() - self.mean) / self.scale
        noise: list[Tensor] = []
        for channel in range(image.shape[1]):
            noise.append(scaled[:, channel] - self._shared(channel, noise))
        each = (0.5 * torch.stack(noise, 1).square() + self.scale.log() + LOG_SQRT_2_PI).mean(1)
        return each.where(present, 0).sum((1, 2)) / present.sum((1, 2)).clamp(min=1)

    def sample(self) -> Tensor:
        """Draw one image (B, C, S, S) from the distribution."""
        noise = list(torch.randn_like(self.mean).unbind(1))
        mixed = [noise[channel] + self._shared(channel, noise) for channel in range(len(noise))]
        return self.mean + self.scale * torch.stack(mixed, 1)

    def _shared(self, channel: int, noise: list[Tensor]) -> Tensor:
        """Return the noise (B, S, S) that a channel shares with the channels before it."""
        first = channel * (channel - 1) // 2
        parts = [self.mix[:, first + j] * noise[j] for j in range(channel)]
        return torch.stack(parts).sum(0) if parts else torch.zeros_like(self.mean[:, 0])


@dataclass(frozen=True)
class Encoding:
    """Posterior of the codes of a batch, normal with independent components, and the decoded pixels.

    Parameters
    ----------
    mean, log_variance : Tensor
        (B, D) float32.
    pixels : Pixels
        Decoded from one code per stamp.
    """

    mean: Tensor
    log_variance: Tensor
    pixels: Pixels

    def kl(self) -> Tensor:
        """Return the Kullback-Leibler divergence (B,) of the posterior from the standard normal prior, in nats."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).sum(1)


class StampVAE(Net):
    """Class-conditional variational autoencoder: encoder and decoder halve and double the resolution three times.

    The finest halving folds 2 x 2 pixels into channels: half the work at the same detail.

    Most pixels are sky, and a decoder that returns only means generates stamps without noise. Here the code also
    determines the noise of each channel, as a function of brightness rather than pixel by pixel: with a free noise
    per pixel the network learned to explain stars as noise. The asinh units of recipe=invertible set the form: sky
    noise falls as 1 / cosh of the mean, relative errors of bright pixels grow as tanh.

    Codes of real stamps do not fill the prior evenly, so new codes are drawn from a normal distribution per class
    with the running mean and covariance of the training codes (Ghosh et al. 2020, section 4).

    In mixed precision only the layers use fewer digits; code, likelihood and moments are float32.

    Parameters
    ----------
    spec : DataSpec
        Shape and classes of the data.
    latent : int
        Length D of the code.
    width : int
        Filters at the finest resolution.

    References
    ----------
    Kingma & Welling 2014, arXiv:1312.6114; Sohn et al. 2015, NeurIPS 28; Ghosh et al. 2020, arXiv:1903.12436.
    """

    def __init__(self, spec: DataSpec, latent: int = 32, width: int = 32):
        super().__init__(spec)
        self.channels, self.size, _ = spec.shape
        self.latent, self.classes = latent, len(spec.classes)
        self.side = -(-self.size // 8)  # of the coarsest map
        flat = 4 * width * self.side**2
        self.encoder = nn.Sequential(
            nn.Conv2d(4 * self.channels + self.classes, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(flat, 2 * latent),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent + self.classes, flat),
            nn.SiLU(),
            nn.Unflatten(1, (4 * width, self.side, self.side)),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * width, 2 * width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 4 * self.channels, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.noise = nn.Linear(latent + self.classes, 2 * self.channels + self.channels * (self.channels - 1) // 2)
        nn.init.constant_(self.noise.bias[: 2 * self.channels], INITIAL_LOG_NOISE)
        self.register_buffer("code_mean", torch.zeros(self.classes, latent))
        self.register_buffer("code_square", torch.eye(latent).repeat(self.classes, 1, 1))
        self.code_mean: Tensor
        self.code_square: Tensor

    def forward(self, batch: dict[str, Tensor]) -> Encoding:  # type: ignore[override]
        """Encode ``image`` (B, C, S, S), NaN allowed, and decode it for the classes ``label`` (B,).

        The decoded code is a sample of the posterior in training and its mean otherwise.
        """
        mean, log_variance = self.encode(batch["image"], batch["label"])
        code = mean
        if self.training:
            code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
            self._update_moments(code.detach(), batch["label"])
        return Encoding(mean, log_variance, self.decode(code, batch["label"]))

    def encode(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the codes, each (B, D), of images (B, C, S, S) with classes (B,)."""
        around = 8 * self.side - self.size
        image = nn.functional.pad(image.nan_to_num(), (around // 2, around - around // 2) * 2)
        folded = nn.functional.pixel_unshuffle(image, 2)
        planes = self._one_hot(label)[:, :, None, None].expand(-1, -1, *folded.shape[2:])
        mean, log_variance = self.encoder(torch.cat([folded, planes], 1)).float().chunk(2, 1)
        return mean, log_variance

    def decode(self, code: Tensor, label: Tensor, size: int | None = None, error: float = 1.0) -> Pixels:
        """Return the distribution of the pixels of codes.

        Parameters
        ----------
        code : Tensor
            (B, D) float32.
        label : Tensor
            (B,) int64, the classes.
        size : int, optional
            Side of the stamps in pixels, if larger than the training stamps; the border is sky.
        error : float
            Share of the noise of bright pixels to keep, in [0, 1]; most of that noise is the decoder's own error.

        Returns
        -------
        Pixels
            Of stamps (B, C, S, S).
        """
        known = torch.cat([code, self._one_hot(label)], 1)
        around = (8 * self.side - self.size) // 2
        mean = self.decoder(known).float()[:, :, around : around + self.size, around : around + self.size]
        if size and size > self.size:
            before = (size - self.size) // 2
            mean = nn.functional.pad(mean, (before, size - self.size - before) * 2)
        noise = self.noise(known).float()[:, :, None, None]
        sky, bright, mix = noise.split([self.channels, self.channels, self._mixes], 1)
        at = mean.detach()  # the noise must not pull the brightness of a pixel
        scale = torch.hypot(sky.clamp(min=MIN_LOG_NOISE).exp() / at.cosh(), bright.exp() * at.tanh() * error)
        # sky noise is shared between channels, errors of bright pixels are not
        return Pixels(mean, scale, mix / at.square().amax(1, keepdim=True).sqrt().cosh())

    def generate(self, label: Tensor, size: int | None = None) -> Tensor:
        """Generate stamps: draw a code for each class, decode it and draw its pixels.

        Parameters
        ----------
        label : Tensor
            (B,) int64, the classes.
        size : int, optional
            As in `decode`.

        Returns
        -------
        Tensor
            (B, C, S, S) float32, in the units of the recipe.
        """
        covariance = self.code_square - self.code_mean[:, :, None] * self.code_mean[:, None, :]
        root = torch.linalg.cholesky(covariance + 1e-4 * torch.eye(self.latent, device=label.device))
        code = torch.randn(len(label), self.latent, 1, device=label.device)
        code = self.code_mean[label] + (root[label] @ code).squeeze(2)
        return self.decode(code, label, size, SAMPLE_NOISE_SCALE).sample()

    @torch.no_grad()
    def _update_moments(self, code: Tensor, label: Tensor) -> None:
        """Update the running moments of each class in the batch with its codes (B, D)."""
        one_hot = self._one_hot(label)
        counts = one_hot.sum(0).clamp(min=1)
        rate = MOMENT_RATE * (one_hot.sum(0) > 0)
        with torch.autocast(code.device.type, enabled=False):
            mean = one_hot.T @ code / counts[:, None]
            square = torch.einsum("bk,bi,bj->kij", one_hot, code, code) / counts[:, None, None]
        self.code_mean += rate[:, None] * (mean - self.code_mean)
        self.code_square += rate[:, None, None] * (square - self.code_square)

    @property
    def _mixes(self) -> int:
        return self.channels * (self.channels - 1) // 2

    def _one_hot(self, label: Tensor) -> Tensor:
        return nn.functional.one_hot(label, self.classes).float()
