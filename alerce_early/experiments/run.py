"""The steps of a run: prepare, fit, predict, evaluate, report."""

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
from alerce_early.experiments.distillation import ask_teachers, find_teachers
from alerce_early.experiments.explain import name_channels
from alerce_early.experiments.instantiate import make_data, make_task
from alerce_early.experiments.metrics import add_metrics, find_metrics
from alerce_early.report import data_summary, figures, pictures, run_page
from alerce_early.tasks import restore
from alerce_early.tasks.base import Task
from alerce_early.tasks.classify import ClassifyTask
from alerce_early.training.callbacks import NonFiniteLossError, measure_training, silence_libraries
from alerce_early.training.processes import agree, is_launched
from alerce_early.training.signals import resumed_by
from alerce_early.training.tensorboard import Board
from alerce_early.training.trainer import make_trainer

log = logging.getLogger(__name__)

FINISHED = "finished"
SINGLE = 10  # test rows whose distribution over draws is drawn


def train(config: DictConfig, folder: Path, *more: Callback, overrides: Sequence[str] = ()) -> Run:
    """Prepare, fit, predict, evaluate and report one run.

    An interrupted run continues from its last checkpoint and ends as it would have uninterrupted; a finished one is
    returned as it is.

    Parameters
    ----------
    config : DictConfig
        The whole composed config.
    folder : Path
        The run folder, new or of an earlier run of the same config.
    *more : lightning.pytorch.Callback
        Extra callbacks.
    overrides : sequence of str
        The options as typed, for a new run to keep.

    Returns
    -------
    Run
        The finished run.

    Raises
    ------
    InputError
        If an option does not fit, or the folder holds a run of another config.
    files.BusyError
        If another process works in the folder.
    """
    silence_libraries()
    instantiate.check(config, overrides)
    find_metrics(config.metrics)
    run = Run(folder)
    with claim(run, config) as finished:
        if finished:
            log.info("finished already: %s", run.page)
            return run
        start, teachers = find_networks(config, run)
        L.seed_everything(config.seed, verbose=False)
        data = prepare(config, teachers)
        task = build(config, data, start)
        trainer, best = make_trainer(config, task, run, Board(figures.gallery, figures.confusion), *more)
        if trainer.is_global_zero:
            begin(run, config, overrides, data, task, trainer)
        stopped = fit(trainer, task, data, best, run.last if run.cut else None)
        table, rate = predict(task, data, best)
        if trainer.is_global_zero:
            fits = fit_on_validation(table, config)
            table |= columns_of(fits, table)
            constants = constants_of(fits)
            points = thresholds.fit_percents(tables.select_judged(table, "validation"))
            seen = {"operating_points": points, "trained_on": hash_trained(data, config.init_from)}
            checkpoints.add(run.best, fits | seen)
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
def claim(run: Run, config: DictConfig) -> Iterator[bool]:
    """Hold a run folder for this config; yields whether the run has finished already.

    Within, a stop names the command that continues the run. Raises InputError if the folder holds a run of another
    config, and `files.BusyError` if another process works in it.
    """
    with ExitStack() as held:

        def begin() -> str:
            try:
                held.enter_context(run.alone())
            except files.BusyError as busy:
                return str(busy)
            return FINISHED if run.finished else ""

        found = agree(begin)  # the first process holds the folder and writes for all
        if found not in (FINISHED, ""):
            raise files.BusyError(found)
        run.expect(config)
        own = ",".join(construct.own_packages(to_plain(config)))
        trusting = ["env", f"{construct.TRUST}={own}"] if own else []
        command_line = [*trusting, "python", "-m", "alerce_early.train", f"resume={quote_value(run.path)}"]
        command_line += [] if logs_inside(config) else [f"logger=[{','.join(map(str, config.logger))}]"]
        with resumed_by(shlex.join(command_line)):
            yield found == FINISHED


def find_networks(config: DictConfig, run: Run) -> tuple[Path | None, list[Path]]:
    """Return the checkpoint that a new run starts from, None for fresh weights, and those of its teachers.

    Raises InputError where one is missing or damaged, also the run's own best one: before training, not after it.
    """
    if run.cut:
        checkpoints.read(run.best)
    start = checkpoint_of(Path(config.init_from)) if config.init_from and not run.cut else None
    return start, find_teachers(Path(config.distil), config.data.split) if config.distil else []


