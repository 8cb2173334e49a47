"""Class-conditional convolutional variational autoencoder for stamps (Kingma & Welling 2014; Sohn et al. 2015)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alerce_early.data.spec import DataSpec
from alerce_early.models.net import Net

LOG_SQRT_2_PI = math.log(2 * math.pi) / 2
NOISE_AT_FIRST = -2.0  # log noise, near that of a sky in the units of recipe=invertible, where learning is quick
QUIETEST = -5.0  # lowest log noise: a channel that is constant must not give an unbounded likelihood
DRAWN = 0.35  # of the decoder's own errors, in a new stamp: the share that makes its pixels as rough as real ones
FORGETTING = 0.01  # of the codes' moments, a training step


@dataclass(frozen=True)
class Pixels:
    """A normal distribution over the C channels of every pixel, independent from pixel to pixel.

    x_c = mean_c + scale_c * (e_c + sum over j < c of mix_cj * e_j), e standard normal. The mixing is what makes
    the noise of a difference image that of its science image, as in any real subtraction.

    mean, scale: (B, C, S, S) float32, in the units of the image; mix: (B, C (C - 1) / 2, S, S), row by row.
    """

    mean: Tensor
    scale: Tensor
    mix: Tensor

    def nll(self, image: Tensor) -> Tensor:
        """Negative log likelihood (B,), nats per pixel and channel; pixels that lack a channel (NaN) are left out."""
        present = image.isfinite().all(1)
        scaled = (image.nan_to_num() - self.mean) / self.scale
        noise: list[Tensor] = []
        for channel in range(image.shape[1]):
            noise.append(scaled[:, channel] - self._shared(channel, noise))
        each = (0.5 * torch.stack(noise, 1).square() + self.scale.log() + LOG_SQRT_2_PI).mean(1)
        return each.where(present, 0).sum((1, 2)) / present.sum((1, 2)).clamp(min=1)

    def sample(self) -> Tensor:
        """One draw (B, C, S, S)."""
        noise = list(torch.randn_like(self.mean).unbind(1))
        mixed = [noise[channel] + self._shared(channel, noise) for channel in range(len(noise))]
        return self.mean + self.scale * torch.stack(mixed, 1)

    def _shared(self, channel: int, noise: list[Tensor]) -> Tensor:
        """Return what a channel's noise takes over from the channels before it, (B, S, S)."""
        first = channel * (channel - 1) // 2
        parts = [self.mix[:, first + j] * noise[j] for j in range(channel)]
        return torch.stack(parts).sum(0) if parts else torch.zeros_like(self.mean[:, 0])


@dataclass(frozen=True)
class Coded:
    """What the autoencoder makes of a batch: the code's posterior, normal and independent, and the pixels."""

    mean: Tensor  # (B, D)
    log_variance: Tensor  # (B, D)
    pixels: Pixels

    def kl(self) -> Tensor:
        """Divergence of the posterior from the standard normal prior (B,), nats, in closed form."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).sum(1)


class StampVAE(Net):
    """Encoder and decoder of three halvings each, both given the class; `latent` numbers between them.

    The finest halving folds 2 x 2 pixels into channels: half the work at the same detail.

    Most pixels are sky, and a decoder of means alone gives stamps without any. Here the code also gives each
    channel's noise, as a function of brightness and not pixel by pixel: a free noise for every pixel is the
    easier explanation of a star, and was what the network learnt. The units of recipe=invertible, asinh, decide
    the form: sky noise fades as 1 / cosh of the mean, relative errors of bright pixels grow as tanh.

    Real codes do not fill the prior evenly, so new ones are drawn from what the training rows' codes looked like:
    a normal distribution for each class with their running mean and covariance (Ghosh et al. 2020, section 4).

    In mixed precision the layers alone are of fewer digits; code, likelihood and moments are float32.

    forward: image (B, C, S, S), NaN allowed; label (B,) -> `Coded`, from a random code in training and the
    posterior's mean otherwise.
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
        nn.init.constant_(self.noise.bias[: 2 * self.channels], NOISE_AT_FIRST)
        self.register_buffer("code_mean", torch.zeros(self.classes, latent))
        self.register_buffer("code_square", torch.eye(latent).repeat(self.classes, 1, 1))
        self.code_mean: Tensor
        self.code_square: Tensor

    def forward(self, batch: dict[str, Tensor]) -> Coded:  # type: ignore[override]
        mean, log_variance = self.encode(batch["image"], batch["label"])
        code = mean
        if self.training:
            code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
            self._remember(code.detach(), batch["label"])
        return Coded(mean, log_variance, self.decode(code, batch["label"]))

    def encode(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, latent) of the code."""
        around = 8 * self.side - self.size
        image = nn.functional.pad(image.nan_to_num(), (around // 2, around - around // 2) * 2)
        folded = nn.functional.pixel_unshuffle(image, 2)
        planes = self._one_hot(label)[:, :, None, None].expand(-1, -1, *folded.shape[2:])
        mean, log_variance = self.encoder(torch.cat([folded, planes], 1)).float().chunk(2, 1)
        return mean, log_variance

    def decode(self, code: Tensor, label: Tensor, size: int | None = None, error: float = 1.0) -> Pixels:
        """Return the pixels' distribution for codes (B, latent) of these classes (B,) int64.

        size: of the stamps if it is not that of the training stamps; sky goes all around. error: share of the
        noise of bright pixels to keep, most of which is what the decoder gets wrong.
        """
        known = torch.cat([code, self._one_hot(label)], 1)
        around = (8 * self.side - self.size) // 2
        mean = self.decoder(known).float()[:, :, around : around + self.size, around : around + self.size]
        if size and size > self.size:
            before = (size - self.size) // 2
            mean = nn.functional.pad(mean, (before, size - self.size - before) * 2)
        noise = self.noise(known).float()[:, :, None, None]
        sky, bright, mix = noise.split([self.channels, self.channels, self._mixes], 1)
        at = mean.detach()  # a pixel's brightness must not be chosen for the noise that comes with it
        scale = torch.hypot(sky.clamp(min=QUIETEST).exp() / at.cosh(), bright.exp() * at.tanh() * error)
        # sky noise is shared between channels, the errors of bright pixels are not
        return Pixels(mean, scale, mix / at.square().amax(1, keepdim=True).sqrt().cosh())

    def generate(self, label: Tensor, size: int | None = None) -> Tensor:
        """Stamps (B, C, S, S) of these classes (B,) int64: a new code, then noise for its pixels; size as above."""
        covariance = self.code_square - self.code_mean[:, :, None] * self.code_mean[:, None, :]
        root = torch.linalg.cholesky(covariance + 1e-4 * torch.eye(self.latent, device=label.device))
        code = torch.randn(len(label), self.latent, 1, device=label.device)
        return self.decode(self.code_mean[label] + (root[label] @ code).squeeze(2), label, size, DRAWN).sample()

    @torch.no_grad()
    def _remember(self, code: Tensor, label: Tensor) -> None:
        """Let the running moments of each class in the batch move towards those of its codes (B, latent)."""
        one_hot = self._one_hot(label)
        counts = one_hot.sum(0).clamp(min=1)
        rate = FORGETTING * (one_hot.sum(0) > 0)
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
