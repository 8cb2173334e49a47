"""Steps of a training run: prepare, fit, predict, evaluate and report."""

import logging
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig

from alerce_early import construct, files
from alerce_early.artifacts import checkpoints, predictions
from alerce_early.artifacts.run_folder import Run, checkpoint_of, logs_inside
from alerce_early.data import text
from alerce_early.data.datamodule import AlertData
from alerce_early.data.recipe import Recipe
from alerce_early.errors import InputError
from alerce_early.evaluation import baselines, calibration, conformal, tables, thresholds
from alerce_early.evaluation.kinds import choose_kind
from alerce_early.evaluation.metrics import TARGET
from alerce_early.experiments import instantiate
from alerce_early.experiments.config import quote_value, to_plain
from alerce_early.experiments.distillation import find_teachers, predict_soft_labels
from alerce_early.experiments.explain import name_channels
from alerce_early.experiments.instantiate import make_data, make_task
from alerce_early.experiments.metrics import add_metrics, find_metrics
from alerce_early.report import data_summary, figures, pictures, run_page
from alerce_early.tasks import restore
from alerce_early.tasks.base import Task
from alerce_early.tasks.classify import ClassifyTask
from alerce_early.training.callbacks import NonFiniteLossError, measure_training, silence_libraries
from alerce_early.training.processes import broadcast_from_first, is_launched
from alerce_early.training.signals import set_resume_command
from alerce_early.training.tensorboard import Board
from alerce_early.training.trainer import make_trainer

log = logging.getLogger(__name__)

FINISHED = "finished"
N_EXAMPLE_DRAWS = 10  # test rows shown with the distribution of their probabilities over draws of the weights


def train(config: DictConfig, folder: Path, *more: Callback, overrides: Sequence[str] = ()) -> Run:
    """Prepare, fit, predict, evaluate and report one run.

    An interrupted run resumes from its last checkpoint, with the same result as an uninterrupted one. A finished run is
    returned unchanged.

    Parameters
    ----------
    config : DictConfig
        The composed config.
    folder : Path
        A new run folder, or the folder of an earlier run with the same config.
    *more : lightning.pytorch.Callback
        Additional callbacks.
    overrides : sequence of str
        Command-line options as typed; a new run records them.

    Returns
    -------
    Run
        The finished run.

    Raises
    ------
    InputError
        If an option is invalid, or the folder belongs to a run with another config.
    files.BusyError
        If another process is using the folder.
    """
    silence_libraries()
    instantiate.check(config, overrides)
    find_metrics(config.metrics)
    run = Run(folder)
    with lock_run(run, config) as finished:
        if finished:
            log.info("finished already: %s", run.page)
            return run
        start, teachers = find_checkpoints(config, run)
        L.seed_everything(config.seed, verbose=False)
        data = prepare_data(config, teachers)
        task = build_task(config, data, start)
        trainer, best = make_trainer(config, task, run, Board(figures.gallery, figures.confusion), *more)
        if trainer.is_global_zero:
            record_start(run, config, overrides, data, task, trainer)
        stopped = fit(trainer, task, data, best, run.last if run.cut else None)
        table, rate = predict(task, data, best)
        if trainer.is_global_zero:
            fits = fit_on_validation(table, config)
            table |= make_fit_columns(fits, table)
            constants = make_constants(fits)
            points = thresholds.fit_percents(tables.select_judged(table, "validation"))
            extra = {"operating_points": points, "trained_on": hash_trained(data, config.init_from)}
            checkpoints.add(run.best, fits | extra)
            write_predictions(run, table, constants)
            result = {
                "origin": data.spec.origin,
                **evaluate(table, constants, config.target_class, config.metrics),
                **fits,
                "target_class": config.target_class,
                "parameters": count_parameters(task),
                "best_epoch": int(checkpoints.read(run.best)["epoch"]) + 1,
                "epochs": trainer.current_epoch,
                "precision": trainer.precision,
                **measure_training(trainer),
                "judged_rows_per_second": rate,
                "stopped": stopped,
                "posterior": task.describe_posterior(),
            }
            result["baselines"] = evaluate_baselines(data, tables.select_judged(table, result["judged"]), config.seed)
            draw_pictures(task, data, run)
            page = run_page.write_run_page(run, config, table, result, describe_data(data), task.state_dict())
            log_result(trainer, config, result)
            run.write_json("metrics.json", result)
            log.info("%s\nreport: %s", run_page.headline_text(result, table), page)
    return run


