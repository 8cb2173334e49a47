"""Emission lines found in boxes along the spectrum, the idea of QuasarNET (Busca & Balland 2018)."""

import torch
from torch import Tensor, nn

from alerce_early.data.spec import DataSpec
from alerce_early.data.spectral_grid import FIRST, STEP
from alerce_early.models.net import Net

# vacuum wavelengths at rest, angstrom: Ly-alpha, C IV, C III], Mg II, H-beta, H-alpha
LINES = (1215.67, 1549.06, 1908.73, 2798.75, 4862.68, 6564.61)
BOX = 16  # pixels, 11,000 km/s
AGREE = 0.02  # of 1 + z, 6,000 km/s
SLACK = 0.1  # how far beyond its box a line may be placed


class Residual(nn.Module):
    """Two convolutions beside which the input passes unchanged: (B, C, L) -> (B, C, L)."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv1d(width, width, kernel, padding="same"), nn.BatchNorm1d(width), nn.ReLU()),
            *(nn.Conv1d(width, width, kernel, padding="same"), nn.BatchNorm1d(width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.layers(x))


class SpectraLines(Net):
    """In which box of 16 pixels is each line, and where in it?

    On a logarithmic wavelength grid a redshift is a shift, so the network is convolutional to the end: four
    strides of 2 make one position a box, and the blocks after them see the whole spectrum, since which line
    it is shows only in its company. forward gives (B, lines, 2 boxes + 1): a logit for each box, one for
    "not in this spectrum", and for each box where in it the line is, in [-0.1, 1.1] of its width.
    """

    kind = "spectra"

    def __init__(self, spec: DataSpec, width: int = 128, blocks: int = 3, dropout: float = 0.1):
        super().__init__(spec)
        inputs, self.length = spec.shape
        self.boxes = -(-self.length // BOX)
        layers: list[nn.Module] = []
        for outputs in (width // 4, width // 2, width, width):
            layers += [nn.Conv1d(inputs, outputs, 9, stride=2, padding=4), nn.BatchNorm1d(outputs), nn.ReLU()]
            inputs = outputs
        self.trunk = nn.Sequential(*layers, *[Residual(width, 9) for _ in range(blocks)], nn.Dropout(dropout))
        self.place = nn.Conv1d(width, 2 * len(LINES), 1)
        self.absent = nn.Linear(width, len(LINES))
        self.register_buffer("rest", torch.tensor(LINES).log10(), persistent=False)
        self.rest: Tensor

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """image (B, 1, L) float32, weighted mean 0 and rms 1 -> (B, lines, 2 boxes + 1)."""
        x = self.trunk(batch["image"])
        logits, offsets = self.place(x).chunk(2, 1)
        offsets = (1 + 2 * SLACK) * offsets.sigmoid() - SLACK
        return torch.cat([logits, self.absent(x.mean(2))[:, :, None], offsets], 2)

    def encode(self, redshift: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) to the box of each line (B, lines) int64, `boxes` if it is absent, and its place there in [0, 1]."""
        place = (self.rest + (1 + redshift[:, None]).log10() - FIRST) / (STEP * BOX)
        present = (place >= 0) & (place * BOX < self.length)
        return torch.where(present, place.floor(), self.boxes).long(), torch.where(present, place.frac(), 0.0)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return what forward returned to a redshift and a confidence, both (B,).

        The redshift is that of the most confident line; the confidence, from 0 to the number of lines, sums
        the probabilities of all lines that agree with it to 6,000 km/s.
        """
        probability, box = z[:, :, : self.boxes + 1].softmax(2)[:, :, : self.boxes].max(2)
        offset = z[:, :, self.boxes + 1 :].gather(2, box[:, :, None]).squeeze(2)
        redshift = 10 ** (FIRST + STEP * BOX * (box + offset) - self.rest) - 1
        best = redshift.gather(1, probability.argmax(1, keepdim=True))
        agrees = (redshift - best).abs() < AGREE * (1 + best)
        return best.squeeze(1), (probability * agrees).sum(1)
