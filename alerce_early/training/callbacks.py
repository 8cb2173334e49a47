"""Callbacks and checkpoint writing: epoch log, progress bar, early stopping, random state, check for finite losses."""

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

N_LOSS_POINTS = 100  # averages of the loss by step that are kept per epoch

FINITE_CHECK_INTERVAL = 50  # steps; a check waits for the device and the other processes
NO_BATCH = 1 << 62  # larger than any batch number, for the minimum over processes


class EpochLine(Callback):
    """Log one line per epoch and keep the metrics of all epochs in the checkpoint and in history.jsonl.

    Parameters
    ----------
    folder : Path
        The run folder.
    shown : sequence of str
        Names of the logged metrics in the line, e.g. "val/loss".
    """

    def __init__(self, folder: Path, shown: Sequence[str]):
        self.file, self.shown = folder / "history.jsonl", list(dict.fromkeys(shown))
        self.history: list[dict[str, Any]] = []
        self.rows, self.stepping = 0, 0.0  # rows and seconds of the training steps after the first epoch
        self.seconds = 0.0  # of all complete epochs, including those before an interruption
        self.started = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the training steps."""
        self.begun = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        """Add rows and seconds at the end of an epoch, before validation."""
        if trainer.is_last_batch and self.history:
            outputs["loss"].item()  # wait for the device
            rows = sum(int(step["rows"]) for step in cast(Any, pl_module).steps) * trainer.world_size
            self.rows, self.stepping = self.rows + rows, self.stepping + time.perf_counter() - self.begun

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the line of the epoch, and write history.jsonl and the losses by step."""
        task = cast(Any, pl_module)
        task.log_epoch()
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        epoch = trainer.current_epoch + 1
        now = time.perf_counter()
        seconds, self.started = now - self.started, now
        self.seconds += seconds
        # averages over a few steps, so that the history of a long run stays short
        by_step = torch.stack([step["loss"] for step in task.steps]).cpu()
        losses = [part.mean().item() for part in by_step.tensor_split(N_LOSS_POINTS) if len(part)]
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
        with tqdm.external_write_mode():  # otherwise the line would follow the bar
            log.info("epoch %3d/%s  %s  %.1f s", epoch, trainer.max_epochs, numbers, seconds)

    def state_dict(self) -> dict[str, Any]:
        """Return the metrics of all epochs, and the times."""
        return {"history": self.history, "rows": self.rows, "seconds": (self.seconds, self.stepping)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the metrics and times of the run that is resumed."""
        self.history, self.rows = state_dict["history"], state_dict["rows"]
        self.seconds, self.stepping = state_dict["seconds"]


def measure_training(trainer: L.Trainer) -> dict[str, float | None]:
    """Measure the time and the rate of training.

    Parameters
    ----------
    trainer : lightning.Trainer
        The trainer of a finished run, with an `EpochLine`.

    Returns
    -------
    dict
        "training_seconds": sum over all epochs, including those before an interruption.
        "training_stamps_per_second": rate of the training steps, without validation and without the first epoch;
        None after a single epoch.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    (line,) = (callback for callback in callbacks if isinstance(callback, EpochLine))
    rate = round(line.rows / line.stepping, 1) if line.rows else None
    return {"training_seconds": round(line.seconds, 2), "training_stamps_per_second": rate}


def _spell(name: str) -> str:
    """Return a metric's name in words: val/recall/SN becomes "SN recall"."""
    split, _, metric = name.partition("/")
    metric, _, label = metric.partition("/")
    words = f"{label} {metric}".strip().replace("_", " ")
    return words if split == "val" and metric != "loss" else f"{split} {words}"


class Bar(TQDMProgressBar):
    """Progress bar with the loss of the last step and the rate in stamps per second."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the loss and the rate, as text."""
        if not (steps := cast(Any, pl_module).steps):
            return {}
        shown = self.train_progress_bar.format_dict
        stamps = shown["n"] * int(steps[0]["rows"]) * trainer.world_size
        return {"loss": f"{float(steps[-1]['loss']):.3f}", "stamps/s": f"{stamps / max(shown['elapsed'], 1e-9):,.0f}"}


def make_progress_bars() -> list[Callback]:
    """Return a progress bar if standard error is a terminal, otherwise nothing."""
    return [Bar(refresh_rate=10, leave=False)] if sys.stderr.isatty() else []


def silence_libraries() -> None:
    """Silence hints and warnings of Lightning, and all messages of processes other than the first; errors remain."""
    if getattr(rank_zero_only, "rank", 0):
        logging.getLogger("alerce_early").setLevel(logging.ERROR)
    logging.raiseExceptions = False  # if the disk is full, lines are still printed
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for about in (
        ".*exists and is not empty.*",  # a resumed run writes to the same folder
        ".*LeafSpec.*",  # a deprecation inside Lightning
        ".*smaller than the logging interval.*",  # all metrics are logged per epoch
        ".*does not have many workers.*",  # batches come from memory and need no workers
        ".*sync_dist=True.*",  # metrics are computed over the rows of all processes
    ):
        warnings.filterwarnings("ignore", message=about)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints atomically: the temporary file is on the same file system as the final one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        checkpoints.save(checkpoint, Path(path))


class Kept(ModelCheckpoint):
    """Keep one checkpoint under a fixed name; the run folder may be moved before the run is resumed."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, with the paths changed to the current folder."""
        there, here = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {moved(path): score for path, score in value.items()}
            return value.replace(there, here, 1) if isinstance(value, str) else value

        super().load_state_dict({name: moved(value) for name, value in state_dict.items()})


class Patience(EarlyStopping):
    """Early stopping that also stops a resumed run at once if it had already stopped."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop if the resumed run had already stopped."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check whether to stop; raise InputError if the monitored metric is unknown."""
        if self.monitor not in trainer.callback_metrics:
            known = sorted(name.removeprefix("val/") for name in trainer.callback_metrics if name.startswith("val/"))
            raise InputError(
                f"monitor={self.monitor.removeprefix('val/')} is not a metric of this task. Choose from "
                f"{', '.join(known)}."
            )
        super().on_validation_end(trainer, pl_module)


class Randomness(Callback):
    """Save the random state of all processes, so that a resumed run gives the same result."""

    def state_dict(self) -> dict[str, Any]:
        """Return the states by rank."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        return {"processes": _gather({"cpu": torch.get_rng_state(), "cuda": cuda})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of this process."""
        rank, states = (dist.get_rank() if _is_distributed() else 0), state_dict["processes"]
        if rank >= len(states):  # resumed with more processes: the result cannot be identical anyway
            return
        torch.set_rng_state(states[rank]["cpu"].cpu())
        if torch.cuda.is_initialized() and states[rank]["cuda"] is not None:
            torch.cuda.set_rng_state(states[rank]["cuda"].cpu())


def _is_distributed() -> bool:
    """Return True if several processes train together."""
    return dist.is_available() and dist.is_initialized()


def _gather(own: Any) -> list[Any]:
    """Return the objects of all processes, by rank."""
    if not _is_distributed():
        return [own]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, own)
    return states


class NonFiniteLossError(RuntimeError):
    """The loss is NaN or infinite, since at most `FINITE_CHECK_INTERVAL` steps; the message gives epoch and batch."""


class FiniteLossGuard(Callback):
    """Stop all processes if a loss or a weight is not finite; checked every `FINITE_CHECK_INTERVAL` steps."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Check every `FINITE_CHECK_INTERVAL` steps."""
        if len(cast(Any, pl_module).steps) % FINITE_CHECK_INTERVAL == 0:
            self._check(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check before validation."""
        self._check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check before the checkpoint is written, also in epochs without validation."""
        self._check(trainer, pl_module)

    def _check(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Raise `NonFiniteLossError` in all processes if a loss or a weight of any process is not finite."""
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
