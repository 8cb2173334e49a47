"""Redshifts from emission lines located in boxes along the spectrum, after QuasarNET (Busca & Balland 2018)."""

import torch
from torch import Tensor, nn

from alerce_early.data.spec import DataSpec
from alerce_early.data.spectral_grid import FIRST, STEP
from alerce_early.models.net import Net

# rest wavelengths in vacuum, angstrom: Ly-alpha, C IV, C III], Mg II, H-beta, H-alpha
LINES = (1215.67, 1549.06, 1908.73, 2798.75, 4862.68, 6564.61)
BOX_PIXELS = 16  # 11,000 km/s
AGREEMENT = 0.02  # in units of 1 + z, 6,000 km/s
MARGIN = 0.1  # how far outside its box a line may lie, in box widths


class Residual(nn.Module):
    """Residual block of two convolutions: (B, C, L) -> (B, C, L).

    Parameters
    ----------
    width : int
        Channels C.
    kernel : int
        Length of the kernels in pixels.
    """

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv1d(width, width, kernel, padding="same"), nn.BatchNorm1d(width), nn.ReLU()),
            *(nn.Conv1d(width, width, kernel, padding="same"), nn.BatchNorm1d(width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the convolutions' output to the input, then apply ReLU."""
        return torch.relu(x + self.layers(x))


class SpectraLines(Net):
    """Locate each emission line: the box of 16 pixels that contains it, and its position in the box.

    On a logarithmic wavelength grid a redshift is a shift, so the network is convolutional throughout: after four
    strides of 2 one position is one box, and the residual blocks see the whole spectrum, since a line can only be
    identified together with the others.

    Parameters
    ----------
    spec : DataSpec
        Shape of the data.
    width : int
        Filters of the residual blocks.
    blocks : int
        Number of residual blocks.
    dropout : float
        Probability of dropping a unit of the last block, in [0, 1).

    References
    ----------
    Busca & Balland 2018, arXiv:1808.09955.
    """

    kind = "spectra"

    def __init__(self, spec: DataSpec, width: int = 128, blocks: int = 3, dropout: float = 0.1):
        super().__init__(spec)
        inputs, self.length = spec.shape
        self.boxes = -(-self.length // BOX_PIXELS)
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
        """Compute box logits and positions of all lines.

        Parameters
        ----------
        batch : dict of str to Tensor
            ``image`` (B, 1, L) float32 with weighted mean 0 and rms 1.

        Returns
        -------
        Tensor
            (B, lines, 2 boxes + 1) float32: a logit per box, one for "not in this spectrum", and a position per box,
            in [-0.1, 1.1] of its width.
        """
        x = self.trunk(batch["image"])
        logits, offsets = self.place(x).chunk(2, 1)
        offsets = (1 + 2 * MARGIN) * offsets.sigmoid() - MARGIN
        return torch.cat([logits, self.absent(x.mean(2))[:, :, None], offsets], 2)

    def encode(self, redshift: Tensor) -> tuple[Tensor, Tensor]:
        """Convert redshifts to training targets.

        Parameters
        ----------
        redshift : Tensor
            (B,) float32, above -1.

        Returns
        -------
        box : Tensor
            (B, lines) int64, the number of boxes where a line lies outside the spectrum.
        offset : Tensor
            (B, lines) float32, position in the box in [0, 1].
        """
        place = (self.rest + (1 + redshift[:, None]).log10() - FIRST) / (STEP * BOX_PIXELS)
        present = (place >= 0) & (place * BOX_PIXELS < self.length)
        return torch.where(present, place.floor(), self.boxes).long(), torch.where(present, place.frac(), 0.0)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Convert the network's output to redshifts.

        Parameters
        ----------
        z : Tensor
            (B, lines, 2 boxes + 1), from `forward`.

        Returns
        -------
        redshift : Tensor
            (B,) float32, of the most confident line.
        confidence : Tensor
            (B,) float32, from 0 to the number of lines: the summed probability of the lines that agree with the
            redshift to within 6,000 km/s.
        """
        probability, box = z[:, :, : self.boxes + 1].softmax(2)[:, :, : self.boxes].max(2)
        offset = z[:, :, self.boxes + 1 :].gather(2, box[:, :, None]).squeeze(2)
        redshift = 10 ** (FIRST + STEP * BOX_PIXELS * (box + offset) - self.rest) - 1
        best = redshift.gather(1, probability.argmax(1, keepdim=True))
        agrees = (redshift - best).abs() < AGREEMENT * (1 + best)
        return best.squeeze(1), (probability * agrees).sum(1)
