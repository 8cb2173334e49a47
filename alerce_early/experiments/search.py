"""Hyper-parameter search with Optuna.

The study is a file in the folder of its runs. Several processes can share it, and it can be resumed at any time.
"""

import logging
import shlex
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from lightning.pytorch.callbacks import Callback
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState

from alerce_early import files
from alerce_early.artifacts.run_folder import Run
from alerce_early.construct import module_class
from alerce_early.errors import InputError
from alerce_early.experiments.config import compose_config, quote_options, to_plain, translate_errors
from alerce_early.experiments.run import train

log = logging.getLogger(__name__)

N_STARTUP_TRIALS = 5  # before the first trial is pruned
N_WARMUP_EPOCHS = 2  # of each trial, before it may be pruned


class Pruner(Callback):
    """Report the monitored metric to the study after each epoch, and end a trial that is worse than the others.

    Parameters
    ----------
    trial : optuna.Trial
        The trial that is being trained.
    monitor : str
        Name of the logged metric, e.g. "val/balanced_accuracy".
    """

    def __init__(self, trial: Trial, monitor: str):
        self.trial, self.monitor = trial, monitor

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the metric; raise `optuna.TrialPruned` if the study prunes the trial."""
        self.trial.report(float(trainer.callback_metrics[self.monitor]), trainer.current_epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned(
                f"worse than the median of the other trials after epoch {trainer.current_epoch + 1}"
            )


class Search:
    """A study and the options that it searches.

    Parameters
    ----------
    options : sequence of str
        Options as for a sweep: fixed values, and choices, ranges or intervals to search.

    Raises
    ------
    InputError
        If an option is invalid, none is to be searched, or the study on disk has other options.
    """

    def __init__(self, options: Sequence[str]):
        fixed, self.space = parse_options(options)
        self.fixed = [f"{key}={value}" if value is not None else key for key, value in fixed.items()]
        if not self.space:
            raise InputError("nothing to search. Give a range: search=optimiser or data.batch_size=32,64.")
        config = compose_config(*self.fixed)
        # so that an unknown key is reported once, not by every trial
        compose_config(*self.fixed, *(f"{key}={any_value(values)}" for key, values in self.space.items()))
        if config.trainer.devices != 1:
            raise InputError(
                f"trainer.devices={config.trainer.devices}: a trial uses one device. "
                "Start the same command once per device; the processes share the study."
            )
        if not config.monitor:
            raise InputError("monitor=null: a search needs a metric to optimise. Give monitor=METRIC.")
        task: Any = module_class(config.model.task["_target_"])
        self.monitor, self.seed = f"val/{config.monitor}", config.seed
        self.sign = -1 if task.best_is_lowest(config.monitor) else 1
        self.folder = Path(config.outputs) / "searches" / config.name
        self.study = self._open_study(config.name)

    def _open_study(self, name: str) -> optuna.Study:
        """Create or load the study on disk; raise InputError if it has other options."""
        with files.translate_refusals(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with files.hold_lock(self.folder / ".lock"):
                study = optuna.create_study(
                    storage=JournalStorage(JournalFileBackend(str(self.folder / "study.log"))),
                    study_name=name,
                    direction="maximize" if self.sign > 0 else "minimize",
                    pruner=optuna.pruners.MedianPruner(
                        n_startup_trials=N_STARTUP_TRIALS, n_warmup_steps=N_WARMUP_EPOCHS
                    ),
                    load_if_exists=True,
                )
                options = [*self.fixed, *(f"{key} of {values}" for key, values in self.space.items())]
                before = study.user_attrs.get("options", options)
                if differ := sorted(set(before) ^ set(options)):
                    raise InputError(
                        f"{self.folder}: a search with other options ({'; '.join(differ)}). "
                        "Choose another name for this one with name=NAME."
                    )
                study.set_user_attr("options", options)
        return study

    def run(self, trials: int) -> None:
        """Train until the study has this number of trials, and finish the trials of killed processes."""
        while True:
            for begun in self._running_trials():
                self._run_trial(begun)
            trial = self._ask_trial(trials)
            if trial is None:
                break
            self._run_trial(trial)

    def _running_trials(self) -> list[Trial]:
        """Return the unfinished trials of all processes; the lock of each run shows whether its process is alive."""
        with files.hold_lock(self.folder / ".lock"):  # no other process is sampling parameters
            begun = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
            for frozen in begun:
                if frozen.params.keys() != self.space.keys():  # killed while sampling
                    self.study.tell(frozen.number, state=TrialState.FAIL)
            return [
                Trial(self.study, frozen._trial_id) for frozen in begun if frozen.params.keys() == self.space.keys()
            ]

    def _ask_trial(self, trials: int) -> Trial | None:
        """Return a new trial with sampled parameters, or None if the study has enough trials."""
        with files.hold_lock(self.folder / ".lock"):
            number = len(self.study.get_trials(deepcopy=False))
            if number >= trials:
                return None
            # a new seed for each trial, so that a resumed search does not repeat its first parameters
            self.study.sampler = optuna.samplers.TPESampler(seed=self.seed * 100_000 + number, constant_liar=True)
            return self.study.ask(self.space)

    def _run_trial(self, trial: Trial) -> None:
        """Train a trial and report its result to the study, unless another process is training it."""
        run = Run((self.folder / f"trial-{trial.number:03d}").absolute())
        try:
            options = [*self.fixed, *_trial_options(trial)]
            with run.log():
                log.info("trial %d: %s", trial.number, " ".join(_trial_options(trial)))
                train(compose_config(*options), run.path, Pruner(trial, self.monitor), overrides=options)
            value, state = _read_score(run, self.monitor), TrialState.COMPLETE
        except files.BusyError:
            return
        except optuna.TrialPruned as reason:
            log.info("trial %d pruned: %s", trial.number, reason)
            value, state = None, TrialState.PRUNED
        except Exception as error:
            why = str(error) if isinstance(error, InputError) else traceback.format_exc()
            files.write_text(run.path / "failed.txt", f"{why}\n")
            log.error("trial %d failed: %s", trial.number, error)
            value, state = None, TrialState.FAIL
        self.study.tell(trial.number, value, state=state, skip_if_finished=True)

    def summary(self) -> str:
        """Return the number of trials by outcome, and the best trial with the command that trains it."""
        trials = self.study.get_trials(deepcopy=False)
        states = [trial.state for trial in trials]
        words = {
            TrialState.COMPLETE: "finished",
            TrialState.PRUNED: "pruned",
            TrialState.FAIL: "failed",
            TrialState.RUNNING: "running in other processes",
        }
        counts = ", ".join(f"{states.count(state)} {word}" for state, word in words.items() if state in states)
        lines = [f"{len(trials)} trials: {counts}. Study and runs: {self.folder}"]
        if TrialState.COMPLETE in states:
            best = self.study.best_trial
            lines += [
                f"best: trial {best.number}, {self.monitor} {best.value:.4f} with {' '.join(_trial_options(best))}",
                f"  {shlex.join(['python', '-m', 'alerce_early.train', *self.fixed, *_trial_options(best)])}",
            ]
        return "\n".join(lines)


def parse_options(options: Sequence[str]) -> tuple[dict[str, str | None], dict[str, BaseDistribution]]:
    """Split options into fixed values and distributions to search.

    Parameters
    ----------
    options : sequence of str
        Options from the command line. A yaml of `search` or `sweep` named in them adds its own.

    Returns
    -------
    fixed : dict of str to str or None
        Value by key; None if the key is deleted (`~key`).
    space : dict of str to optuna.distributions.BaseDistribution
        Distribution by key.
    """
    given = _overrides(options)
    config = compose_config(*[o.input_line or "" for o in given if not o.is_sweep_override()], hydra=True)
    params = to_plain(config.hydra.sweeper.get("params")) or {}
    named = {o.get_key_element(): o for o in [*_overrides([f"{k}={v}" for k, v in params.items()]), *given]}
    fixed = {
        key: None if o.is_delete() and o.value() is None else o.get_value_element_as_str()
        for key, o in named.items()
        if not o.is_sweep_override()
    }
    return fixed, {key: _distribution(o) for key, o in named.items() if o.is_sweep_override()}


def any_value(values: BaseDistribution) -> Any:
    """Return some value of a distribution."""
    return values.choices[0] if isinstance(values, CategoricalDistribution) else values.low  # type: ignore[attr-defined]


def _overrides(options: Sequence[str]) -> list[Override]:
    """Parse options; raise InputError for a syntax error."""
    with translate_errors():
        return OverridesParser.create().parse_overrides(quote_options(options))


def _distribution(override: Override) -> BaseDistribution:
    """Convert a sweep of Hydra to a distribution of Optuna: intervals and ranges are ordered, the rest categorical."""
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        kind: Any = IntDistribution if isinstance(sweep.start, int) else FloatDistribution
        return kind(sweep.start, sweep.end, log="log" in sweep.tags)
    if isinstance(sweep, RangeSweep):
        values: list[Any] = list(override.sweep_iterator())
        kind = IntDistribution if all(isinstance(value, int) for value in values) else FloatDistribution
        return kind(min(values), max(values), step=abs(sweep.step))
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _read_score(run: Run, monitor: str) -> float:
    """Return the monitored metric at the best epoch."""
    return run.history()[run.result["best_epoch"] - 1][monitor]


def _trial_options(trial: Trial | optuna.trial.FrozenTrial) -> list[str]:
    """Return the options of a trial, with numbers rounded to four digits."""
    short = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in trial.params.items()}
    return [f"{key}={value}" for key, value in short.items()]
