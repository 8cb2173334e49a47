"""Build the data module and the task from a config, and check the options of every class that it names."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from alerce_early import construct
from alerce_early.construct import build, function, library_class, module_class
from alerce_early.data.datamodule import AlertData
from alerce_early.data.recipe import Recipe
from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError, one_line
from alerce_early.experiments import schema
from alerce_early.experiments.config import to_plain
from alerce_early.models.net import Net
from alerce_early.tasks.base import Task
from alerce_early.training.processes import make_plugin
from alerce_early.training.trainer import choose_precision, make_callbacks


def check(config: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Check the options of every class and function named in a config, before any data are read.

    Parameters
    ----------
    config : DictConfig
        The composed config.
    overrides : sequence of str
        Command-line options as typed, so that an error can name the option or yaml to correct.

    Raises
    ------
    InputError
        If a class or function does not accept an option.
    """
    plain = to_plain(config)
    Recipe(plain["recipe"]["steps"], plain["augment"]["margin"])
    with _located("data.source", plain, overrides):
        source = dict(plain["data"]["source"])
        construct.check(function(source.pop("_target_")), **source)
    net, task = dict(plain["model"]["net"]), dict(plain["model"]["task"])
    with _located("model.net", plain, overrides):
        construct.check(module_class(net.pop("_target_")), None, **net)
    with _located("model.task", plain, overrides):
        task_class = module_class(task.pop("_target_"))
        construct.check(task_class, {}, {}, {}, {}, **task)
    if issubclass(task_class, Task):
        task_class.check(task)
    optimizer, schedule = dict(plain["optim"]["optimizer"]), dict(plain["optim"]["schedule"] or {})
    optimizer_class = library_class(optimizer.pop("_target_"), torch.optim.Optimizer)
    if schedule:
        construct.check(library_class(schedule.pop("_target_"), torch.optim.lr_scheduler.LRScheduler), None, **schedule)
    make_callbacks(config)
    trainer = {**plain["trainer"], "logger": False, "plugins": [make_plugin()]}
    trainer["precision"] = choose_precision(trainer)
    with _located("optim.optimizer", plain, overrides):
        try:
            for own in ({}, *plain["optim"]["groups"].values()):  # torch ignores unknown options of a group
                construct.construct(optimizer_class, [torch.nn.Parameter(torch.zeros(1))], **{**optimizer, **own})
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{one_line(error)}.") from None
    try:
        construct.construct(L.Trainer, **trainer)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"trainer: {one_line(error)}. Try trainer=cpu.") from None


@contextmanager
def _located(key: str, plain: dict[str, Any], overrides: Sequence[str]) -> Iterator[None]:
    """Prefix the message of an `InputError` with the option or yaml to correct, and with the key."""
    try:
        yield
    except InputError as error:
        group, name = key.split(".")
        given = [one for one in plain[group][name] if re.search(rf"'{re.escape(one)}'|\b{re.escape(one)}=", str(error))]
        where = schema.locate((group, name, *given[:1]), overrides)
        raise InputError(f"{'' if where.startswith(key) else f'{where}: '}{key}: {error}") from None


def make_data(config: DictConfig) -> AlertData:
    """Return the data module of a composed config, without reading data; raise InputError if the model does not fit."""
    net = module_class(config.model.net["_target_"])
    if issubclass(net, Net):
        net.check(config.data.kind, f"data={config.data.name}")
    return construct.construct(
        AlertData,
        name=config.data.name,
        source=to_plain(config.data.source),
        steps=to_plain(config.recipe.steps),
        margin=config.augment.margin,
        min_share=config.recipe.min_share,
        features=to_plain(config.features.names),
        groups=to_plain(config.data.groups),
        keep=to_plain(config.data.keep),
        target=config.data.target,
        match_radius=config.data.match_radius,
        split=to_plain(config.data.split),
        nights=config.data.get("nights"),
        simulated=to_plain(config.data.get("simulated")),
        simulated_share=config.data.get("simulated_share") or 0,
        sampling=config.data.sampling,
        batch_size=config.data.batch_size,
        batches_per_epoch=config.data.batches_per_epoch,
        seed=config.seed,
        outputs=config.outputs,
    )


def make_task(config: DictConfig, spec: DataSpec) -> Task:
    """Return the task of a composed config for data with this spec, with random weights."""
    return build(
        to_plain(config.model.task),
        net=to_plain(config.model.net),
        spec=spec.plain(),
        optim=_unnamed(config.optim),
        augment=_unnamed(config.augment),
    )


def _unnamed(choice: DictConfig) -> dict[str, Any]:
    """Return the options of a group without its name, which is not part of a checkpoint."""
    return {key: value for key, value in to_plain(choice).items() if key != "name"}
