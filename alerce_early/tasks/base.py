"""The training step every task shares: augment, finish the recipe, losses; and the table of its outputs."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from hydra.utils import get_class
from matplotlib.figure import Figure
from torch import Tensor

from alerce_early.augment import Augment
from alerce_early.build import build, construct
from alerce_early.data.module import AlertData
from alerce_early.data.recipe import Recipe
from alerce_early.data.spec import DataSpec

Batch = dict[str, Tensor]
Table = dict[str, np.ndarray]


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message names epoch, batch and learning rate."""


class Task(L.LightningModule):
    """One kind of problem. A subclass says what is minimised, what is put out and how it is judged.

    All arguments are plain values, so a checkpoint opens with `weights_only` and no arguments:
    net: config of a `Net`; spec: `DataSpec.plain()`; optim: {"optimizer": {"_target_": a torch.optim class,
    ...}, "schedule": {"_target_": a torch scheduler, ...} or None}; augment: {"margin", "steps"}.
    """

    lower_is_better: frozenset[str] = frozenset({"loss"})
    deployable = True  # its outputs ask for nothing that only labelled rows have
    shown: tuple[str, ...] = ()  # of the report, beside the losses and what is monitored, in the line of an epoch

    def __init__(self, net: dict[str, Any], spec: dict[str, Any], optim: dict[str, Any], augment: dict[str, Any]):
        super().__init__()
        self.save_hyperparameters()
        self.spec = DataSpec.from_plain(spec)
        self.net = build(net, spec=self.spec)
        self.optim = optim
        self.augment = Augment(**augment, size=self.spec.shape[-1])
        self.recipe = Recipe(self.spec.recipe, self.spec.margin)
        self._collected: list[Batch] = []
        self.table: Table = {}

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

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        batch = self._finished(batch | {"image": self.augment(batch["image"])})
        losses = self.losses(self.net(batch), batch)
        if not losses["loss"].isfinite():
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            raise NonFiniteLoss(
                f"the loss is {losses['loss'].item()} at epoch {self.current_epoch + 1}, batch {batch_idx + 1}, "
                f"learning rate {rate:.3g}. Try a smaller optim.optimizer.lr."
            )
        names = {f"train/{name}": value.detach() for name, value in losses.items()}
        self.log_dict(names, on_step=False, on_epoch=True, batch_size=len(batch["label"]), sync_dist=True)
        return losses["loss"]

    def on_validation_epoch_start(self) -> None:
        self._collected.clear()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        batch = self._finished(batch)
        z = self.net(batch)
        losses = {f"loss/{name}": value.repeat(len(batch["row"])) for name, value in self.losses(z, batch).items()}
        self._collect(batch, losses | self.outputs(z, batch))

    def on_validation_epoch_end(self) -> None:
        """Judge the whole table at once, over all ranks; metrics are never averaged over batches."""
        table = self._gather()
        losses = {name: float(table.pop(name).mean()) for name in list(table) if name.startswith("loss/")}
        self.table = table
        values = {name.removeprefix("loss/"): value for name, value in losses.items()} | self.report(table)
        self.log_dict({f"val/{name}": value for name, value in values.items()}, rank_zero_only=False)

    def on_test_epoch_start(self) -> None:
        self._collected.clear()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        batch = self._finished(batch)
        self._collect(batch, self.outputs(self.net(batch), batch))

    def on_test_epoch_end(self) -> None:
        self.table = self._gather()

    def _finished(self, batch: Batch) -> Batch:
        """What of the recipe runs per batch: the crop out of the margin, and what follows it."""
        return batch | {"image": self.recipe.finish(batch["image"])}

    def _collect(self, batch: Batch, columns: Batch) -> None:
        truth = {"true": batch["target"]} if "target" in batch else {}
        self._collected.append({"row": batch["row"], "label": batch["label"], **truth, **columns})

    def _gather(self) -> Table:
        """All collected columns of all ranks, in the order of the store's rows."""
        columns = {name: torch.cat([part[name] for part in self._collected]) for name in self._collected[0]}
        if self.trainer.world_size > 1:
            parts: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, {name: c.cpu() for name, c in columns.items()})
            columns = {name: torch.cat([part[name] for part in parts]) for name in columns}
        order = columns["row"].cpu().argsort()
        return {name: column.cpu()[order].numpy() for name, column in columns.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the task, so that the file alone is enough to build it again."""
        checkpoint["task"] = f"{type(self).__module__}.{type(self).__qualname__}"

    def configure_optimizers(self) -> Any:
        optimizer = _construct(self.optim["optimizer"], self.net.parameters())
        if not self.optim.get("schedule"):
            return optimizer
        scheduler = _construct(self.optim["schedule"], optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _construct(config: Mapping[str, Any], first: Any) -> Any:
    options = {key: value for key, value in config.items() if key != "_target_"}
    return construct(get_class(config["_target_"]), first, **options)
