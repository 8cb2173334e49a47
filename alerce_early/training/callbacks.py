"""What people see while a run trains: one line per epoch, a history file, curves and pictures in TensorBoard."""

import json
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

from alerce_early import files
from alerce_early.artifacts import checkpoints
from alerce_early.errors import InputError

log = logging.getLogger(__name__)

POINTS = 100  # of the loss by step, kept of each epoch

FINITE_CHECK_INTERVAL = 50  # steps: a check waits for the device and for the other processes
NO_BATCH = 1 << 62  # stands for no batch where the smallest number of all processes is looked for


class EpochLine(Callback):
    """Logs one line per epoch and keeps every epoch's numbers, also in the checkpoint, as history.jsonl."""

    def __init__(self, folder: Path, shown: Sequence[str]):
        self.file, self.shown = folder / "history.jsonl", list(dict.fromkeys(shown))
        self.history: list[dict[str, Any]] = []
        self.rows, self.stepping = 0, 0.0  # of the training steps alone, but for the first epoch: rows and seconds
        self.seconds = 0.0  # of training, up to the end of the last epoch, also before the run was cut
        self.started = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.begun = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        if trainer.is_last_batch and self.history:
            outputs["loss"].item()  # waits for the device
            rows = sum(int(step["rows"]) for step in cast(Any, pl_module).steps) * trainer.world_size
            self.rows, self.stepping = self.rows + rows, self.stepping + time.perf_counter() - self.begun

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        task = cast(Any, pl_module)
        task.log_epoch()
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        epoch = trainer.current_epoch + 1
        now = time.perf_counter()
        seconds, self.started = now - self.started, now
        self.seconds += seconds
        # of many steps each point is the mean of a few, so that a long run keeps a short history
        by_step = torch.stack([step["loss"] for step in task.steps]).cpu()
        losses = [part.mean().item() for part in by_step.tensor_split(POINTS) if len(part)]
        row = {"epoch": epoch, "step": trainer.global_step, "learning_rate": rate, **values, "losses": losses}
        self.history.append(row)
        if not trainer.is_global_zero:
            return
        begun = self.history[-2]["step"] if len(self.history) > 1 else 0
        steps = np.linspace(begun, trainer.global_step, len(losses) + 1)[1:]
        for board in (logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)):
            for step, loss in zip(steps, losses, strict=True):
                board.experiment.add_scalar("train/loss by step", loss, round(step))
        files.write_text(self.file, "".join(json.dumps(row) + "\n" for row in self.history))
        numbers = "  ".join(f"{_spell(name)} {values[name]:.3f}" for name in self.shown if name in values)
        with tqdm.external_write_mode():  # else the line would begin where the bar ends
            log.info("epoch %3d/%s  %s  %.1f s", epoch, trainer.max_epochs, numbers, seconds)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "rows": self.rows, "seconds": (self.seconds, self.stepping)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history, self.rows = state_dict["history"], state_dict["rows"]
        self.seconds, self.stepping = state_dict["seconds"]


def measure_training(trainer: L.Trainer) -> dict[str, float | None]:
    """Return what all epochs took, over all processes that one after the other trained this run, and the rate.

    The rate is of the training steps alone: validation and the first epoch, which warms up, are left out.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    (line,) = (callback for callback in callbacks if isinstance(callback, EpochLine))
    rate = round(line.rows / line.stepping, 1) if line.rows else None
    return {"training_seconds": round(line.seconds, 2), "training_stamps_per_second": rate}


def _spell(name: str) -> str:
    """val/recall/SN -> SN recall"""
    split, _, metric = name.partition("/")
    metric, _, label = metric.partition("/")
    words = f"{label} {metric}".strip().replace("_", " ")
    return words if split == "val" and metric != "loss" else f"{split} {words}"


class Bar(TQDMProgressBar):
    """Lightning's bar, with the loss of the last step and the rate in stamps."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        if not (steps := cast(Any, pl_module).steps):
            return {}
        shown = self.train_progress_bar.format_dict
        stamps = shown["n"] * int(steps[0]["rows"]) * trainer.world_size
        return {"loss": f"{float(steps[-1]['loss']):.3f}", "stamps/s": f"{stamps / max(shown['elapsed'], 1e-9):,.0f}"}


