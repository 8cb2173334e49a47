"""Build the trainer of a run, with its loggers and callbacks."""

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
    AtomicCheckpointIO,
    EpochLine,
    FiniteLossGuard,
    Kept,
    Patience,
    Randomness,
    make_progress_bars,
)

# Callbacks of Lightning that do not work here, with the reason and an alternative.
UNSUPPORTED_CALLBACKS = {
    "LearningRateFinder": "it would search again on every resume. Use the search command with search=optimiser",
    "StochasticWeightAveraging": "it averages after the last checkpoint, without evaluation. Use callbacks=ema",
    "BackboneFinetuning": "networks here have no module called backbone. Derive your own from BaseFinetuning",
}


def choose_precision(options: dict[str, Any]) -> str:
    """Return the precision for the trainer.

    Parameters
    ----------
    options : dict
        Options of the trainer, with "precision" and "accelerator".

    Returns
    -------
    str
        The given precision; for "auto", "bf16-mixed" if the device is faster with it, else "32-true".
    """
    if (precision := options.get("precision", "32-true")) != "auto":
        return precision
    if options.get("accelerator") in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        quick = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        quick = multiplies_bfloat16()
    return "bf16-mixed" if quick else "32-true"


def make_loggers(config: DictConfig, run: Run, purge: int) -> list[Logger]:
    """Build the loggers of a run.

    Parameters
    ----------
    config : DictConfig
        The composed config.
    run : Run
        The run folder, used by local loggers.
    purge : int
        First step that a resumed run logs again, for TensorBoard.

    Returns
    -------
    list of lightning.pytorch.loggers.Logger
        The loggers of the config.

    Raises
    ------
    InputError
        If an option is invalid or the package of a logger is not installed.
    """
    made = []
    chosen: Any = OmegaConf.to_container(config.logger or OmegaConf.create(), resolve=True)
    for name, options in chosen.items():
        kind = library_class(options.pop("_target_"), Logger, "lightning.pytorch.loggers")
        if kind is TensorBoardLogger:
            options["purge_step"] = purge
        try:
            made.append(kind(save_dir=str(run.path), **options))
            if kind is WandbLogger:  # it passes unknown options to wandb.init, too late for a clear error
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
    """Build the additional callbacks of a config; raise InputError if one is invalid or unsupported."""
    made: list[Callback] = [] if config.ema is None else [EMAWeightAveraging(decay=config.ema)]
    chosen: Any = OmegaConf.to_container(config.callbacks or OmegaConf.create(), resolve=True)
    for name, options in chosen.items():
        kind = library_class(options.pop("_target_"), Callback, "lightning.pytorch.callbacks")
        if issubclass(kind, Checkpoint) and kind.__module__.startswith("lightning."):
            raise InputError(f"callbacks.{name}: the run writes its own checkpoints. Leave {kind.__name__} out.")
        if kind.__name__ in UNSUPPORTED_CALLBACKS and kind.__module__.startswith("lightning."):
            raise InputError(f"callbacks.{name}: {kind.__name__}: {UNSUPPORTED_CALLBACKS[kind.__name__]}.")
        try:
            made.append(construct(kind, **options))
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise InputError(f"callbacks.{name}: {one_line(error)}.") from None
        if made[-1].state_key in [callback.state_key for callback in made[:-1]]:  # a checkpoint has one state per key
            raise InputError(f"callbacks.{name}: a second {kind.__name__}. Leave out callbacks.{name} or ema.")
    return made


def make_trainer(config: DictConfig, task: Task, run: Run, *more: Callback) -> tuple[L.Trainer, ModelCheckpoint]:
    """Build the trainer of a run.

    Parameters
    ----------
    config : DictConfig
        The composed config.
    task : Task
        The task to train.
    run : Run
        The run folder.
    *more : lightning.pytorch.Callback
        Additional callbacks.

    Returns
    -------
    trainer : lightning.Trainer
        The trainer.
    best : ModelCheckpoint
        The callback that saves the best checkpoint.

    Raises
    ------
    InputError
        If options of the trainer do not fit this machine or the launcher.
    """
    monitor = f"val/{config.monitor}" if config.monitor else None
    mode = "min" if config.monitor and task.best_is_lowest(config.monitor) else "max"
    folder = run.path / "checkpoints"
    best = Kept(folder, "best", monitor=monitor, mode=mode, enable_version_counter=False)
    # written after the line of the epoch, so that a resumed run has the whole history, and after the best checkpoint:
    # if the process is killed in between, the resumed run writes the same best checkpoint again
    last = Kept(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    # steps after the last checkpoint of an interrupted run will be logged again
    purge = checkpoints.read(run.last)["global_step"] + 1 if run.cut else 0
    callbacks: list[Callback] = [
        EpochLine(run.path, ("train/loss", "val/loss", monitor or "", *[f"val/{name}" for name in task.shown])),
        Randomness(),
        *make_progress_bars(),
        *make_callbacks(config),
        *more,
        FiniteLossGuard(),
        *([Patience(monitor, patience=config.patience, mode=mode, check_finite=False)] if monitor else []),
        best,
        last,
    ]
    options: Any = OmegaConf.to_container(config.trainer, resolve=True)
    options["precision"] = choose_precision(options)
    if options.get("gradient_clip_val"):  # Lightning cannot clip gradients of a fused optimiser in mixed precision
        task.optim["optimizer"].pop("fused", None)
    try:
        trainer = construct(
            L.Trainer,
            # batch statistics over all ranks; not available on CPUs
            **{"sync_batchnorm": torch.cuda.is_available() and config.trainer.accelerator != "cpu"},
            **options,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO(), processes.make_plugin()],
            logger=make_loggers(config, run, purge) or False,
            default_root_dir=run.path,
            use_distributed_sampler=False,  # the data module divides batches between ranks
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=bool(make_progress_bars()),
        )
    except (MisconfigurationException, ValueError) as error:
        raise InputError(f"trainer: {error} Try trainer=cpu.") from None
    ranks = trainer.num_devices * trainer.num_nodes
    processes.check_process_count(ranks)
    if config.data.batch_size < 2 * ranks:
        raise InputError(
            f"data.batch_size={config.data.batch_size}: too small for {ranks} processes. Give at least {2 * ranks}."
        )
    if ranks > 1 and (launcher := trainer.strategy.launcher):
        signals.end_at_once(trainer.is_global_zero, lambda: launcher.kill(signal.SIGKILL))
    # initial weights are the same in all ranks; dropout and augmentation differ
    torch.manual_seed(config.seed + trainer.global_rank)
    return trainer, best