@contextmanager
def lock_run(run: Run, config: DictConfig) -> Iterator[bool]:
    """Lock a run folder for this config.

    If the process is stopped inside the block, its message gives the command that resumes the run.

    Parameters
    ----------
    run : Run
        The run folder.
    config : DictConfig
        The composed config.

    Yields
    ------
    bool
        Whether the run has already finished.

    Raises
    ------
    InputError
        If the folder belongs to a run with another config.
    files.BusyError
        If another process is using the folder.
    """
    with ExitStack() as locks:

        def lock() -> str:
            try:
                locks.enter_context(run.alone())
            except files.BusyError as busy:
                return str(busy)
            return FINISHED if run.finished else ""

        state = broadcast_from_first(lock)  # the first process locks the folder and writes for all
        if state not in (FINISHED, ""):
            raise files.BusyError(state)
        run.expect(config)
        packages = ",".join(construct.own_packages(to_plain(config)))
        environment = ["env", f"{construct.TRUST}={packages}"] if packages else []
        command_line = [*environment, "python", "-m", "alerce_early.train", f"resume={quote_value(run.path)}"]
        command_line += [] if logs_inside(config) else [f"logger=[{','.join(map(str, config.logger))}]"]
        with set_resume_command(shlex.join(command_line)):
            yield state == FINISHED


def find_checkpoints(config: DictConfig, run: Run) -> tuple[Path | None, list[Path]]:
    """Find the checkpoint of the initial weights and the checkpoints of the teachers.

    Parameters
    ----------
    config : DictConfig
        The composed config, with `init_from` and `distil`.
    run : Run
        The run folder. The best checkpoint of a resumed run is read here, so that a damaged one is reported before
        training.

    Returns
    -------
    start : Path or None
        Checkpoint of the initial weights; None for random weights and for a resumed run.
    teachers : list of Path
        Checkpoints of the teachers; empty without distillation.

    Raises
    ------
    InputError
        If a checkpoint is missing or damaged.
    """
    if run.cut:
        checkpoints.read(run.best)
    start = checkpoint_of(Path(config.init_from)) if config.init_from and not run.cut else None
    return start, find_teachers(Path(config.distil), config.data.split) if config.distil else []


def prepare_data(config: DictConfig, teachers: Sequence[Path]) -> AlertData:
    """Prepare the data of a run.

    Parameters
    ----------
    config : DictConfig
        The composed config.
    teachers : sequence of Path
        Checkpoints whose mean probabilities become soft labels; empty without distillation.

    Returns
    -------
    AlertData
        The data module; its store is on disk.
    """
    data = make_data(config)
    broadcast_from_first(data.prepare_data)
    if teachers:
        data.set_soft_labels(predict_soft_labels(teachers, data))
    return data


def build_task(config: DictConfig, data: AlertData, start: Path | None) -> Task:
    """Build the task of a run and load its initial weights.

    Parameters
    ----------
    config : DictConfig
        The composed config.
    data : AlertData
        The data module of the run.
    start : Path or None
        Checkpoint whose matching weights are loaded.

    Returns
    -------
    Task
        The task. Layers that do not match the checkpoint keep their random weights and are logged.

    Raises
    ------
    InputError
        If the task cannot learn from teachers, or the target class is not in the data.
    """
    task = make_task(config, data.spec)
    if data.soft_labels is not None and not isinstance(task, ClassifyTask):
        raise InputError(
            f"distil: model={config.model.name} is not a classifier. Choose another model, or leave distil out."
        )
    if config.data.sampling != "as_is" and getattr(task, "class_weights", None) is not None:
        log.warning(
            "model.task.class_weights: data.sampling=%s also reweights classes. Try as_is.", config.data.sampling
        )
    if (target := config.target_class) not in (*data.classes, TARGET):
        raise InputError(f"target_class={target}: not a class of the data. Choose from {', '.join(data.classes)}.")
    if isinstance(task, ClassifyTask):
        task.look_for(target)
    if start:
        loaded, unmatched = restore.start_from(task, start)
        (log.warning if unmatched else log.info)(
            "init_from: %s; randomly initialised: %s", loaded, ", ".join(unmatched) or "none"
        )
    return task


def record_start(
    run: Run, config: DictConfig, overrides: Sequence[str], data: AlertData, task: Task, trainer: L.Trainer
) -> None:
    """Record the config, the options and the code in the run folder, and log a summary of data and model."""
    run.begin(config, overrides)
    counts = data_summary.format_parts(data.part_sizes(), data.left_out)
    log.info("%s\n%s\n%s", data_summary.format_summary(data.store.meta), counts, data.describe_epoch())
    where, parameters = f"{trainer.strategy.root_device.type}, {trainer.precision}", count_parameters(task)
    log.info("%s: %s parameters, on %s; run folder: %s", config.model.name, f"{parameters:,}", where, run.path)


