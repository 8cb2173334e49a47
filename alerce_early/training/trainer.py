"""The trainer of a run: Lightning's, with the callbacks that keep, show and stop it."""

import signal
from inspect import signature
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, Checkpoint, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from alerce_early.artifacts import checkpoints
from alerce_early.artifacts.run_folder import Run
from alerce_early.construct import check, construct, library_class
from alerce_early.errors import InputError, MissingExtraError, one_line
from alerce_early.machine import multiplies_bfloat16
from alerce_early.tasks.base import Task
from alerce_early.training import processes, signals
from alerce_early.training.callbacks import (
    EpochLine,
    FiniteLossGuard,
    Kept,
    Patience,
    Randomness,
    WholeFiles,
    progress_bar,
)

# Lightning's callbacks that have no use within a run, and what has.
UNFIT = {
    "LearningRateFinder": "it would search again when a run is resumed. Try the program search with search=optimiser",
    "StochasticWeightAveraging": "its mean comes after the last checkpoint and is never evaluated. Try callbacks=ema",
    "BackboneFinetuning": "no network here names its backbone. Derive a callback of your own from BaseFinetuning",
}


def choose_precision(options: dict[str, Any]) -> str:
    """Return the precision of the trainer's options; of auto, bfloat16 where the device is faster in it."""
    if (asked := options.get("precision", "32-true")) != "auto":
        return asked
    if options.get("accelerator") in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        quick = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        quick = multiplies_bfloat16()
    return "bf16-mixed" if quick else "32-true"


def make_loggers(config: DictConfig, run: Run, purge: int) -> list[Logger]:
    """Return the loggers of a whole config; purge: the first step that a run which continues logs again."""
    made = []
    chosen: Any = OmegaConf.to_container(config.logger or OmegaConf.create(), resolve=True)
    for name, options in chosen.items():
        kind = library_class(options.pop("_target_"), Logger, "lightning.pytorch.loggers")
        if kind is TensorBoardLogger:
            options["purge_step"] = purge
        try:
            made.append(kind(save_dir=str(run.path), **options))
            if kind is WandbLogger:  # it takes any option, for a function that is called in the middle of the start
                import wandb

                check(wandb.init, **{key: options[key] for key in options.keys() - signature(kind).parameters.keys()})
        except TypeError as error:
            raise InputError(f"logger.{name}: {one_line(error)}.") from None
        except InputError as error:
            raise InputError(f"logger.{name}: {error}") from None
        except ImportError:
            raise MissingExtraError(f"logger={name}", "loggers") from None
    return made


def make_callbacks(config: DictConfig) -> list[Callback]:
    """Return the callbacks that a whole config adds to those of every run."""
    made: list[Callback] = [] if config.ema is None else [EMAWeightAveraging(decay=config.ema)]
    chosen: Any = OmegaConf.to_container(config.callbacks or OmegaConf.create(), resolve=True)
    for name, options in chosen.items():
        kind = library_class(options.pop("_target_"), Callback, "lightning.pytorch.callbacks")
        if issubclass(kind, Checkpoint) and kind.__module__.startswith("lightning."):
            raise InputError(f"callbacks.{name}: the run keeps its own checkpoints. Leave out {kind.__name__}.")
        if kind.__name__ in UNFIT and kind.__module__.startswith("lightning."):
            raise InputError(f"callbacks.{name}: {kind.__name__}: {UNFIT[kind.__name__]}.")
        try:
            made.append(construct(kind, **options))
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise InputError(f"callbacks.{name}: {one_line(error)}.") from None
        if made[-1].state_key in [callback.state_key for callback in made[:-1]]:  # a checkpoint could not hold both
            raise InputError(
                f"callbacks.{name}: there are two {kind.__name__}. Leave one out, callbacks.{name} or ema."
            )
    return made


def make_trainer(config: DictConfig, task: Task, run: Run, *more: Callback) -> tuple[L.Trainer, ModelCheckpoint]:
    """Return the trainer of a whole config, and what keeps the best checkpoint; more: extra callbacks.

    Raises InputError for options of the Trainer that do not fit this machine or the launcher.
    """
    monitor = f"val/{config.monitor}" if config.monitor else None
    mode = "min" if config.monitor and task.best_is_lowest(config.monitor) else "max"
    folder = run.path / "checkpoints"
    best = Kept(folder, "best", monitor=monitor, mode=mode, enable_version_counter=False)
    # after the epoch's line is written, so that a run that continues has the whole history; and after the best one,
    # which then, if only that was written, is written again as it is
    last = Kept(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    # what the cut run logged after its last checkpoint will be logged again
    purge = checkpoints.read(run.last)["global_step"] + 1 if run.cut else 0
    callbacks: list[Callback] = [
        EpochLine(run.path, ("train/loss", "val/loss", monitor or "", *[f"val/{name}" for name in task.shown])),
        Randomness(),
        *progress_bar(),
        *make_callbacks(config),
        *more,
        FiniteLossGuard(),
        *([Patience(monitor, patience=config.patience, mode=mode, check_finite=False)] if monitor else []),
        best,
        last,
    ]
    options: Any = OmegaConf.to_container(config.trainer, resolve=True)
    options["precision"] = choose_precision(options)
    if options.get("gradient_clip_val"):  # Lightning clips no gradients of a fused optimiser in mixed precision
        task.optim["optimizer"].pop("fused", None)
    try:
        trainer = construct(
            L.Trainer,
            # statistics of batch normalisation over all ranks; a CPU has no such layer
            **{"sync_batchnorm": torch.cuda.is_available() and config.trainer.accelerator != "cpu"},
            **options,
            callbacks=callbacks,
            plugins=[WholeFiles(), processes.make_plugin()],
            logger=make_loggers(config, run, purge) or False,
            default_root_dir=run.path,
            use_distributed_sampler=False,  # the data module's batches know their rank
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=bool(progress_bar()),
        )
    except (MisconfigurationException, ValueError) as error:
        raise InputError(f"trainer: {error} Try trainer=cpu.") from None
    ranks = trainer.num_devices * trainer.num_nodes
    processes.check_number(ranks)
    if config.data.batch_size < 2 * ranks:
        raise InputError(
            f"data.batch_size={config.data.batch_size} for {ranks} processes; wanted at least 2 rows for each."
        )
    if ranks > 1 and (launcher := trainer.strategy.launcher):
        signals.end_at_once(trainer.is_global_zero, lambda: launcher.kill(signal.SIGKILL))
    # the same initial weights everywhere, but each rank its own dropout and augmentation
    torch.manual_seed(config.seed + trainer.global_rank)
    return trainer, best
