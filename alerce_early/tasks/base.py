"""What every task is: a net with its recipe, what is minimised and what it puts out; it knows no training loop."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from alerce_early.construct import build
from alerce_early.data.augment import Augment
from alerce_early.data.recipe import Recipe
from alerce_early.data.spec import DataSpec

if TYPE_CHECKING:  # a deployed task draws nothing, and has no use for Lightning, which the data module needs
    from matplotlib.figure import Figure

    from alerce_early.data.datamodule import AlertData

FORMAT = 1  # of checkpoints; see `alerce_early.checkpoints`

Batch = dict[str, Tensor]
Table = dict[str, np.ndarray]


class Task(nn.Module):
    """One kind of problem. A subclass says what is minimised, what is put out and how it is judged.

    All arguments are plain values, so a checkpoint opens with `weights_only` and no arguments:
    net: config of a `Net`; spec: `DataSpec.plain()`; optim: {"optimizer": {"_target_": a torch.optim class,
    ...}, "schedule": {"_target_": a torch scheduler, ...} or None}; augment: {"margin", "steps"}.
    hyper_parameters: all of them, also a subclass's own. steps_done: training steps so far, which whoever trains
    the task counts.
    """

    lower_is_better: frozenset[str] = frozenset({"loss"})
    deployable = True  # its outputs ask for nothing that only labelled rows have
    shown: tuple[str, ...] = ()  # of the report, beside the losses and what is monitored, in the line of an epoch

    hyper_parameters: dict[str, Any]

    def __new__(cls, *arguments: Any, **options: Any) -> Task:
        made = super().__new__(cls)
        signatures = [inspect.signature(one.__init__) for one in reversed(cls.__mro__) if issubclass(one, Task)]
        known = {name: one for signature in signatures for name, one in signature.parameters.items()}
        defaults = {name: one.default for name, one in known.items() if one.default is not one.empty}
        given = zip(inspect.signature(Task.__init__).parameters, (None, *arguments), strict=False)
        made.__dict__["hyper_parameters"] = defaults | {name: one for name, one in given if name != "self"} | options
        return made

    def __init__(self, net: dict[str, Any], spec: dict[str, Any], optim: dict[str, Any], augment: dict[str, Any]):
        super().__init__()
        self.spec = DataSpec.from_plain(spec)
        self.net = build(net, spec=self.spec)
        self.optim = optim
        self.augment = Augment(**augment, size=self.spec.shape[-1])
        self.recipe = Recipe(self.spec.recipe, self.spec.margin)
        self.steps_done = 0

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def losses(self, z: Any, batch: Batch) -> dict[str, Tensor]:
        """Scalars of one batch, given what the net returned for it; holds "loss", what is minimised."""
        raise NotImplementedError

    def outputs(self, z: Any, batch: Batch) -> dict[str, Tensor]:
        """Columns (B,) of the predictions table for one batch, given what the net returned for it.

        A task that is `deployable` looks at no more of the batch than image and features.
        """
        raise NotImplementedError

    def report(self, table: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Numbers computed once over a whole table of outputs."""
        raise NotImplementedError

    def pictures(self, data: AlertData) -> dict[str, Figure]:
        """What only the network can show of a finished run, by caption."""
        return {}

    def named(self, table: Mapping[str, np.ndarray]) -> Table:
        """A table of outputs as people read it: class names for label numbers, nothing for unlabelled rows."""
        return {**table, "label": np.array([*self.spec.classes, ""])[table["label"]]}
