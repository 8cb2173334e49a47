"""Train one system and report on it: `python -m alerce_early.train model=rotinv`."""

import logging
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig

from alerce_early import checkpoints, report, watch
from alerce_early.build import construct
from alerce_early.configs import command, data_of, plain, task_of
from alerce_early.data import pictures, summary
from alerce_early.data.module import AlertData
from alerce_early.errors import InputError
from alerce_early.evaluation import baseline, calibration, conformal, slices
from alerce_early.evaluation import table as tables
from alerce_early.evaluation.kinds import kind_of
from alerce_early.runs import Run
from alerce_early.tasks.base import NonFiniteLoss, Task

log = logging.getLogger(__name__)


def train(config: DictConfig, folder: Path) -> Run:
    """Run one whole config in a run folder: prepare, fit, predict with the best checkpoint, report."""
    watch.quiet()
    calibration.check(config.calibration)
    conformal.check(config.coverage)
    run = Run(folder)
    data = data_of(config)
    task, trainer, best = assemble(config, data, run)
    if trainer.is_global_zero:
        run.begin(config)
        log.info("%s\n%s", summary.text(data.store.meta), summary.parts_text(data.part_sizes()))
        log.info("%s: %s parameters; run folder: %s", config.model.name, f"{_parameters(task):,}", run.path)

    started = time.perf_counter()
    stopped = _fit(trainer, task, data, best)
    seconds = time.perf_counter() - started

    task.load_state_dict(checkpoints.read(best.best_model_path)["state_dict"])
    started = time.perf_counter()
    predictions = _predictions(trainer, task, data)
    judging = time.perf_counter() - started
    if trainer.is_global_zero:
        columns, fitted = _fitted(predictions, config)
        predictions |= columns
        checkpoints.add(run.best, fitted)
        tables.write(run.predictions, predictions)
        if len(blind := tables.unlabelled(predictions)["row"]):
            tables.write(run.blind_predictions, tables.unlabelled(predictions))
            log.info("%d test rows have no label; their predictions: %s", len(blind), run.blind_predictions)
        result = {
            "origin": data.spec.origin,
            **_judged(predictions),
            **fitted,
            "parameters": _parameters(task),
            "best_epoch": _best_epoch(best),
            "epochs": trainer.current_epoch,
            "training_seconds": round(seconds, 2),
            "judged_rows_per_second": round(len(predictions["row"]) / judging, 1),
            "stopped": stopped,
        }
        for caption, figure in task.pictures(data).items():
            pictures.save(figure, run.pictures / f"{caption}.png")
        result["baselines"] = baseline.beside(data, tables.judged(predictions, result["judged"]), config.seed)
        page = report.write(run, data, result)
        _log_result(trainer, config, result)
        run.write_json("metrics.json", result)
        log.info("%s\nreport: %s", report.headline_text(result, predictions), page)
    return run


def assemble(config: DictConfig, data: AlertData, run: Run, *more: Callback) -> tuple[Task, L.Trainer, ModelCheckpoint]:
    """Task, trainer and the callback that keeps the best checkpoint, for a whole config; more: extra callbacks."""
    L.seed_everything(config.seed, verbose=False)
    task = task_of(config, data.spec)
    monitor = f"val/{config.monitor}"
    mode = "min" if config.monitor in task.lower_is_better else "max"
    folder = run.path / "checkpoints"
    best = ModelCheckpoint(folder, "best", monitor=monitor, mode=mode, enable_version_counter=False)
    # after the epoch's line is written, so that a resumed run has the whole history
    last = ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False)
    callbacks: list[Callback] = [
        watch.EpochLine(run.path, ("train/loss", "val/loss", monitor, *[f"val/{name}" for name in task.shown])),
        watch.Board(best),
        watch.Randomness(),
        *watch.progress_bar(),
        *more,
        EarlyStopping(monitor, patience=config.patience, mode=mode, check_finite=False),
        best,
        last,
    ]
    try:
        trainer = construct(
            L.Trainer,
            **plain(config.trainer),
            callbacks=callbacks,
            logger=TensorBoardLogger(run.path, name="", version="", default_hp_metric=False),
            default_root_dir=run.path,
            use_distributed_sampler=False,  # the data module's batches know their rank
            num_sanity_val_steps=0,
            enable_model_summary=False,
            enable_progress_bar=bool(watch.progress_bar()),
        )
    except (MisconfigurationException, ValueError) as error:
        raise InputError(f"trainer: {error} Try trainer=cpu.") from None
    # the same initial weights everywhere, but each rank its own dropout and augmentation
    torch.manual_seed(config.seed + trainer.global_rank)
    return task, trainer, best


