"""Fitting a task with Lightning: augment, finish the recipe, losses; and the table of all its outputs."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor

from alerce_early.build import torch_class
from alerce_early.errors import InputError, one_line
from alerce_early.schema import construct
from alerce_early.tasks.base import FORMAT, Batch, Table, Task


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message names epoch, batch and learning rate."""


class Fitting(L.LightningModule):
    """A task in a trainer. Its checkpoints hold the task and nothing of this class, so they open without Lightning.

    table: outputs of all rows of the last validation or test, in the order of the store's rows.
    """

    def __init__(self, task: Task):
        super().__init__()
        self.task = task
        self._collected: list[Batch] = []
        self.table: Table = {}

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        return self.task.state_dict(*arguments, **options)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return self.task.load_state_dict(state_dict, strict, assign)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what it takes to open the file bare, in any later version."""
        kind = type(self.task)
        checkpoint |= {
            "format": FORMAT,
            "task": f"{kind.__module__}.{kind.__qualname__}",
            "hyper_parameters": self.task.hyper_parameters,
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.task.steps_done = self.global_step
        batch = self._finished(batch | {"image": self.task.augment(batch["image"])})
        losses = self.task.losses(self.task.net(batch), batch)
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
        z = self.task.net(batch)
        losses = {f"loss/{name}": value.repeat(len(batch["row"])) for name, value in self.task.losses(z, batch).items()}
        self._collect(batch, losses | self.task.outputs(z, batch))

    def on_validation_epoch_end(self) -> None:
        """Judge the whole table at once, over all ranks; metrics are never averaged over batches."""
        table = self._gather()
        losses = {name: float(table.pop(name).mean()) for name in list(table) if name.startswith("loss/")}
        self.table = table
        values = {name.removeprefix("loss/"): value for name, value in losses.items()} | self.task.report(table)
        self.log_dict({f"val/{name}": value for name, value in values.items()}, rank_zero_only=False)

    def on_test_epoch_start(self) -> None:
        self._collected.clear()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        batch = self._finished(batch)
        self._collect(batch, self.task.outputs(self.task.net(batch), batch))

    def on_test_epoch_end(self) -> None:
        self.table = self._gather()

    def _finished(self, batch: Batch) -> Batch:
        """What of the recipe runs per batch: the crop out of the margin, and what follows it."""
        return batch | {"image": self.task.recipe.finish(batch["image"])}

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

    def configure_optimizers(self) -> Any:
        optimizer = _construct(self.task.optim["optimizer"], torch.optim.Optimizer, self.task.net.parameters())
        if not self.task.optim.get("schedule"):
            return optimizer
        scheduler = _construct(self.task.optim["schedule"], torch.optim.lr_scheduler.LRScheduler, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _construct(config: Mapping[str, Any], kind: type, first: Any) -> Any:
    options = {key: value for key, value in config.items() if key != "_target_"}
    try:
        return construct(torch_class(config["_target_"], kind), first, **options)
    except (TypeError, ValueError) as error:
        raise InputError(f"optim: {one_line(error)}.") from None
