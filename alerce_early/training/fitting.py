"""Fitting a task with Lightning: augment, finish the recipe, losses; and the table of all its outputs."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor

from alerce_early.construct import torch_class
from alerce_early.errors import InputError, one_line
from alerce_early.schema import construct
from alerce_early.tasks.base import (
    FORMAT,
    Batch,
    Table,
    Task,
)

CHECKED_EVERY = 50  # steps: a check waits for the device and for the other processes
NEVER = 1 << 62  # a batch that never comes


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite, up to `CHECKED_EVERY` steps ago; says in which epoch and batch."""


class Fitting(L.LightningModule):
    """A task in a trainer. Its checkpoints hold the task and nothing of this class, so they open without Lightning.

    table: outputs of all rows of the last validation, in the order of the store's rows.
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

    def on_train_epoch_start(self) -> None:
        self._first_bad = torch.full((), NEVER, device=self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.task.steps_done = self.global_step
        batch = self._finished(batch | {"image": self.task.augment(batch["image"])})
        losses = self.task.losses(self.task.net(batch), batch)
        bad = self._first_bad.clamp(max=batch_idx + 1)
        self._first_bad = torch.where(losses["loss"].detach().isfinite(), self._first_bad, bad)
        names = {f"train/{name}": value.detach() for name, value in losses.items()}
        self.log_dict(names, on_step=False, on_epoch=True, batch_size=len(batch["label"]), sync_dist=True)
        return losses["loss"] * batch["share"]

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self._done = batch_idx + 1
        if self._done % CHECKED_EVERY == 0:
            self._check_finite()

    def on_train_epoch_end(self) -> None:
        self._check_finite()  # where this epoch is not validated, its checkpoint is written all the same

    def _check_finite(self) -> None:
        """Raise `NonFiniteLoss` in all processes alike, if in one of them a loss was not finite or now a weight is."""
        weights = torch.stack([weight.isfinite().all() for weight in self.task.parameters()]).all()
        bad = torch.where(weights, self._first_bad, self._first_bad.clamp(max=self._done))
        if (first := int(self.trainer.strategy.reduce(bad, reduce_op="min"))) < NEVER:
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            raise NonFiniteLoss(
                f"the loss is not finite from epoch {self.current_epoch + 1}, batch {first} on, "
                f"learning rate {rate:.3g}. Try a smaller optim.optimizer.lr."
            )

    def on_validation_epoch_start(self) -> None:
        self._check_finite()
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

    def judge(self, loader: Iterable[Batch]) -> Table:
        """Return the outputs of all rows of a loader, over all ranks, in the order of the store's rows.

        In IEEE float32, whatever precision trained: it is what `predict` will compute.
        """
        self._collected.clear()
        self.to(self.trainer.strategy.root_device, torch.float32).eval()
        with torch.inference_mode(), _ieee_float32():
            for batch in map(self._finished, loader):
                self._collect(batch, self.task.outputs(self.task.net(batch), batch))
        return self._gather()

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


@contextmanager
def _ieee_float32() -> Iterator[None]:
    """Let no device round the factors of a product to fewer digits, as GPUs do in convolutions by default."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def _construct(config: Mapping[str, Any], kind: type, first: Any) -> Any:
    options = {key: value for key, value in config.items() if key != "_target_"}
    try:
        return construct(torch_class(config["_target_"], kind), first, **options)
    except (TypeError, ValueError) as error:
        raise InputError(f"optim: {one_line(error)}.") from None
