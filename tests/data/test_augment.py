"""Augmentation: exact views, and no extrapolated pixels in the crop."""

import pytest
import torch

from alerce_early.data.augment import Augment, Flips, Redraw, RotateShift
from alerce_early.data.recipe import centre_crop
from alerce_early.errors import InputError
from alerce_early.experiments.instantiate import make_data, make_task


def views(image: torch.Tensor) -> list[torch.Tensor]:
    return [turned for k in range(4) for turned in (image.rot90(k, (1, 2)), image.rot90(k, (1, 2)).flip(2))]


def test_flips_show_the_eight_views_equally_often() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 5, 5)
    seen = Flips()(image.expand(4000, -1, -1, -1))
    counts = [int((seen == view).flatten(1).all(1).sum()) for view in views(image[0])]
    assert sum(counts) == 4000 and min(counts) > 420  # 500 expected each, standard deviation 21


def test_rotations_extrapolate_no_corner(composed) -> None:
    augment = composed("augment=rotations").augment
    size, margin = 21, augment.margin
    stored = torch.ones(500, 1, size + 2 * margin, size + 2 * margin)
    torch.manual_seed(0)
    assert torch.allclose(centre_crop(Augment(augment.steps, margin, size)(stored), size), torch.ones(()))


@pytest.mark.parametrize(("degrees", "pixels", "needed"), ((180, 2, 8), (45, 2, 8), (5, 0, 2), (0, 3, 4)))
def test_a_margin_that_is_too_small_is_an_error(degrees: float, pixels: float, needed: int) -> None:
    step = {"_target_": "alerce_early.data.augment.RotateShift", "degrees": degrees, "pixels": pixels}
    for margin in (3, needed - 1) if needed > 3 else (needed - 1,):
        with pytest.raises(InputError, match=rf"augment\.margin={margin}:.* {needed}\."):
            Augment([step], margin=margin)
    stored = torch.ones(500, 1, 21 + 2 * needed, 21 + 2 * needed)
    assert torch.allclose(centre_crop(Augment([step], needed)(stored), 21), torch.ones(()))


def test_a_rotation_by_ninety_degrees_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_angles_and_shifts_are_uniform_and_independent() -> None:
    torch.manual_seed(0)
    image = torch.zeros(500, 1, 41, 41)
    image[:, :, 20, 30] = 1  # ten pixels to the right of the middle

    def places(step: RotateShift) -> torch.Tensor:
        """Return the position of the bright pixel relative to the centre, (500, 2): right and down."""
        moved, axis = step(image)[:, 0], torch.arange(-20.0, 21)
        return torch.stack([moved.sum(1) @ axis, moved.sum(2) @ axis], 1) / moved.sum((1, 2))[:, None]

    right, down = places(RotateShift(degrees=90)).T
    uniform = {
        "angle": torch.rad2deg(torch.atan2(down, right)) / 90,
        **dict(zip("xy", ((places(RotateShift(0, pixels=4)) - torch.tensor([10.0, 0])) / 4).T, strict=True)),
    }
    for values in uniform.values():
        assert -1.01 < values.min() < -0.95 and 0.95 < values.max() < 1.01
        assert values.mean().abs() < 0.12 and values.std() == pytest.approx(3**-0.5, abs=0.04)
    assert torch.corrcoef(torch.stack([uniform["x"], uniform["y"]]))[0, 1].abs() < 0.2


def test_half_of_the_rows_get_columns_of_another_row() -> None:
    torch.manual_seed(0)
    rows = torch.arange(1000.0)
    columns = torch.stack([rows, rows + 1000, rows + 2000], 1)
    found = Redraw(("ndethist", "fwhm", "ncovhist"), ["ncovhist", "ndethist"])(columns)
    assert torch.equal(found[:, 1], columns[:, 1]) and torch.equal(found[:, 2] - 2000, found[:, 0])
    assert 440 < (found[:, 0] != rows).sum() < 560 and columns[:, 0].equal(rows)
    with pytest.raises(InputError, match=r"augment\.redraw.*ndet"):
        Redraw(("fwhm",), ["ndet"])


def test_columns_are_redrawn_only_in_training(quick) -> None:
    config = quick("features.names=[fwhm,ndethist]", "augment.redraw=[ndethist]", "model=stamp_classifier")
    data = make_data(config)
    data.setup()
    task, seen = make_task(config, data.spec), []
    task.net.register_forward_pre_hook(lambda _, given: seen.append(given[0]["features"]))
    batch = next(iter(data.train_dataloader()))
    task.training_step(batch, 0)
    task.eval().validation_step(batch, 0)
    assert torch.equal(seen[0][:, 0], batch["features"][:, 0]) and not torch.equal(seen[0], batch["features"])
    assert torch.equal(seen[1], batch["features"])
