"""Cleaning steps and recipes, compared with results computed by hand."""

import pkgutil

import numpy as np
import pytest
import torch
from torch import Tensor, nan

from alerce_early.construct import build
from alerce_early.data.recipe import (
    MAD_TO_SIGMA,
    Asinh,
    Crop,
    Mask,
    MinMax,
    NanToZero,
    NoData,
    Recipe,
    Renormalise,
    SkySigma,
    TwoScales,
    UnitNorm,
    centre_crop,
    nanmedian,
)
from alerce_early.errors import InputError

RECIPE = "alerce_early.data.recipe"
NAN_TO_ZERO, MIN_MAX = {"_target_": f"{RECIPE}.NanToZero"}, {"_target_": f"{RECIPE}.MinMax"}
CROP = {"_target_": f"{RECIPE}.Crop", "size": 2}
COURSE, ALERCE = [NAN_TO_ZERO, MIN_MAX, CROP], [CROP, MIN_MAX, NAN_TO_ZERO]

# One image of two channels, 4 x 4; the centre is the inner 2 x 2.
IMAGE = torch.tensor(
    [
        [
            [[9.0, 9.0, 9.0, 9.0], [9.0, 1.0, 2.0, 9.0], [9.0, 3.0, nan, 9.0], [9.0, 9.0, 9.0, -1.0]],
            [[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 5.0]],
        ]
    ]
)


def test_minmax_order_by_hand() -> None:
    # NaN -> 0; the whole channel spans -1..9, so a pixel v becomes (v + 1) / 10; then the crop
    expected = torch.tensor([[[[0.2, 0.3], [0.4, 0.1]], [[0.0, 0.0], [0.0, 0.0]]]])
    assert torch.allclose(Recipe(COURSE)(IMAGE), expected)