def prepare(config: DictConfig, teachers: Sequence[Path]) -> AlertData:
    """Return the data module of a config with its store made, and with the teachers' probabilities if there are any."""
    data = make_data(config)
    agree(data.prepare_data)
    if teachers:
        data.set_soft_labels(ask_teachers(teachers, data))
    return data


def build(config: DictConfig, data: AlertData, start: Path | None) -> Task:
    """Return the task of a config, with the weights of a checkpoint as far as they fit."""
    task = make_task(config, data.spec)
    if data.soft_labels is not None and not isinstance(task, ClassifyTask):
        raise InputError(f"distil: model={config.model.name} tells no classes that could be taught.")
    if config.data.sampling != "as_is" and getattr(task, "class_weights", None) is not None:
        log.warning("model.task.class_weights: data.sampling=%s weighs classes too; try as_is", config.data.sampling)
    if (target := config.target_class) not in (*data.classes, TARGET):
        raise InputError(f"target_class={target}: there is no such class. Choose from {', '.join(data.classes)}.")
    if isinstance(task, ClassifyTask):
        task.look_for(target)
    if start:
        taken, fresh = restore.start_from(task, start)
        (log.warning if fresh else log.info)("init_from: %s; fresh ones: %s", taken, ", ".join(fresh) or "none")
    return task


def begin(
    run: Run, config: DictConfig, overrides: Sequence[str], data: AlertData, task: Task, trainer: L.Trainer
) -> None:
    """Write what made the run into its folder, and log it with what was read."""
    run.begin(config, overrides)
    counts = data_summary.format_parts(data.part_sizes(), data.left_out)
    log.info("%s\n%s\n%s", data_summary.format_summary(data.store.meta), counts, data.describe_epoch())
    where, parameters = f"{trainer.strategy.root_device.type}, {trainer.precision}", count_parameters(task)
    log.info("%s: %s parameters, on %s; run folder: %s", config.model.name, f"{parameters:,}", where, run.path)


def fit(trainer: L.Trainer, task: Task, data: AlertData, best: ModelCheckpoint, last: Path | None) -> str | None:
    """Train, from a last checkpoint on if there is one.

    Returns why it ended early, where a non-finite loss did that; the best checkpoint is kept. Raises InputError where
    there is none.
    """
    try:
        trainer.fit(task, datamodule=data, ckpt_path=last, weights_only=True)
    except NonFiniteLossError as error:
        if not best.best_model_path:
            if not (trainer.is_global_zero or is_launched()):
                sys.exit()  # it stops all processes alike; the one that started this one says so
            raise InputError(f"{error} There is no checkpoint yet to fall back on.") from None
        log.error("stopped: %s The best checkpoint so far is kept.", error)
        return str(error)
    if not best.best_model_path:
        raise InputError("no epoch was trained. Let trainer.max_epochs or another limit of the trainer allow one.")
    return None


def predict(task: Task, data: AlertData, best: ModelCheckpoint) -> tuple[dict[str, np.ndarray], float]:
    """Return the predictions table over validation and test rows by the best checkpoint, and its rows per second."""
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
    """Write the table of a run, and that of its unlabelled rows if there are any."""
    predictions.write(run.predictions, table, constants)
    if n := len((blind := tables.keep_unlabelled(table))["row"]):
        predictions.write(run.blind_predictions, blind, constants)
        log.info("%d test rows have no label; their predictions: %s", n, run.blind_predictions)


def hash_trained(data: AlertData, start: str | None) -> str:
    """Return the hashes of the objects that train or choose a network, also of the one it starts from."""
    rows = np.concatenate([data.parts["train"], data.parts["validation"]])
    before = None
    with suppress(InputError):  # what a run began with may be gone when it ends
        before = checkpoints.read(checkpoint_of(Path(start))).get("trained_on") if start else None
    return text.hash_objects(data.store.ids[rows].tolist(), before or "")


