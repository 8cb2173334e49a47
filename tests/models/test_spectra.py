"""Networks of spectra: shapes, and redshifts to boxes of lines and back."""

import pytest
import torch

from alerce_early.errors import InputError
from alerce_early.models.rotinv import RotInv
from alerce_early.models.spectra import SpectraClass, SpectraRedshift
from alerce_early.models.spectra_lines import LINES, SpectraLines
from tests.helpers.tiny import spec

SPEC = spec(kind="spectra", shape=(1, 443), classes=("STAR", "GALAXY", "QSO", "QSO_BAL"))


def test_trunk_lengths() -> None:
    net = SpectraClass(SPEC)
    lengths, x = [], torch.zeros(1, 1, 443)
    for layer in net.trunk:
        x = layer(x)
        if isinstance(layer, (torch.nn.Conv1d, torch.nn.MaxPool1d)):
            lengths.append(x.shape[2])
    assert lengths == [217, 216, 104, 103, 47, 46, 19, 18]


def test_shapes() -> None:
    batch = {"image": torch.randn(3, 1, 443)}
    assert SpectraClass(SPEC)(batch).shape == (3, 4)
    assert SpectraRedshift(SPEC)(batch).shape == (3,)
    assert SpectraLines(SPEC)(batch).shape == (3, len(LINES), 2 * 28 + 1)


def test_incompatible_net_and_task_are_rejected() -> None:
    with pytest.raises(InputError, match="RotInv"):
        RotInv(SPEC)


def test_redshift_survives_conversion_to_boxes() -> None:
    net = SpectraLines(SPEC)
    redshift = torch.linspace(0.01, 4.9, 500)
    box, offset = net.encode(redshift)
    # at z = 0.01 only H-beta and H-alpha are between 3600 and 10000 angstrom, at z = 3 Ly-alpha to C III]
    assert (box[0] < 28).tolist() == [False] * 4 + [True] * 2
    assert (net.encode(torch.tensor([3.0]))[0] < 28)[0].tolist() == [True] * 3 + [False] * 3
    # 1549.06 x 4 = 6196 angstrom is pixel 235.9 of the grid
    assert net.encode(torch.tensor([3.0]))[0][0, 1] == 235 // 16

    z = torch.zeros(500, len(LINES), 57).scatter(2, box[:, :, None], 20.0)
    z[:, :, 29:] = torch.where(box[:, :, None] == torch.arange(28), offset[:, :, None], 0.0)
    found, confidence = net.decode(z)
    assert torch.allclose(found, redshift, atol=1e-3)
    assert torch.allclose(confidence, (box < 28).sum(1).float(), atol=1e-3)


def test_single_line_has_a_lower_confidence() -> None:
    net = SpectraLines(SPEC)
    box, offset = net.encode(torch.tensor([2.5]))
    z = torch.zeros(1, len(LINES), 57).scatter(2, box[:, :, None], 20.0)
    z[:, :, 29:] = torch.where(box[:, :, None] == torch.arange(28), offset[:, :, None], 0.0)
    _, agreed = net.decode(z)
    z[:, 1:, :28] = z[:, 1:, :28].roll(3, 2)  # all lines except Ly-alpha are moved
    z[:, 0, :29] *= 2  # the most confident
    found, alone = net.decode(z)
    assert agreed > 2.9 and alone < 1.1 and found.item() == pytest.approx(2.5, abs=1e-3)
