"""Optimiser and learning-rate schedule of a task, from its plain `optim` config."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alerce_early.construct import construct, library_class
from alerce_early.errors import InputError, one_line

MAX_STEPS = 1 << 62  # more than any finite training takes


def configure(optim: Mapping[str, Any], net: nn.Module, count_steps: Callable[[], float]) -> Any:
    """Construct the optimiser and the schedule, which steps with every batch.

    Parameters
    ----------
    optim : mapping
        ``optimizer``, ``groups`` and ``schedule``; see `Task`. A schedule whose ``total_steps`` is None gets as many
        as the trainer will take.
    net : torch.nn.Module
        The network whose parameters are trained.
    count_steps : callable
        Returns the number of optimiser steps of the whole training; infinite if it has no end.

    Returns
    -------
    Optimizer or dict
        What Lightning's ``configure_optimizers`` returns.

    Raises
    ------
    InputError
        If an option does not fit, or the schedule needs an end or more steps.
    """
    optimizer = _construct(optim["optimizer"], torch.optim.Optimizer, group_parameters(optim, net))
    if not optim.get("schedule"):
        return optimizer
    schedule = dict(optim["schedule"])
    if "total_steps" in schedule and schedule["total_steps"] is None:
        if not (steps := count_steps()) < MAX_STEPS:
            raise InputError(
                "optim.schedule: this schedule needs a last step. Set trainer.max_epochs, or choose optim=adam."
            )
        schedule["total_steps"] = int(steps)
    try:
        scheduler = _construct(schedule, torch.optim.lr_scheduler.LRScheduler, optimizer)
    except ZeroDivisionError:  # in OneCycleLR, if its rise takes a single step
        raise InputError(
            f"optim.schedule: {schedule.get('total_steps')} steps are too few for this schedule. Increase "
            "trainer.max_epochs or data.batches_per_epoch, or choose optim=adam."
        ) from None
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def group_parameters(optim: Mapping[str, Any], net: nn.Module) -> list[dict[str, Any]]:
    """Return the optimiser's parameter groups: parameters that ``groups`` does not name, then a group per name."""
    groups = optim.get("groups") or {}
    named: dict[str, list[Tensor]] = {name: [] for name in groups}
    rest: list[Tensor] = []
    for name, parameter in net.named_parameters():
        named.get(name.rpartition(".")[2], rest).append(parameter)
    if empty := [name for name, parameters in named.items() if not parameters]:
        raise InputError(f"optim.groups.{empty[0]}: {type(net).__name__} has no parameter of that name.")
    return [{"params": rest}, *({"params": named[name], **groups[name]} for name in named)]


def _construct(config: Mapping[str, Any], kind: type, first: Any) -> Any:
    options = {key: value for key, value in config.items() if key != "_target_"}
    try:
        return construct(library_class(config["_target_"], kind), first, **options)
    except (TypeError, ValueError) as error:
        raise InputError(f"optim: {one_line(error)}.") from None