def _fit(trainer: L.Trainer, task: Task, data: AlertData, best: ModelCheckpoint) -> str | None:
    """Train; returns why it ended early, where a non-finite loss did that, and keeps the best checkpoint."""
    try:
        trainer.fit(task, datamodule=data)
    except NonFiniteLoss as error:
        if not best.best_model_path:
            raise InputError(f"{error} There is no checkpoint yet to fall back on.") from None
        log.error("stopped: %s The best checkpoint so far is kept.", error)
        return str(error)
    return None


def _predictions(trainer: L.Trainer, task: Task, data: AlertData) -> dict[str, np.ndarray]:
    """The predictions table over validation and test rows."""
    parts = []
    for split, loader in (("validation", data.val_dataloader), ("test", data.test_dataloader)):
        trainer.test(task, dataloaders=loader(), verbose=False)
        parts.append(task.table | {"split": np.full(len(task.table["row"]), split)})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    row = joined.pop("row")
    keys = {"id": data.store.ids[row], "row": row, "split": joined.pop("split")}
    return keys | task.named(joined) | data.metadata(slices.COLUMNS, row)


def _fitted(predictions: tables.Table, config: DictConfig) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What validation rows teach about the probabilities: more columns of all rows, and the fits as plain values."""
    validation = tables.labelled(tables.part(predictions, "validation"))
    scaling = calibration.fit(validation, config.calibration)
    thresholds = conformal.fit(validation, config.coverage)
    columns = calibration.columns(scaling, predictions) | conformal.columns(thresholds, predictions)
    return columns, {"calibration": scaling, "conformal": thresholds}


def _judged(predictions: tables.Table) -> dict[str, Any]:
    """What each split says, None where it has no labels, and which of them is the result."""
    parts = {split: tables.labelled(tables.part(predictions, split)) for split in ("test", "validation")}
    judge = kind_of(predictions).judge
    results = {split: judge(table) if len(table["row"]) else None for split, table in parts.items()}
    return {**results, "judged": "test" if results["test"] else "validation"}


def _parameters(task: Task) -> int:
    return sum(p.numel() for p in task.net.parameters())


def _best_epoch(best: ModelCheckpoint) -> int:
    return int(checkpoints.read(best.best_model_path)["epoch"]) + 1


def _log_result(trainer: L.Trainer, config: DictConfig, result: dict[str, Any]) -> None:
    """Fill TensorBoard's HPARAMS page: the choices of this run beside what came of them."""
    if isinstance(trainer.logger, TensorBoardLogger):
        choices = {
            "model": config.model.name,
            "data": config.data.name,
            **{key: config[key] for key in ("seed", "batch_size", "sampling")},
            "optimizer": config.optim.optimizer["_target_"].rpartition(".")[2],
            "learning_rate": config.optim.optimizer.lr,
            "recipe": " ".join(step["_target_"].rpartition(".")[2] for step in config.recipe.steps),
            "augment": " ".join(step["_target_"].rpartition(".")[2] for step in config.augment.steps),
        }
        judged = result["judged"]
        trainer.logger.log_hyperparams(choices, {f"{judged}/{k}": v for k, v in result[judged]["values"].items()})
        trainer.logger.save()


@command
def main(config: DictConfig) -> None:
    train(config, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