def progress_bar() -> list[Callback]:
    """Return a bar within the epoch where somebody can see it move; none in a log file."""
    return [Bar(refresh_rate=10, leave=False)] if sys.stderr.isatty() else []


def silence_libraries() -> None:
    """Leave the log to what this run has to say, once: Lightning's hints go, its errors stay."""
    if getattr(rank_zero_only, "rank", 0):
        logging.getLogger("alerce_early").setLevel(logging.ERROR)
    logging.raiseExceptions = False  # a line that a full disk refuses in train.log is still on the screen
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for about in (
        ".*exists and is not empty.*",  # a run that continues writes where it did
        ".*LeafSpec.*",  # a deprecation inside Lightning
        ".*smaller than the logging interval.*",  # every metric here is logged by epoch
        ".*does not have many workers.*",  # whole batches from memory need none
        ".*sync_dist=True.*",  # every process computes its metrics over the rows of all
    ):
        warnings.filterwarnings("ignore", message=about)


class WholeFiles(TorchCheckpointIO):
    """Lightning's way of writing, but the temporary file lies on the same disk, or the rename would be a copy."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        checkpoints.save(checkpoint, Path(path))


class Kept(ModelCheckpoint):
    """One checkpoint under a fixed name, also where the run folder was moved before the run went on."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        there, here = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {moved(path): score for path, score in value.items()}
            return value.replace(there, here, 1) if isinstance(value, str) else value

        super().load_state_dict({name: moved(value) for name, value in state_dict.items()})


class Patience(EarlyStopping):
    """Early stopping that also stops at once when the run it continues with had already stopped."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.monitor not in trainer.callback_metrics:
            known = sorted(name.removeprefix("val/") for name in trainer.callback_metrics if name.startswith("val/"))
            raise InputError(f"monitor={self.monitor.removeprefix('val/')} is not measured; wanted {', '.join(known)}.")
        super().on_validation_end(trainer, pl_module)


class Randomness(Callback):
    """Keeps the state of every process's random number generators, so that a run that continues draws the same."""

    def state_dict(self) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        return {"processes": _of_all_processes({"cpu": torch.get_rng_state(), "cuda": cuda})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rank, states = (dist.get_rank() if _many() else 0), state_dict["processes"]
        if rank >= len(states):  # on more processes than before there is nothing to repeat
            return
        torch.set_rng_state(states[rank]["cpu"].cpu())
        if torch.cuda.is_initialized() and states[rank]["cuda"] is not None:
            torch.cuda.set_rng_state(states[rank]["cuda"].cpu())


def _many() -> bool:
    return dist.is_available() and dist.is_initialized()


def _of_all_processes(own: Any) -> list[Any]:
    """Return what each process holds, by rank."""
    if not _many():
        return [own]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, own)
    return states


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite, up to `FINITE_CHECK_INTERVAL` steps ago; says in which epoch and batch."""


class FiniteLossGuard(Callback):
    """Stops all processes alike when a loss of one is not finite; a check waits for the device, so not every step."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if len(cast(Any, pl_module).steps) % FINITE_CHECK_INTERVAL == 0:
            self._check(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check(trainer, pl_module)  # where this epoch is not validated, its checkpoint is written all the same

    def _check(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Raise `NonFiniteLossError` in all processes alike, if in one a loss was not finite or now a weight is."""
        finite = [step["loss"].isfinite() for step in cast(Any, task).steps]
        weights = torch.stack([weight.isfinite().all() for weight in task.parameters()]).all()
        bad = torch.stack([*finite[:-1], *[last & weights for last in finite[-1:]]]).logical_not().nonzero()
        first = torch.tensor(int(bad[0]) + 1 if len(bad) else NO_BATCH, device=task.device)
        if (batch := int(trainer.strategy.reduce(first, reduce_op="min"))) < NO_BATCH:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            raise NonFiniteLossError(
                f"the loss is not finite from epoch {trainer.current_epoch + 1}, batch {batch} on, "
                f"learning rate {rate:.3g}. Try a smaller optim.optimizer.lr."
            )
