"""What is typed and the config it makes: mistakes are refused before any data are read, with the nearest right key."""

import math
from collections.abc import Sequence
from difflib import get_close_matches
from inspect import signature
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from alerce_early.construct import check_call, construct, describe_hint
from alerce_early.errors import InputError, one_line

# Below these a key may be added with +: what it names takes more options than its yaml tells, or any.
OPEN = (
    *("trainer.", "model.net.", "model.task.", "optim.optimizer.", "optim.schedule.", "optim.groups."),
    *("hydra.", "data.groups.", "data.keep.", "callbacks."),
)
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


def check_added(added: Sequence[Override], config: DictConfig) -> None:
    """Raise InputError for a key added with + that nothing reads; config: without what is added."""
    known = _keys(OmegaConf.to_container(config))
    for option in added:
        if option.key_or_group not in known:
            raise InputError(f"{option.input_line}: nothing reads this{suggest(option.key_or_group, config)}")


def suggest(key: str, config: DictConfig) -> str:
    """Return the key that a misspelt one is nearest to, as words that end a message."""
    known = _keys(OmegaConf.to_container(config))
    near = _nearest(key, known)
    if not near:  # only now, since it takes seconds to know of them
        import lightning as L

        near = _nearest(key, [f"trainer.{option}" for option in signature(L.Trainer).parameters])
    return f"; did you mean {'' if near in known else '+'}{near}?" if near else "."


def _nearest(key: str, known: Sequence[str]) -> str | None:
    last = {name: name.rpartition(".")[2] for name in known}
    wanted = key.rpartition(".")[2]
    near = [name for name in known if last[name] == wanted] or get_close_matches(key, known, n=1)
    near = near or [name for name in known if last[name] in get_close_matches(wanted, last.values(), n=1)]
    return near[0] if near else None


def _keys(config: Any, above: str = "") -> list[str]:
    """All dotted keys, but for Hydra's own."""
    if not isinstance(config, dict):
        return []
    names = [name for name in map(str, config) if above or name != "hydra"]
    return [key for name in names for key in (above + name, *_keys(config[name], f"{above}{name}."))]


def drop_replaced(config: DictConfig, before: DictConfig, where: str, typed: Sequence[Override]) -> None:
    """Drop the options of the class that `where` named before, but for those typed, where it now names another one.

    What a subclass replaces stays. A reader, an optimiser or a task keeps what it takes itself: a path, a rate.
    """
    from alerce_early.construct import find

    node, former = OmegaConf.select(config, where), OmegaConf.select(before, where)
    if not former or former.get("_target_") in (None, node["_target_"]):
        return
    new, old = find(node["_target_"]), find(former["_target_"])
    if isinstance(new, type) and isinstance(old, type) and issubclass(new, old):
        return
    kept = {"_target_", *(option.key_or_group.removeprefix(f"{where}.").split(".")[0] for option in typed)}
    if where != "model.net":
        kept |= set(signature(new).parameters)
    with open_dict(node):
        for key in former.keys() - kept:
            node.pop(key, None)


def check(config: DictConfig) -> None:
    """Raise InputError for what is seen to be wrong in a whole config without its data."""
    from torch.optim.lr_scheduler import LRScheduler

    from alerce_early.construct import library_class, module_class
    from alerce_early.data import sampling, splits  # with torch, for which a misspelt key need not wait
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
