"""Deployed networks give the predictions of training from raw rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from alerce_early.artifacts import predictions
from alerce_early.artifacts.run_folder import Run
from alerce_early.data.features import Clip
from alerce_early.data.readers.stamps_file import COLUMNS
from alerce_early.errors import InputError
from alerce_early.evaluation import calibration
from alerce_early.experiments.instantiate import make_task
from alerce_early.experiments.run import train
from alerce_early.serving.deployed import Calibrate, Deployed
from tests.helpers.tiny import spec

Survey = dict[str, Any]


def raw(survey: Survey, features: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return stamps (N, 3, 63, 63) and named columns (N, F) of the rows of a survey that cleaning keeps."""
    kept = [i for i, image in enumerate(survey["images"]) if image.shape == (63, 63, 3)]
    stamps = np.stack([survey["images"][i] for i in kept]).astype(np.float32)
    columns = np.array(survey["metadata"], dtype=np.float32)[kept][:, [COLUMNS.index(name) for name in features]]
    return torch.from_numpy(stamps).movedim(-1, 1).contiguous(), torch.from_numpy(columns)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("recipe=crop_minmax", "augment=rotations", "calibration=none"),
        ("recipe=joint", "augment=rotations"),
        ("recipe=two_scales", "model=stamp_classifier", "features=all"),
        ("model=hits_flipout", "data=alerce", "model.task.draws=7"),
    ],
    ids=lambda overrides: overrides[0] if overrides else "recipe=minmax",
)
def test_predictions_equal_those_of_training(
    overrides: tuple[str, ...], quick: Callable[..., DictConfig], finished_run: Run, survey: Survey, tmp_path: Path
) -> None:
    run = train(quick(*overrides, "trainer.max_epochs=1"), tmp_path / "run") if overrides else finished_run
    deployed = Deployed.load(run.best)
    written = predictions.read(run.predictions)
    stamps, columns = raw(survey, deployed.features)
    with torch.no_grad():
        found = deployed.table(stamps[written["row"]], columns[written["row"]])
        chosen = deployed(stamps[written["row"]], columns[written["row"]])
    assert set(found) == {name for name in written if name.startswith(("p_", "q_", "std_", "vote_"))} | (
        {"entropy", "mutual_information", "entropy_of_means"} & set(written)
    )
    for name, column in found.items():
        assert np.abs(column.numpy() - written[name]).max() < 1e-6, name
    best = "p" if "calibration=none" in overrides else "q"
    assert deployed.chosen == tuple(f"{best}_{name}" for name in deployed.classes)
    assert torch.equal(chosen, torch.stack([found[name] for name in deployed.chosen], 1))
    assert set(deployed.conformal["thresholds"]) == {"set", "set_marginal"}


def test_redshift_networks_return_their_own_columns(composed: Callable[..., DictConfig], tmp_path: Path) -> None:
    config = composed(
        "model=spectra_lines", "data.n=150", f"outputs={tmp_path}", "trainer.max_epochs=1", "data.batches_per_epoch=2"
    )
    run = train(config, tmp_path / "run")
    deployed = Deployed.load(run.best)
    assert deployed.columns == deployed.chosen == ("predicted", "confidence")
    assert {"true", "predicted", "confidence"} <= set(predictions.read(run.predictions))
    assert deployed.spec.raw_shape == (2, 443)
    assert deployed(torch.rand(3, 2, 443)).shape == (3, 2)


def test_metadata_are_clipped_as_in_training() -> None:
    names = ("fwhm", "sgscore1", "ra", "chinr")
    columns = torch.tensor([[50.0, -999.0, 3.0, torch.nan], [torch.inf, torch.nan, torch.nan, 99.0]])
    by_hand = torch.tensor([[10.0, -1.0, 3.0, -1.0], [-999.0, -1.0, -999.0, 15.0]])
    assert torch.equal(Clip(names)(columns), by_hand)
    # values beyond float32 are missing, whether clipped before or after the conversion
    large = torch.tensor([[1e39, -1e39, 3e38, 1.0]], dtype=torch.float64)
    by_hand = torch.tensor([[-999.0, -1.0, 3e38, 1.0]])
    assert torch.equal(Clip(names)(large).float(), by_hand) and torch.equal(Clip(names)(large.float()), by_hand)
    assert Clip(names)(columns.double()).dtype == torch.float64
    assert Clip(())(torch.zeros(3, 0)).shape == (3, 0)


def test_calibration_equals_the_one_of_the_table() -> None:
    fitted = {"temperature": 0.4}
    p = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [1 - 1e-6, 1e-6, 1e-20]])
    assert np.abs(Calibrate(fitted)(p).numpy() - calibration.apply(fitted, p.numpy())).max() < 1e-6


def test_the_model_id_depends_on_weights_and_calibration(quick: Callable[..., DictConfig]) -> None:
    task = make_task(quick(), spec(classes=("a", "b"), raw_shape=(3, 63, 63)))
    plain = Deployed(task).model_id
    assert plain == Deployed(task).model_id
    assert plain != Deployed(task, {"temperature": 1.0}).model_id
    with torch.no_grad():
        next(task.net.parameters()).add_(1e-3)
    assert plain != Deployed(task).model_id


def test_unusable_checkpoints_and_inputs_are_refused(quick: Callable[..., DictConfig], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.ckpt cannot be read"):
        Deployed.load(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(InputError, match="not a checkpoint"):
        Deployed.load(tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="not a checkpoint"):
        Deployed.load(tmp_path / "other.ckpt")
    deployed = Deployed(make_task(quick("model=stamp_classifier"), spec(("fwhm",), raw_shape=(3, 63, 63))))
    with pytest.raises(InputError, match=r"stamps: .*\(3, 60, 63\).*\(3, 63, 63\)"):
        deployed(torch.zeros(2, 3, 60, 63), torch.zeros(2, 1))
    with pytest.raises(InputError, match="metadata: 0 columns, expected 1: fwhm"):
        deployed(torch.zeros(2, 3, 63, 63))
    with pytest.raises(InputError, match="GenerateTask"):
        Deployed(make_task(quick("model=stamp_vae"), spec()))
