"""The classification task: its loss by hand, and what its checkpoint remembers."""

from math import log
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import spec

from alerce_early import checkpoints
from alerce_early.tasks.classify import BayesTask, ClassifyTask

SPEC = spec(shape=(2, 5, 5), classes=("a", "b")).plain()
ADAM = {"optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3}, "schedule": None}
FLIPOUT = {"_target_": "alerce_early.models.flipout.FlipoutMLP", "hidden": [8]}


def task(cls: type[ClassifyTask], **options) -> ClassifyTask:
    return cls(net=FLIPOUT, spec=SPEC, optim=ADAM, augment={"margin": 0, "steps": []}, **options)


def test_the_entropy_of_the_prediction_is_taken_off_the_loss() -> None:
    z, batch = torch.tensor([[log(3.0), 0.0]]), {"label": torch.tensor([0])}  # p = 3/4, 1/4
    cross_entropy, entropy = -log(0.75), -0.75 * log(0.75) - 0.25 * log(0.25)
    assert task(ClassifyTask).losses(z, batch)["loss"].item() == pytest.approx(cross_entropy, abs=1e-6)
    regular = task(ClassifyTask, entropy=0.5).losses(z, batch)["loss"].item()
    assert regular == pytest.approx(cross_entropy - 0.5 * entropy, abs=1e-6)


@pytest.mark.parametrize(
    "cls, options", [(ClassifyTask, {"entropy": 0.5}), (BayesTask, {"draws": 7, "anneal_steps": 3})]
)
def test_a_checkpoint_opens_without_arguments(cls: type[ClassifyTask], options: dict, tmp_path: Path) -> None:
    saved = task(cls, **options)
    trainer = L.Trainer(logger=False, accelerator="cpu", enable_progress_bar=False, default_root_dir=tmp_path)
    trainer.strategy.connect(saved)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    opened = checkpoints.task(tmp_path / "a.ckpt")
    assert type(opened) is cls
    assert {name: getattr(opened, name) for name in options} == options
    assert torch.equal(opened.net.layers[0].rho, saved.net.layers[0].rho)
