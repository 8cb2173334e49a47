"""Values of a whole config: refused before any data are read."""

import math
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alerce_early.construct import check_call, construct, describe_hint
from alerce_early.errors import InputError, one_line

# What a run itself decides, to end as it would have uncut and to keep everything in its folder.
OWN = (
    *("plugins", "default_root_dir", "use_distributed_sampler"),
    *("num_sanity_val_steps", "enable_model_summary", "enable_progress_bar"),
)
# Of a number: its kind, and the least and the most that it may be.
NUMBERS: dict[str, tuple[type, float, float]] = {
    "seed": (int, 0, 2**32 - 1),
    "data.batch_size": (int, 1, math.inf),
    "data.batches_per_epoch": (int, 1, math.inf),
    "data.match_radius": (float, 0, 3600),
    "patience": (int, 0, math.inf),
    "ema": (float, 0, 1),
    "data.split.seed": (int, 0, math.inf),
    "optim.optimizer.lr": (float, 0, math.inf),
}
OPTIONAL = ("data.batches_per_epoch", "data.match_radius", "ema")


def check(config: DictConfig) -> None:
    """Raise InputError for what is seen to be wrong in a whole config without its data."""
    from torch.optim.lr_scheduler import LRScheduler

    from alerce_early.construct import library_class, module_class
    from alerce_early.data import (
        sampling,
        splits,  # with torch, for which a misspelt key need not wait
    )
    from alerce_early.data.recipe import Recipe
    from alerce_early.training.trainer import make_callbacks

    for key, (kind, least, most) in NUMBERS.items():
        value = OmegaConf.select(config, key)
        if value is None and key in OPTIONAL:
            continue
        fits = isinstance(value, int | kind) and not isinstance(value, bool)
        if not fits or not least <= value <= most:  # NaN is not within either
            limit = f" to {most:.0f}" if most < math.inf else ""
            raise InputError(f"{key}={value}: expected {describe_hint(kind)} from {least}{limit}.")
    plain: Any = OmegaConf.to_container(config, resolve=True)
    check_call(splits.split, None, None, None, **plain["data"]["split"])
    sampling.check(plain["data"]["sampling"])
    construct(Recipe, steps=plain["recipe"]["steps"], margin=plain["augment"]["margin"])
    for name, given in (("net", {"spec": None}), ("task", {"net": {}, "spec": {}, "optim": {}, "augment": {}})):
        options = dict(plain["model"][name])
        check_call(module_class(str(options.pop("_target_", ""))), **{**options, **given})
    _check_optimizer(dict(plain["optim"]["optimizer"]), plain["optim"].get("groups") or {})
    if schedule := dict(plain["optim"].get("schedule") or {}):
        made = library_class(str(schedule.pop("_target_", "")), LRScheduler)
        check_call(made, None, **schedule)
    _check_trainer(plain["trainer"])
    make_callbacks(config)


def _check_optimizer(options: dict[str, Any], groups: dict[str, Any]) -> None:
    import torch

    from alerce_early.construct import library_class

    kind = library_class(options.pop("_target_"), torch.optim.Optimizer)
    try:
        for own in ({}, *groups.values()):  # of a group torch takes, and ignores, also options that do not exist
            construct(kind, [torch.nn.Parameter(torch.zeros(1))], **{**options, **own})
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"optim: {one_line(error)}.") from None


def _check_trainer(options: dict[str, Any]) -> None:
    import lightning as L
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from alerce_early.training.processes import make_plugin
    from alerce_early.training.trainer import choose_precision

    if "callbacks" in options:
        raise InputError("trainer.callbacks: not an option. Choose with callbacks=, or +callbacks.NAME._target_=CLASS.")
    for name in OWN:
        if name in options:
            raise InputError(f"trainer.{name} is decided by the run itself; leave it out.")
    if "logger" in options:
        raise InputError("trainer.logger is chosen by logger=; there are tensorboard, csv, wandb, mlflow and none.")
    try:
        own = {"logger": False, "precision": choose_precision(options), "plugins": [make_plugin()]}
        construct(L.Trainer, **{**options, **own})
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"trainer: {one_line(error)}. Try trainer=cpu.") from None
