"""Augmentation: exact views, no invented corner, whole batches."""

import pytest
import torch

from alerce_early.data.augment import Augment, Flips, RotateShift
from alerce_early.data.recipe import centre_crop
from alerce_early.errors import InputError


def views(image: torch.Tensor) -> list[torch.Tensor]:
    return [turned for k in range(4) for turned in (image.rot90(k, (1, 2)), image.rot90(k, (1, 2)).flip(2))]


def test_flips_give_exactly_the_eight_views_evenly() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 5, 5)
    seen = Flips()(image.expand(4000, -1, -1, -1))
    counts = [int((seen == view).flatten(1).all(1).sum()) for view in views(image[0])]
    assert sum(counts) == 4000 and min(counts) > 420  # 500 expected each, standard deviation 21


def test_rotation_invents_no_corner(composed) -> None:
    augment = composed("augment=rotations").augment
    size, margin = 21, augment.margin
    stored = torch.ones(500, 1, size + 2 * margin, size + 2 * margin)
    torch.manual_seed(0)
    assert torch.allclose(centre_crop(Augment(augment.steps, margin, size)(stored), size), torch.ones(()))


def test_too_small_a_margin_is_refused() -> None:
    step = {"_target_": "alerce_early.data.augment.RotateShift", "degrees": 180, "pixels": 2}
    with pytest.raises(InputError, match=r"augment\.margin=3 invents corners; these steps need 8"):
        Augment([step], margin=3)


def test_a_rotation_by_ninety_degrees_is_the_exact_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.ones(*shape))
    image = torch.rand(2, 3, 9, 9)
    turned = RotateShift(degrees=90)(image)
    candidates = (image.rot90(1, (2, 3)), image.rot90(3, (2, 3)))
    assert min((turned - c).abs().max() for c in candidates) < 1e-5


def test_a_shift_moves_by_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.ones(*shape))
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1
    moved = RotateShift(degrees=0, pixels=2)(image)
    assert moved[0, 0, 2, 2] == pytest.approx(1, abs=1e-5)
