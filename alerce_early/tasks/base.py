"""What every task is: a net with its recipe, what is minimised, what it outputs and how it is judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from alerce_early.construct import build
from alerce_early.data.augment import Augment, Redraw
from alerce_early.data.recipe import Recipe
from alerce_early.data.spec import DataSpec
from alerce_early.tasks.optim import configure

if TYPE_CHECKING:
    from alerce_early.data.datamodule import AlertData
from alerce_early.artifacts.checkpoints import FORMAT

Batch = dict[str, Tensor]
Table = dict[str, np.ndarray]


class Task(L.LightningModule):
    """One kind of problem: a LightningModule whose subclasses define the loss, the outputs and the reported metrics.

    All arguments are plain values, kept as `hparams`, so a checkpoint opens with `weights_only` and without arguments:
    net: config of a `Net`; spec: `DataSpec.plain()`; optim: {"optimizer": {"_target_": a torch.optim class,
    ...}, "groups": {last part of a parameter's name: options of the optimiser for it}, "schedule": {"_target_": a torch
    scheduler, ...} or None}; augment: {"margin", "steps", "redraw"}, the last one as in `Redraw`.
    table: outputs of all rows of the last validation, in the order of the store's rows.
    """

    lower_is_better: frozenset[str] = frozenset({"loss"})  # validation numbers, without the class as in "recall/SN"
    deployable = True  # its outputs ask for nothing that only labelled rows have
    shown: tuple[str, ...] = ()  # of the report, beside the losses and what is monitored, in the line of an epoch

    def __init__(self, net: dict[str, Any], spec: dict[str, Any], optim: dict[str, Any], augment: dict[str, Any]):
        super().__init__()
        self.save_hyperparameters(logger=False)  # those of subclasses too
        self.spec = DataSpec.from_plain(spec)
        self.net = build(net, spec=self.spec)
        self.optim = optim
        steps = dict(augment)
        redraw = steps.pop("redraw", [])  # which older checkpoints lack
        self.redraw = Redraw(self.spec.features, redraw) if redraw else None
        self.augment = Augment(**steps, size=self.spec.shape[-1])
        self.recipe = Recipe(self.spec.recipe, self.spec.margin)
        self.table: Table = {}
        self.steps: list[Batch] = []  # losses and scores of this epoch's steps, and how many rows each is of
        self._collected: list[Batch] = []

    @classmethod
    def best_is_lowest(cls, monitor: str) -> bool:
        """Return whether the best value of a validation number, such as "recall/SN", is the lowest."""
        return monitor.partition("/")[0] in cls.lower_is_better

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Raise InputError for options, as in the yaml of the task, that are wrong whatever the data."""

    # What a subclass says

    def losses(self, z: Any, batch: Batch) -> dict[str, Tensor]:
        """Return scalars of one batch, given the net's output for it; "loss" is what is minimised."""
        raise NotImplementedError

    def scores(self, z: Any, batch: Batch) -> dict[str, Tensor]:
        """Return means over the rows of a training batch that show how learning goes, beside the losses."""
        return {}

    def mix(self, batch: Batch) -> Batch:
        """Return a training batch whose rows may be made of several, ready for the net."""
        return batch

    def outputs(self, z: Any, batch: Batch) -> dict[str, Tensor]:
        """Return columns (B,) of the predictions table for one batch, given the net's output for it.

        A task that is `deployable` looks at no more of the batch than image and features.
        """
        raise NotImplementedError

    def report(self, table: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return numbers computed once over a whole table of outputs."""
        raise NotImplementedError

    def examples(self, data: AlertData) -> dict[str, np.ndarray]:
        """Return what only the network can show: blocks of stamps (classes, n, C, H, W) by title, or none."""
        return {}

    def draw_predictions(self, data: AlertData) -> tuple[np.ndarray, np.ndarray] | None:
        """Return test rows (R,) and, over draws of the weights, their probabilities (draws, R, classes), or None."""
        return None

    def describe_posterior(self) -> dict[str, Any]:
        """Return what is known of the posterior of the weights as plain values, {} where there is none."""
        return {}

    def named(self, table: Mapping[str, np.ndarray]) -> Table:
        """Return a table of outputs with class names for label numbers, nothing for unlabelled rows."""
        return {**table, "label": np.array([*self.spec.classes, ""])[table["label"]]}

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Augment, finish the recipe, run the net, and return the loss that is minimised.

        share: weighs the loss of a rank that has fewer rows of the global batch than the others, see `Rows`.
        """
        image = self.recipe.finish(self.augment(batch["image"]))
        if self.redraw:
            batch = batch | {"features": self.redraw(batch["features"])}
        batch = self.mix(batch | {"image": image})
        z = self.net(batch)
        losses = self.losses(z, batch)
        seen = {name: value.detach() for name, value in (losses | self.scores(z, batch)).items()}
        self.steps.append(seen | {"rows": torch.tensor(len(image))})
        return losses["loss"] * batch["share"]

    def log_epoch(self) -> None:
        """Log the means over all rows of this epoch's steps; at every step, that would wait for the device."""
        rows = torch.stack([step["rows"] for step in self.steps]).to(self.device)
        seen = {name: torch.stack([step[name] for step in self.steps]) for name in self.steps[0] if name != "rows"}
        means = {f"train/{name}": (values * rows).sum() / rows.sum() for name, values in seen.items()}
        self.log_dict(means, sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect losses and outputs; they are judged once over the whole table."""
        batch = batch | {"image": self.recipe.finish(batch["image"])}
        z = self.net(batch)
        losses = {f"loss/{name}": value.repeat(len(batch["row"])) for name, value in self.losses(z, batch).items()}
        self._collect(batch, losses | self.outputs(z, batch))

    def on_validation_epoch_start(self) -> None:
        self._collected.clear()

    def on_validation_epoch_end(self) -> None:
        """Judge the whole table at once, over all ranks; metrics are never averaged over batches."""
        table = self._gather()
        losses = {name: float(table.pop(name).mean()) for name in list(table) if name.startswith("loss/")}
        self.table = table
        values = {name.removeprefix("loss/"): value for name, value in losses.items()} | self.report(table)
        self.log_dict({f"val/{name}": value for name, value in values.items()}, rank_zero_only=False)

    def configure_optimizers(self) -> Any:
        """Construct optimiser and schedule; see `optim`."""
        return configure(self.optim, self.net, lambda: self.trainer.estimated_stepping_batches)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what it takes to open the file bare: its format and the task's class; Lightning adds `hparams`."""
        checkpoint |= {"format": FORMAT, "task": f"{type(self).__module__}.{type(self).__qualname__}"}

    def on_train_epoch_start(self) -> None:
        self.steps.clear()

    # The table of all outputs

    def judge(self, loader: Iterable[Batch]) -> Table:
        """Return the outputs of all rows of a loader, over all ranks, in the order of the store's rows.

        In IEEE float32, whatever precision trained: it is what `predict` will compute.
        """
        self._collected.clear()
        self.to(self.trainer.strategy.root_device, torch.float32).eval()
        with torch.inference_mode(), _ieee_float32():
            for batch in loader:
                batch = batch | {"image": self.recipe.finish(batch["image"])}
                self._collect(batch, self.outputs(self.net(batch), batch))
        return self._gather()

    def _collect(self, batch: Batch, columns: Batch) -> None:
        truth = {"true": batch["target"]} if "target" in batch else {}
        self._collected.append({"row": batch["row"], "label": batch["label"], **truth, **columns})

    def _gather(self) -> Table:
        """Return all collected columns of all ranks, in the order of the store's rows."""
        columns = {name: torch.cat([part[name] for part in self._collected]) for name in self._collected[0]}
        self._collected.clear()
        if self.trainer.world_size > 1:
            parts: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, {name: c.cpu() for name, c in columns.items()})
            columns = {name: torch.cat([part[name] for part in parts]) for name in columns}
        order = columns["row"].cpu().argsort()
        return {name: column.cpu()[order].numpy() for name, column in columns.items()}


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
