"""Detection of stamps that were normalised before, and their rejection in training."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from alerce_early.data.normalised import NORM, RANGE, find_normalised
from alerce_early.errors import InputError
from alerce_early.experiments.instantiate import make_data

RAW = np.random.default_rng(0).normal((200, 100, 0), 20, (3, 63, 63, 3)).astype(np.float32)
UNIT = RAW / np.sqrt(np.square(RAW).sum((1, 2), keepdims=True))
SCALED = (RAW - RAW.min((1, 2), keepdims=True)) / np.ptp(RAW, (1, 2), keepdims=True)


def steps(*names: str) -> list[dict[str, str]]:
    return [{"_target_": f"alerce_early.data.recipe.{name}"} for name in names]


def test_both_normalisations_are_found_and_raw_stamps_pass() -> None:
    """Include stamps with missing pixels or cutouts, and stamps in half precision."""
    holes = UNIT.copy()
    holes[0, :, :, 1], holes[1, :, :, 1], holes[2, 0] = 0, np.nan, 0
    raw = [RAW, -RAW, 1e-3 * RAW, 1e12 * RAW, np.full_like(RAW, np.nan), np.zeros_like(RAW), np.full_like(RAW, 0.5)]
    for kind, images in (
        *((NORM, images) for images in (UNIT, -UNIT, UNIT.astype(np.float16), holes[:2])),
        *((RANGE, images) for images in (SCALED, SCALED.astype(np.float16), np.where(SCALED > 0.1, SCALED, np.nan))),
        *(("", images) for images in (*raw, SCALED - 0.1)),
    ):
        assert find_normalised(images, steps("SkySigma")).tolist() == [kind] * len(images)
    mixed = find_normalised(np.stack([RAW[0], UNIT[0], SCALED[0]]), steps("SkySigma"))
    assert mixed.tolist() == ["", NORM, RANGE]


@pytest.mark.parametrize(
    ("recipe", "found"),
    (
        (steps("Crop", "MinMax"), []),
        (steps("NanToZero", "UnitNorm"), [RANGE]),
        (steps("Asinh", "MinMax"), [NORM, RANGE]),
        ([{"_target_": "alerce_early.data.recipe.SkySigma", "each": True}], []),
        ([{"_target_": "my_package.Root"}], []),
        ((), []),
    ),
)
def test_recipes_with_the_same_normalisation_accept_them(recipe: list[dict[str, str]], found: list[str]) -> None:
    assert [one for one in find_normalised(np.stack([UNIT[0], SCALED[0]]), recipe) if one] == found


def test_stamps_must_be_allowed_by_all_recipes() -> None:
    assert find_normalised(UNIT, steps("MinMax"), steps("SkySigma")).all()


def test_training_rejects_them_unless_the_recipe_allows_them(tmp_path: Path, composed) -> None:
    file = tmp_path / "unit.pkl"
    file.write_bytes(pickle.dumps({"images": np.concatenate([RAW[:1], UNIT]), "labels": [0, 1, 2, 3]}))
    options = ("data=alerce", f"data.path={file}", f"outputs={tmp_path}")
    with pytest.raises(InputError, match=r"stamp 1 .*recipe=l2"):
        make_data(composed(*options)).prepare_data()
    assert len(make_data(composed(*options, "recipe=l2")).store.ids) == 4
