"""Every model and experiment config composes, trains, and has the published number of parameters.

The tests list the config folders, so a new yaml is tested automatically.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from alerce_early.data.readers.stamps_file import COLUMNS, PUBLISHED_COLUMNS
from alerce_early.experiments.config import CONF
from alerce_early.experiments.instantiate import make_data, make_task

TINY = 600  # simulated rows; enough for at least one row of the rarest class in each split


def names(folder: str) -> list[str]:
    """List the choices of a config group."""
    return sorted(file.stem for file in (Path(CONF) / folder).glob("*.yaml"))


@pytest.mark.parametrize("group", ("augment", "data", "features", "model", "optim", "recipe"))
def test_the_name_of_a_config_is_its_file_name(group: str) -> None:
    for name in names(group):
        choice = OmegaConf.load(Path(CONF) / group / f"{name}.yaml")
        assert choice.get(group, choice).name == name  # some configs select others, too


@pytest.fixture(scope="module")
def tiny(composed: Callable[..., DictConfig], common: Path) -> Callable[..., DictConfig]:
    """Return a function that composes a config with little simulated data; tests share the stores."""

    def tiny(*overrides: str) -> DictConfig:
        config = composed(f"outputs={common}", *overrides)
        if "n" in config.data:  # simulated data
            config.data.n = TINY
        return config

    return tiny


def trains_two_steps(config: DictConfig, precision: Literal["32-true", "bf16-mixed"] = "32-true") -> None:
    """Train for two steps and check that the weights change and stay finite."""
    L.seed_everything(0, verbose=False)
    config.data.batch_size = 8
    data = make_data(config)
    task = make_task(config, data.spec)
    before = [p.detach().clone() for p in task.net.parameters()]
    trainer = L.Trainer(
        max_steps=2,
        limit_val_batches=1,
        accelerator="cpu",
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(task, datamodule=data)
    assert trainer.global_step == 2
    trainer.validate(task, datamodule=data, verbose=False)
    after = list(task.net.parameters())
    assert all(p.isfinite().all() for p in after)
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("precision", ("32-true", "bf16-mixed"))
@pytest.mark.parametrize("model", names("model"))
def test_every_model_trains_on_its_own_data(model: str, precision: Any, tiny: Callable[..., DictConfig]) -> None:
    trains_two_steps(tiny(f"model={model}"), precision)


@pytest.mark.parametrize("experiment", names("experiment"))
def test_every_experiment_trains(experiment: str, tiny: Callable[..., DictConfig], stamps_file: Path) -> None:
    stamps = [f"data.path={stamps_file}", "data.simulated_n=20"] if experiment.startswith("ztf") else []
    trains_two_steps(tiny(f"experiment={experiment}", *stamps))


def test_carrasco2021_trains_with_all_features_and_another_kernel(tiny: Callable[..., DictConfig]) -> None:
    trains_two_steps(tiny("experiment=carrasco2021", "features=all", "model.net.kernel=3"))


def test_bal_quasars_are_the_only_class_of_their_experiment(tiny: Callable[..., DictConfig]) -> None:
    data = make_data(tiny("experiment=spectra_redshift_bal"))
    assert data.classes == ("QSO_BAL",) and data.left_out.keys() == {"STAR", "GALAXY", "QSO"}


@pytest.mark.parametrize(
    "parameters, overrides",
    [
        (255_173, ["model=rotinv", "recipe=minmax"]),
        (255_490, ["model=rotinv", "data=hits_simulated"]),
        (441_075, ["experiment=carrasco2021"]),
        (261_049, ["experiment=carrasco2021", "features=all", "model.net.kernel=3"]),
        (697_858, ["model=deep_hits"]),
        (149_245, ["model=preliminary_cnn", "recipe=minmax"]),
        (233_872, ["model=hits_shallow"]),
        (25_552, ["model=hits_two_conv"]),
        (41_986, ["model=hits_deep"]),
        (63_042, ["model=hits_wide"]),
        (242_626, ["model=hits_flipout"]),
        (11_171_397, ["model=resnet18", "recipe=minmax"]),
        (490_530, ["model=stamp_vae"]),
        (489_818, ["model=hits_vae"]),
        (330_316, ["model=spectra_class"]),
        (1_658_593, ["model=spectra_redshift"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else str(value),
)
def test_parameter_counts(parameters: int, overrides: Sequence[str], tiny: Callable[..., DictConfig]) -> None:
    config = tiny(*overrides)
    net = make_task(config, make_data(config).spec).net
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_feature_lists(tiny: Callable[..., DictConfig]) -> None:
    def chosen(*overrides: str) -> tuple[str, ...]:
        return make_data(tiny("model=stamp_classifier", *overrides)).feature_names

    assert chosen("features=published") == chosen("experiment=carrasco2021") == PUBLISHED_COLUMNS
    assert chosen() == tuple(name for name in COLUMNS if name not in ("rb", "ra", "dec", "ecl_long", "gal_long"))
    assert len(chosen("features=all")) == 26
    assert chosen("features=none") == ()
    assert chosen("features.names=[rb,fwhm]") == ("rb", "fwhm")