def test_crop_minmax_order_by_hand() -> None:
    # the crop first: its valid pixels span 1..3; the NaN becomes 0 last
    expected = torch.tensor([[[[0.0, 0.5], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    assert torch.allclose(Recipe(ALERCE)(IMAGE), expected)


def test_sky_sigma_by_hand() -> None:
    # science 0..6: median 3, deviations 3 2 1 0 1 2 3 with median 2; template and difference in the same unit
    science = torch.arange(7.0)
    image = torch.stack([science, 100 + 2 * science, torch.zeros(7)]).view(1, 3, 7, 1)
    sigma = 2 * MAD_TO_SIGMA
    scaled = SkySigma()(image).view(3, 7)
    assert torch.allclose(scaled[0], (science - 3) / sigma)
    assert torch.allclose(scaled[1], 2 * (science - 3) / sigma)
    assert (scaled[2] == 0).all()


def test_sky_sigma_is_the_standard_deviation_of_normal_noise() -> None:
    """A star does not change it; with `each`, every channel has unit noise."""
    noise = torch.randn(2, 3, 63, 63, generator=torch.Generator().manual_seed(0))
    image = noise * torch.tensor([5.0, 20.0, 1.0]).view(3, 1, 1) + 100
    image[:, :, 30:33, 30:33] += 1e4
    sky = torch.ones(63, 63, dtype=torch.bool)
    sky[30:33, 30:33] = False
    assert SkySigma()(image)[..., sky].std(2).flatten().tolist() == pytest.approx([1, 4, 0.2] * 2, rel=0.05)
    assert SkySigma(each=True)(image)[..., sky].std(2).flatten().tolist() == pytest.approx([1] * 6, rel=0.05)


def test_asinh_compresses_from_bend_on_and_can_be_inverted() -> None:
    image = torch.tensor([-30.0, 0.0, 0.3, 3e4])
    bent = Asinh(bend=3.0)(image)
    assert bent.tolist() == pytest.approx(np.arcsinh([-10, 0, 0.1, 1e4]).tolist())
    assert Asinh(bend=3.0).undo(bent).tolist() == pytest.approx(image.tolist(), rel=1e-5)
    by_torch = Asinh(bend=3.0)(image.requires_grad_())  # as in an export, on a GPU and for gradients
    assert by_torch.requires_grad and by_torch.tolist() == pytest.approx(bent.tolist(), rel=5e-7)


def test_mask_marks_pixels_missing_in_any_channel() -> None:
    masked = Mask()(IMAGE)
    assert masked.shape == (1, 3, 4, 4) and masked[0, 2].sum() == 1 and masked[0, 2, 2, 2] == 1


def test_unit_norm_by_hand_and_twice() -> None:
    image = torch.tensor([[[[3.0, nan], [-4.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 1e25], [nan, 0.0]]]])
    scaled = UnitNorm()(image)
    assert scaled[0, 0].nan_to_num(9.0).flatten().tolist() == pytest.approx([0.6, 9, -0.8, 0])
    assert not scaled[0, 1].any() and scaled[0, 2].nan_to_num(9.0).flatten().tolist() == [0, 1, 9, 0]
    assert torch.allclose(UnitNorm()(scaled), scaled, rtol=1e-6, equal_nan=True)


def test_l2_gives_the_same_for_raw_and_unit_norm_stamps(composed) -> None:
    """Norms are computed as in braai, in float64 with 0 for missing pixels; `joint` compares channels and differs."""
    image = 200 + 20 * torch.randn(4, 3, 63, 63, generator=torch.Generator().manual_seed(0))
    image[:, 2] -= 200
    image[0, :, :9] = nan
    known = image.nan_to_num().double()
    before = (known / known.square().sum((2, 3), keepdim=True).sqrt()).float()
    l2, joint = (Recipe(composed(f"recipe={name}").recipe.steps) for name in ("l2", "joint"))
    assert torch.allclose(l2(before), l2(image), atol=1e-5)
    assert not torch.allclose(joint(before[1:]), joint(image[1:]), atol=1)


def test_two_scales_by_hand() -> None:
    image = torch.arange(36.0).view(1, 1, 6, 6)
    near, far = TwoScales(size=2, factor=3)(image)[0]
    assert near.tolist() == [[14.0, 15.0], [20.0, 21.0]]
    assert far.tolist() == [[7.0, 10.0], [25.0, 28.0]]  # means of the four 3 x 3 blocks
    framed = torch.nn.functional.pad(image, (4, 4, 4, 4), value=99.0)
    assert torch.equal(TwoScales(size=2, factor=3)(framed)[0], torch.stack([near, far]))


EDGES = {
    "only NaN": torch.full((1, 3, 63, 63), nan),
    "constant": torch.full((1, 3, 63, 63), 7.0),
    "infinite": torch.randn(1, 3, 63, 63).index_fill(3, torch.tensor([31]), torch.inf),
    "huge": torch.randn(1, 3, 63, 63) * 3e38,
    "one bright pixel": torch.zeros(1, 3, 63, 63).index_fill(3, torch.tensor([31]), 1e30),
}


@pytest.mark.parametrize("image", EDGES.values(), ids=EDGES)
@pytest.mark.parametrize("name", ("minmax", "crop_minmax", "joint", "two_scales", "two_fine_scales", "l2"))
def test_every_recipe_gives_finite_numbers(composed, name: str, image: Tensor) -> None:
    cleaned = Recipe(composed(f"recipe={name}").recipe.steps)(image)
    assert cleaned.isfinite().all() and cleaned.shape[2:] == (21, 21)


@pytest.mark.parametrize(("name", "seen"), (("two_scales", 63), ("two_fine_scales", 42)))
def test_two_scales_begin_with_the_channels_of_joint(composed, name: str, seen: int) -> None:
    """The binned channels do not change the central ones."""
    image = torch.randn(5, 3, 63, 63)
    image[0, 1, 20:30], image[1] = nan, 7.0
    two = Recipe(composed(f"recipe={name}").recipe.steps)(image)
    joint = Recipe(composed("recipe=joint").recipe.steps)(centre_crop(image, seen))
    assert two.shape == (5, 8, 21, 21) and torch.equal(two[:, :4], joint)


def test_two_fine_scales_use_42_pixels(composed) -> None:
    """Pixels outside the central 42 x 42, which small cutouts lack, do not matter."""
    image = torch.randn(1, 3, 63, 63)
    image[:, :, 10:53, 10:53] += 5
    empty = image.clone()
    mask = torch.ones(63, 63, dtype=torch.bool)
    mask[10:52, 10:52] = False
    empty[:, :, mask] = nan
    fine, whole = (Recipe(composed(f"recipe={name}").recipe.steps) for name in ("two_fine_scales", "two_scales"))
    assert torch.equal(fine(image), fine(empty)) and not torch.equal(whole(image), whole(empty))


def test_infinities_and_fill_values_become_nan() -> None:
    image = torch.tensor([1e30, 1.3e30, -torch.finfo(torch.float32).max, torch.inf, nan, 1e-42, -1.5, 0.0])
    assert torch.equal(NoData()(image).isnan(), torch.tensor([False, True, True, True, True, False, False, False]))
    assert torch.equal(NoData()(image)[[0, 5, 6, 7]], image[[0, 5, 6, 7]])


@pytest.mark.parametrize(
    ("name", "margin"),
    (
        *(("minmax", 0), ("crop_minmax", 0), ("crop_minmax", 8), ("joint", 8), ("two_scales", 0), ("invertible", 8)),
        ("l2", 0),
    ),
)
@pytest.mark.parametrize("value", (-torch.finfo(torch.float32).max, torch.inf, -torch.inf, 2e30))
def test_every_recipe_treats_invalid_pixels_as_nan(composed, name: str, margin: int, value: float) -> None:
    """In real alerts science and difference have NaN where the template has the lowest float32."""
    image = torch.randn(2, 3, 63, 63)
    image[0, :, :30] = nan
    other = image.clone()
    other[0, 1, :30] = value
    recipe = Recipe(composed(f"recipe={name}").recipe.steps, margin)
    assert torch.equal(recipe(image).nan_to_num(9.0), recipe(other).nan_to_num(9.0))


@pytest.mark.parametrize("name", ("minmax", "crop_minmax", "joint"))
def test_the_margin_does_not_change_the_result(composed, name: str) -> None:
    steps = composed(f"recipe={name}").recipe.steps
    image = torch.randn(3, 3, 63, 63).masked_fill(torch.rand(3, 3, 63, 63) < 0.01, nan)
    narrow, wide = Recipe(steps), Recipe(steps, margin=8)
    assert wide.prepare(image).shape[-1] == 37
    assert torch.equal(wide(image), narrow(image))
    assert torch.equal(narrow.finish(narrow.prepare(image)), narrow(image))


def test_rows_of_a_batch_are_independent() -> None:
    images = torch.randn(5, 3, 8, 8)
    alone = torch.cat([Recipe(COURSE)(image[None]) for image in images])
    assert torch.equal(Recipe(COURSE)(images), alone)


def test_errors_say_what_to_do() -> None:
    with pytest.raises(InputError, match=r"21 x 21 pixels.* 15 x 63"):
        Crop(21)(torch.zeros(1, 3, 15, 63))
    with pytest.raises(InputError, match=r"has no Crop.*augment=flips"):
        Recipe([{"_target_": f"{RECIPE}.MinMax"}], margin=3)
    with pytest.raises(InputError, match="Crop: got an unexpected keyword argument 'sise'"):
        build({"_target_": f"{RECIPE}.Crop", "size": 21, "sise": 3})


@pytest.mark.parametrize(
    "target",
    (
        "os.system",
        "alerce_early.artifacts.run_folder.flatten_config",
        "alerce_early.artifacts.run_folder.Run",
        "subprocess.Popen",
    ),
)
def test_only_torch_modules_are_built(target: str) -> None:
    assert callable(pkgutil.resolve_name(target))  # so it is not refused for being missing
    with pytest.raises(InputError, match="_target_"):
        build({"_target_": target})


@pytest.mark.parametrize("target", ("nowhere.Step", "alerce_early.data.recipe.Step", ""))
def test_a_missing_target_is_an_error(target: str) -> None:
    with pytest.raises(InputError, match="_target_"):
        build({"_target_": target})


def test_steps_agree_with_numpy() -> None:
    image = np.random.default_rng(0).normal(size=(4, 3, 9, 9)).astype(np.float32)
    image[:, :, 2, 3] = np.nan
    low, high = np.nanmin(image, (2, 3), keepdims=True), np.nanmax(image, (2, 3), keepdims=True)
    assert np.allclose(MinMax()(torch.from_numpy(image)), (image - low) / (high - low), equal_nan=True)
    assert np.array_equal(NanToZero()(torch.from_numpy(image)), np.nan_to_num(image))


def test_a_spectrum_is_renormalised_by_its_weights() -> None:
    flux = torch.tensor([[1.0, 3.0, 100.0, 5.0], [2.0, 2.0, 2.0, 2.0], [7.0, 7.0, 7.0, 7.0]])
    ivar = torch.tensor([[2.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    out = Renormalise()(torch.stack([flux, ivar], 1))
    # mean (2 + 3 + 5) / 4 = 2.5; variance (2 x 1.5^2 + 0.5^2 + 2.5^2) / 4 = 2.75
    wanted = (torch.tensor([1.0, 3.0, 2.5, 5.0]) - 2.5) / 2.75**0.5
    assert out.shape == (3, 1, 4) and torch.allclose(out[0, 0], wanted)
    assert (out[1:] == 0).all()
    unknown = torch.tensor([[[1.0, 3.0, nan, 5.0]], [[2.0, 1.0, 9.0, 1.0]]]).transpose(0, 1)
    assert torch.allclose(Renormalise()(unknown)[0, 0], out[0, 0].index_fill(0, torch.tensor(2), 0.0))
    assert torch.allclose(Renormalise()(torch.stack([flux, 1e-30 * ivar], 1))[0], out[0], atol=1e-5)
    with pytest.raises(InputError, match="Renormalise"):
        Renormalise()(torch.zeros(1, 3, 21, 21))


def test_nanmedian_ignores_nan() -> None:
    values = torch.randn(3, 4, 50).masked_fill(torch.rand(3, 4, 50) < 0.3, nan)
    values[0, 0], values[1, 1, 1:] = nan, nan
    assert torch.equal(nanmedian(values).nan_to_num(9.0), values.nanmedian(2, keepdim=True).values.nan_to_num(9.0))


def test_crops_are_moved_ahead_of_pixelwise_steps_only(composed) -> None:
    steps = composed("recipe=joint").recipe.steps
    names = [type(step).__name__ for step in Recipe(steps).before] + [type(s).__name__ for s in Recipe(steps).after]
    assert names == ["NoData", "SkySigma", "Crop", "Asinh", "Mask", "NanToZero"]
    image = torch.randn(3, 3, 63, 63).masked_fill(torch.rand(3, 3, 63, 63) < 0.01, nan)
    in_order = NoData()(image)
    for step in steps:
        in_order = build(step)(in_order)
    assert torch.equal(Recipe(steps)(image), in_order)
    assert [type(step) for step in Recipe(COURSE).before] == [NoData, NanToZero, MinMax, Crop]