def fit(trainer: L.Trainer, task: Task, data: AlertData, best: ModelCheckpoint, last: Path | None) -> str | None:
    """Train the task.

    Parameters
    ----------
    trainer : lightning.Trainer
        The trainer of the run.
    task : Task
        The task to train, in place.
    data : AlertData
        The data module.
    best : ModelCheckpoint
        Callback that saves the best checkpoint.
    last : Path or None
        Checkpoint of the last complete epoch, to resume from.

    Returns
    -------
    str or None
        The error message if a non-finite loss ended training early; the best checkpoint is kept.

    Raises
    ------
    InputError
        If training ends without a checkpoint.
    """
    try:
        trainer.fit(task, datamodule=data, ckpt_path=last, weights_only=True)
    except NonFiniteLossError as error:
        if not best.best_model_path:
            if not (trainer.is_global_zero or is_launched()):
                sys.exit()  # all processes stop; the one that started this one reports the error
            raise InputError(f"{error} No checkpoint was saved before.") from None
        log.error("stopped: %s The best checkpoint so far is kept.", error)
        return str(error)
    if not best.best_model_path:
        raise InputError("no epoch was trained. Raise trainer.max_epochs or another limit of the trainer.")
    return None


def predict(task: Task, data: AlertData, best: ModelCheckpoint) -> tuple[dict[str, np.ndarray], float]:
    """Predict the validation and test rows with the best checkpoint.

    Parameters
    ----------
    task : Task
        The trained task; the best weights are loaded into it.
    data : AlertData
        The data module.
    best : ModelCheckpoint
        Callback that has saved the best checkpoint.

    Returns
    -------
    table : dict of str to ndarray
        One row per stamp or spectrum: ids, split, label, outputs and metadata.
    rate : float
        Rows per second, including reading the data.
    """
    started = time.perf_counter()
    task.load_state_dict(checkpoints.read(best.best_model_path)["state_dict"])
    restore.check_weights(task, best.best_model_path)
    parts = []
    for split, loader in (("validation", data.val_dataloader), ("test", data.test_dataloader)):
        table = task.judge(loader())
        parts.append(table | {"split": np.full(len(table["row"]), split)})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    row = joined.pop("row")
    rate = round(len(row) / (time.perf_counter() - started), 1)
    several = (data.objects != data.store.ids).any()
    named = {"id": data.store.ids[row], **({"object": data.objects[row]} if several else {})}
    keys = {**named, "row": row, "split": joined.pop("split")}
    return keys | task.named(joined) | data.metadata(tables.METADATA, row), rate


def write_predictions(run: Run, table: tables.Table, constants: tables.Constants) -> None:
    """Write the predictions table of a run, and a table of its unlabelled test rows unless it is empty."""
    predictions.write(run.predictions, table, constants)
    if n := len((blind := tables.keep_unlabelled(table))["row"]):
        predictions.write(run.blind_predictions, blind, constants)
        log.info("wrote predictions of %d unlabelled test rows to %s", n, run.blind_predictions)


def hash_trained(data: AlertData, start: str | None) -> str:
    """Hash the names of the training and validation objects, also of the initial network."""
    rows = np.concatenate([data.parts["train"], data.parts["validation"]])
    before = None
    with suppress(InputError):  # the checkpoint may have been deleted during training
        before = checkpoints.read(checkpoint_of(Path(start))).get("trained_on") if start else None
    return text.hash_objects(data.store.ids[rows].tolist(), before or "")


def fit_on_validation(table: tables.Table, config: DictConfig) -> dict[str, Any]:
    """Fit calibration, conformal thresholds and operating points on the validation split.

    Parameters
    ----------
    table : mapping of str to ndarray
        Predictions with `split` and `label`.
    config : DictConfig
        The composed config, with `calibration`, `coverage` and `target_class`.

    Returns
    -------
    dict
        Plain values under "calibration", "conformal" and "thresholds".
    """
    validation = tables.keep_labelled(tables.select_split(table, "validation"))
    return {
        "calibration": calibration.fit(validation, config.calibration),
        "conformal": conformal.fit(validation, config.coverage),
        "thresholds": thresholds.fit(validation, config.target_class),
    }


def make_fit_columns(fits: dict[str, Any], table: tables.Table) -> dict[str, np.ndarray]:
    """Compute the columns of calibrated probabilities and prediction sets for a table, from `fit_on_validation`."""
    columns = calibration.calibrate_columns(fits["calibration"], table)
    return columns | conformal.set_columns(fits["conformal"], table)


def make_constants(fits: dict[str, Any]) -> dict[str, float | None]:
    """Return the nominal coverage and the operating points, which are the same for all rows of a table."""
    return conformal.list_constants(fits["conformal"]) | thresholds.list_constants(fits["thresholds"])