def fit_on_validation(table: tables.Table, config: DictConfig) -> dict[str, Any]:
    """Return what the validation rows alone teach about the probabilities, as plain values."""
    validation = tables.keep_labelled(tables.select_split(table, "validation"))
    return {
        "calibration": calibration.fit(validation, config.calibration),
        "conformal": conformal.fit(validation, config.coverage),
        "thresholds": thresholds.fit(validation, config.target_class),
    }


def columns_of(fits: dict[str, Any], table: tables.Table) -> dict[str, np.ndarray]:
    """Return the columns that these fits add to a table of any rows."""
    columns = calibration.calibrate_columns(fits["calibration"], table)
    return columns | conformal.set_columns(fits["conformal"], table)


def constants_of(fits: dict[str, Any]) -> dict[str, float | None]:
    """Return what these fits promise for all rows of a table."""
    return conformal.list_constants(fits["conformal"]) | thresholds.list_constants(fits["thresholds"])


def evaluate(
    table: tables.Table, constants: tables.Constants, target: str = TARGET, metrics: Sequence[str] = ()
) -> dict[str, Any]:
    """Evaluate each labelled split, None for another, and name the one to report.

    target: the class that has thresholds. metrics: the user's own.
    """
    parts = {split: tables.keep_labelled(tables.select_split(table, split)) for split in ("test", "validation")}
    judge = choose_kind(table, target).judge
    results = {
        split: add_metrics(judge(part, constants), metrics, part) if len(part["row"]) else None
        for split, part in parts.items()
    }
    return {**results, "judged": "test" if results["test"] else "validation"}


def evaluate_baselines(data: AlertData, judged: tables.Table, seed: int) -> dict[str, Any]:
    """Return what could be had without a network, on the judged rows of a table; see `baselines`."""
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
    """Draw what only the network can show; the page calls a picture by the name of its file."""
    if blocks := task.examples(data):
        pictures.save(figures.side_by_side(blocks, data.classes), run.pictures / f"{', '.join(blocks)} stamps.svg")
    if drawn := task.draw_predictions(data):
        rows, draws = drawn
        labels, words = data.labels[rows], f"over {len(draws)} draws of the weights"
        of_each = [np.flatnonzero(labels == i)[: SINGLE // len(data.classes)] for i in range(len(data.classes))]
        few = np.concatenate(of_each)
        by_class = figures.draws_by_class(draws, labels, data.classes)
        by_stamp = figures.draws_by_stamp(data.store.images[rows[few]], draws[:, few], labels[few], data.classes)
        pictures.save(by_class, run.pictures / f"Probability of the true class {words}, {len(rows)} test rows.svg")
        pictures.save(
            by_stamp, run.pictures / f"Probability of each class {words}, single test rows, the true class filled.svg"
        )


def count_parameters(task: Task) -> int:
    """Return how many parameters the network has."""
    return sum(p.numel() for p in task.net.parameters())


def describe_data(data: AlertData) -> run_page.ShownData:
    """Return what the page of a run shows of its data."""
    recipe, images = Recipe(data.spec.recipe, data.spec.margin), data.store.images

    def finish(rows: np.ndarray) -> np.ndarray:
        return recipe.finish(torch.from_numpy(np.array(images[rows]))).numpy()

    channels = name_channels(data.store.meta["channels"], recipe)
    rows, raw = data.store.examples
    names = np.array([*data.store.meta["classes"], ""])[data.store.labels[rows]]  # the last one of those without
    shown = run_page.sections.Images(finish, channels), (rows, names, raw)
    return run_page.ShownData(data.store.path.name, data.store.meta, data.part_sizes(), data.left_out, *shown)


def write_page(run: Run) -> Path:
    """Write the page of a finished run again, from what its folder holds; returns the page's path."""
    config, result = run.config(), run.result
    data = make_data(config)
    table, weights = predictions.read(run.predictions), checkpoints.read(run.best)["state_dict"]
    return run_page.write_run_page(run, config, table, result, describe_data(data), weights)


def log_result(trainer: L.Trainer, config: DictConfig, result: dict[str, Any]) -> None:
    """Log hyper-parameters and final metrics; in TensorBoard, they are its HPARAMS page."""
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
