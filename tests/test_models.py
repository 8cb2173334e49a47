"""Networks: exact parameter counts, and invariance under rotation of the input."""

import pytest
import torch

from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError
from alerce_early.models.rotations import TURNS, cyclic_mean, orbit
from alerce_early.models.rotinv import RotInv
from alerce_early.models.stamp_cnn import CourseCNN


def spec(channels: int = 3, classes: int = 5, size: int = 21, kind: str = "stamps") -> DataSpec:
    names = tuple(f"class{i}" for i in range(classes))
    return DataSpec(kind, (channels, size, size), names, (), (), (), (), 0, 1, "", "a test")


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts() -> None:
    assert parameters(RotInv(spec())) == 255_173
    assert parameters(RotInv(spec(channels=4, classes=2))) == 255_490
    assert parameters(CourseCNN(spec())) == 149_245


@pytest.mark.parametrize("kernel", (3, 5))
@pytest.mark.parametrize("size", (21, 25))
def test_rotinv_is_invariant_under_quarter_turns(kernel: int, size: int) -> None:
    torch.manual_seed(0)
    net = RotInv(spec(size=size), kernel=kernel).eval()
    image = torch.rand(8, 3, size, size)
    z = net({"image": image})
    assert z.std(0).min() > 1e-3  # not invariant by ignoring its input
    for turn in range(1, TURNS):
        assert (net({"image": image.rot90(turn, (2, 3))}) - z).abs().max() <= 1e-5


def test_a_plain_net_is_not_invariant() -> None:
    torch.manual_seed(0)
    net = CourseCNN(spec()).eval()
    image = torch.rand(8, 3, 21, 21)
    assert (net({"image": image.rot90(1, (2, 3))}) - net({"image": image})).abs().max() > 1e-3


def test_orbit_and_mean_keep_rows_apart() -> None:
    image = torch.rand(5, 2, 4, 4)
    turned = orbit(image)
    assert turned.shape == (20, 2, 4, 4) and torch.equal(turned[5:10], image.rot90(1, (2, 3)))
    means = cyclic_mean(turned.flatten(1).sum(1, keepdim=True))
    assert torch.allclose(means[:, 0], image.sum((1, 2, 3)))


def test_a_wrong_pair_fails_at_the_door() -> None:
    with pytest.raises(InputError, match="RotInv needs stamps; a test holds spectra"):
        RotInv(spec(kind="spectra"))