def evaluate(
    table: tables.Table, constants: tables.Constants, target: str = TARGET, metrics: Sequence[str] = ()
) -> dict[str, Any]:
    """Evaluate each labelled split and name the one to report.

    Parameters
    ----------
    table : mapping of str to ndarray
        Predictions with `split` and `label`.
    constants : mapping of str to float or None
        Nominal coverage and operating points, see `make_constants`.
    target : str
        Class with operating points.
    metrics : sequence of str
        Dotted names of the user's own metrics.

    Returns
    -------
    dict
        Results of "test" and "validation", None for a split without labels; "judged" names the split to report.
    """
    parts = {split: tables.keep_labelled(tables.select_split(table, split)) for split in ("test", "validation")}
    judge = choose_kind(table, target).judge
    results = {
        split: add_metrics(judge(part, constants), metrics, part) if len(part["row"]) else None
        for split, part in parts.items()
    }
    return {**results, "judged": "test" if results["test"] else "validation"}


def evaluate_baselines(data: AlertData, judged: tables.Table, seed: int) -> dict[str, Any]:
    """Evaluate the baselines (majority class, random forest on metadata) on the judged rows; see `baselines`."""
    train, test = data.parts["train"], judged["row"]
    train = train[data.labels[train] >= 0]
    return baselines.evaluate_baselines(
        judged,
        data.store.features[test],
        data.labels[train],
        data.store.features[train],
        names=data.store.meta["features"],
        present=data.find_classes(np.concatenate([train, test])),
        seed=seed,
        taught=None if data.soft_labels is None else data.soft_labels[test],
    )


def draw_pictures(task: Task, data: AlertData, run: Run) -> None:
    """Draw the figures that need the network; the page uses a figure's file name as its caption."""
    if blocks := task.examples(data):
        pictures.save(figures.side_by_side(blocks, data.classes), run.pictures / f"{', '.join(blocks)} stamps.svg")
    if predicted := task.draw_predictions(data):
        rows, draws = predicted
        labels, words = data.labels[rows], f"over {len(draws)} draws of the weights"
        of_each = [
            np.flatnonzero(labels == i)[: N_EXAMPLE_DRAWS // len(data.classes)] for i in range(len(data.classes))
        ]
        few = np.concatenate(of_each)
        by_class = figures.draws_by_class(draws, labels, data.classes)
        by_stamp = figures.draws_by_stamp(data.store.images[rows[few]], draws[:, few], labels[few], data.classes)
        pictures.save(by_class, run.pictures / f"Probability of the true class {words}, {len(rows)} test rows.svg")
        pictures.save(
            by_stamp, run.pictures / f"Probability of each class {words}, single test rows, the true class filled.svg"
        )


def count_parameters(task: Task) -> int:
    """Return the number of parameters of the network."""
    return sum(p.numel() for p in task.net.parameters())


def describe_data(data: AlertData) -> run_page.ShownData:
    """Collect the example stamps and row counts for the page of a run."""
    recipe, images = Recipe(data.spec.recipe, data.spec.margin), data.store.images

    def finish(rows: np.ndarray) -> np.ndarray:
        return recipe.finish(torch.from_numpy(np.array(images[rows]))).numpy()

    channels = name_channels(data.store.meta["channels"], recipe)
    rows, raw = data.store.examples
    names = np.array([*data.store.meta["classes"], ""])[
        data.store.labels[rows]
    ]  # the last name is for rows without a label
    shown = run_page.sections.Images(finish, channels), (rows, names, raw)
    return run_page.ShownData(data.store.path.name, data.store.meta, data.part_sizes(), data.left_out, *shown)


def write_page(run: Run) -> Path:
    """Write the page of a finished run again, from the files in its folder, and return its path."""
    config, result = run.config(), run.result
    data = make_data(config)
    table, weights = predictions.read(run.predictions), checkpoints.read(run.best)["state_dict"]
    return run_page.write_run_page(run, config, table, result, describe_data(data), weights)


def log_result(trainer: L.Trainer, config: DictConfig, result: dict[str, Any]) -> None:
    """Log hyper-parameters and final metrics, for example for the HPARAMS tab of TensorBoard."""
    if warning := result["posterior"].get("warning"):
        log.warning(warning)
    choices = {
        **{
            group: config[group].get("name", "")
            for group in ("model", "data", "recipe", "augment", "features", "optim")
        },
        "seed": config.seed,
        **{key: config.data[key] for key in ("batch_size", "sampling")},
        "learning_rate": config.optim.optimizer.lr,
    }
    judged = result["judged"]
    numbers = {f"{judged}/{name}": value for name, value in result[judged]["values"].items()}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(choices, numbers)
        else:
            logger.log_hyperparams(choices)
            logger.log_metrics(numbers, trainer.global_step)
        logger.save()
