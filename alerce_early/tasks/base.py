"""Base LightningModule: a network with its recipe, training step, predictions and metrics."""

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
from alerce_early.errors import InputError
from alerce_early.tasks.optim import MAX_STEPS, configure

if TYPE_CHECKING:
    from alerce_early.data.datamodule import AlertData
from alerce_early.artifacts.checkpoints import FORMAT

Batch = dict[str, Tensor]
Table = dict[str, np.ndarray]


class Task(L.LightningModule):
    """Base class of tasks; subclasses define loss, outputs and metrics.

    All arguments are plain values and kept as `hparams`, so a checkpoint opens with `weights_only` and without
    arguments.

    Parameters
    ----------
    net : dict
        Config of a `Net`.
    spec : dict
        `DataSpec.plain()` of the training data.
    optim : dict
        "optimizer": a torch.optim class as ``_target_`` with its options; "groups": options for parameters, by the
        last part of their name; "schedule": a torch scheduler with its options, or None.
    augment : dict
        "margin" and "steps" of `Augment`, "redraw" of `Redraw`.

    Attributes
    ----------
    table : dict of str to ndarray
        Outputs of all rows of the last validation, in the order of the store.
    lower_is_better : frozenset of str
        Validation metrics whose best value is the lowest, without the class ("recall" of "recall/SN").
    deployable : bool
        Whether the outputs need only images and metadata.
    shown : tuple of str
        Metrics in the log line of an epoch, in addition to the losses and the monitored metric.
    """

    lower_is_better: frozenset[str] = frozenset({"loss"})
    deployable = True
    shown: tuple[str, ...] = ()

    def __init__(self, net: dict[str, Any], spec: dict[str, Any], optim: dict[str, Any], augment: dict[str, Any]):
        super().__init__()
        self.save_hyperparameters(logger=False)  # includes the arguments of subclasses
        self.spec = DataSpec.from_plain(spec)
        self.net = build(net, spec=self.spec)
        self.optim = optim
        steps = dict(augment)
        redraw = steps.pop("redraw", [])  # missing from older checkpoints
        self.redraw = Redraw(self.spec.features, redraw) if redraw else None
        self.augment = Augment(**steps, size=self.spec.shape[-1])
        self.recipe = Recipe(self.spec.recipe, self.spec.margin)
        self.table: Table = {}
        self.steps: list[Batch] = []  # losses, scores and number of rows of each step of this epoch
        self._collected: list[Batch] = []

    @classmethod
    def best_is_lowest(cls, monitor: str) -> bool:
        """Return whether the best value of a validation metric, such as "recall/SN", is the lowest."""
        return monitor.partition("/")[0] in cls.lower_is_better

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Raise InputError for options of the task that are wrong for any data."""

    # Defined by subclasses

    def losses(self, z: Any, batch: Batch) -> dict[str, Tensor]:
        """Return scalar losses of a batch, given the network's output `z`; "loss" is minimised."""
        raise NotImplementedError

    def scores(self, z: Any, batch: Batch) -> dict[str, Tensor]:
        """Return further means over a training batch to log with the losses."""
        return {}

    def mix(self, batch: Batch) -> Batch:
        """Return the training batch, with rows mixed (as in MixUp) if the task uses that."""
        return batch

    def outputs(self, z: Any, batch: Batch) -> dict[str, Tensor]:
        """Return columns (B,) of the predictions table, given the network's output `z`.

        A `deployable` task uses only the image and the features of the batch.
        """
        raise NotImplementedError

    def report(self, table: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Compute the metrics of a whole table of outputs."""
        raise NotImplementedError

    def examples(self, data: AlertData) -> dict[str, np.ndarray]:
        """Return blocks of stamps (classes, n, C, H, W) made by the network, by title; none by default."""
        return {}

    def draw_predictions(self, data: AlertData) -> tuple[np.ndarray, np.ndarray] | None:
        """Return test rows (R,) and their probabilities (draws, R, classes) for sampled weights, or None."""
        return None

    def describe_posterior(self) -> dict[str, Any]:
        """Return a summary of the posterior of the weights as plain values, or {}."""
        return {}

    def named(self, table: Mapping[str, np.ndarray]) -> Table:
        """Return the table with class names as labels, "" for unlabelled rows."""
        return {**table, "label": np.array([*self.spec.classes, ""])[table["label"]]}

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Augment a batch, finish the recipe, apply the network and return the loss.

        ``batch["share"]`` weighs the loss of a rank that has fewer rows of the global batch than the others; see
        `Rows`.
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
        """Log the means over all rows of the epoch; logging at every step would wait for the device."""
        rows = torch.stack([step["rows"] for step in self.steps]).to(self.device)
        seen = {name: torch.stack([step[name] for step in self.steps]) for name in self.steps[0] if name != "rows"}
        means = {f"train/{name}": (values * rows).sum() / rows.sum() for name, values in seen.items()}
        self.log_dict(means, sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect losses and outputs of a batch; metrics are computed once over the whole table."""
        batch = batch | {"image": self.recipe.finish(batch["image"])}
        z = self.net(batch)
        losses = {f"loss/{name}": value.repeat(len(batch["row"])) for name, value in self.losses(z, batch).items()}
        self._collect(batch, losses | self.outputs(z, batch))

    def on_validation_epoch_start(self) -> None:
        """Discard what an interrupted validation collected."""
        self._collected.clear()

    def on_validation_epoch_end(self) -> None:
        """Compute metrics once over the table of all ranks; they are never averaged over batches."""
        table = self._gather()
        losses = {name: float(table.pop(name).mean()) for name in list(table) if name.startswith("loss/")}
        self.table = table
        values = {name.removeprefix("loss/"): value for name, value in losses.items()} | self.report(table)
        self.log_dict({f"val/{name}": value for name, value in values.items()}, rank_zero_only=False)

    def configure_optimizers(self) -> Any:
        """Construct optimiser and learning-rate schedule; see `optim`."""
        return configure(self.optim, self.net, lambda: self.trainer.estimated_stepping_batches)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the format and the task's class, which opening the file needs; Lightning adds `hparams`."""
        checkpoint |= {"format": FORMAT, "task": f"{type(self).__module__}.{type(self).__qualname__}"}

    def on_train_start(self) -> None:
        """Raise InputError if a resumed run has more steps than its stored learning-rate schedule."""
        for config in self.trainer.lr_scheduler_configs:
            known, steps = getattr(config.scheduler, "total_steps", None), self.trainer.estimated_stepping_batches
            if self.trainer.ckpt_path and known and known < steps < MAX_STEPS:
                raise InputError(
                    f"trainer.max_epochs={self.trainer.max_epochs}: {steps} steps, and the schedule of this run ends "
                    f"after {known}. Set its config.yaml back, or train longer in a new run, with init_from=."
                )

    def on_train_epoch_start(self) -> None:
        """Discard the losses of the epoch before."""
        self.steps.clear()

    # The table of all outputs

    def judge(self, loader: Iterable[Batch]) -> Table:
        """Compute the outputs of all rows, over all ranks, in IEEE float32 as `predict` does.

        Parameters
        ----------
        loader : iterable of dict
            Batches of one split.

        Returns
        -------
        dict of str to ndarray
            Columns (N,), in the order of the store.
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
        """Return the collected columns of all ranks, in the order of the store."""
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
    """Forbid TF32, the reduced precision of convolutions on GPUs."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
