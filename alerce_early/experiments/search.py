"""A search with Optuna: a study beside its trials' runs, shared by processes and continued after any end."""

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

STARTUP, WARMUP = 5, 2  # trials, and epochs of each, before the median prunes


class Pruner(Callback):
    """Tells the study what was reached after each epoch, and ends a trial that lies behind the others."""

    def __init__(self, trial: Trial, monitor: str):
        self.trial, self.monitor = trial, monitor

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.trial.report(float(trainer.callback_metrics[self.monitor]), trainer.current_epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned(f"behind the median of the others after epoch {trainer.current_epoch + 1}")


class Search:
    """One study and the options it is about."""

    def __init__(self, options: Sequence[str]):
        fixed, self.space = parse_options(options)
        self.fixed = [f"{key}={value}" if value is not None else key for key, value in fixed.items()]
        if not self.space:
            raise InputError("nothing to search. Give a range: search=optimiser or data.batch_size=32,64.")
        config = compose_config(*self.fixed)
        # a wrong key is refused now, not by every trial
        compose_config(*self.fixed, *(f"{key}={one_of(values)}" for key, values in self.space.items()))
        if config.trainer.devices != 1:
            raise InputError(
                f"trainer.devices={config.trainer.devices}: a trial trains on one. "
                "Start the same command once for each device: they share the study."
            )
        if not config.monitor:
            raise InputError("monitor=null: a search needs the validation number that it looks for the best of.")
        task: Any = module_class(config.model.task["_target_"])
        self.monitor, self.seed = f"val/{config.monitor}", config.seed
        self.sign = -1 if task.best_is_lowest(config.monitor) else 1
        self.folder = Path(config.outputs) / "searches" / config.name
        self.study = self._opened(config.name)

    def _opened(self, name: str) -> optuna.Study:
        """Return the study on disk, new or as it was left; raises InputError if that was of other options."""
        with files.translate_refusals(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with files.hold_lock(self.folder / ".lock"):
                study = optuna.create_study(
                    storage=JournalStorage(JournalFileBackend(str(self.folder / "study.log"))),
                    study_name=name,
                    direction="maximize" if self.sign > 0 else "minimize",
                    pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=WARMUP),
                    load_if_exists=True,
                )
                options = [*self.fixed, *(f"{key} of {values}" for key, values in self.space.items())]
                before = study.user_attrs.get("options", options)
                if differ := sorted(set(before) ^ set(options)):
                    raise InputError(
                        f"{self.folder} is a search with other options ({'; '.join(differ)}). "
                        "Give this one another name with name=..."
                    )
                study.set_user_attr("options", options)
        return study

    def run(self, trials: int) -> None:
        """Go on until the study has so many trials; those that a killed process left are brought to their end."""
        while True:
            for begun in self._open():
                self._try(begun)
            trial = self._asked(trials)
            if trial is None:
                break
            self._try(trial)

    def _open(self) -> list[Trial]:
        """Trials that have begun and not ended, of living processes and of dead ones: their runs' locks tell which."""
        with files.hold_lock(self.folder / ".lock"):  # nobody is just choosing options
            begun = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
            for frozen in begun:
                if frozen.params.keys() != self.space.keys():  # killed while choosing
                    self.study.tell(frozen.number, state=TrialState.FAIL)
            return [
                Trial(self.study, frozen._trial_id) for frozen in begun if frozen.params.keys() == self.space.keys()
            ]

    def _asked(self, trials: int) -> Trial | None:
        """Return a new trial with its options chosen, or None if there are enough."""
        with files.hold_lock(self.folder / ".lock"):
            number = len(self.study.get_trials(deepcopy=False))
            if number >= trials:
                return None
            # seeded by number: a search that continues must not draw again what it began with
            self.study.sampler = optuna.samplers.TPESampler(seed=self.seed * 100_000 + number, constant_liar=True)
            return self.study.ask(self.space)

    def _try(self, trial: Trial) -> None:
        """Train one trial and tell the study; one that another process trains is left to it."""
        run = Run((self.folder / f"trial-{trial.number:03d}").absolute())
        try:
            options = [*self.fixed, *_options_of(trial)]
            with run.log():
                log.info("trial %d: %s", trial.number, " ".join(_options_of(trial)))
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
        """How the trials ended, and the best one with the command that trains it."""
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
                f"best: trial {best.number}, {self.monitor} {best.value:.4f} with {' '.join(_options_of(best))}",
                f"  {shlex.join(['python', '-m', 'alerce_early.train', *self.fixed, *_options_of(best)])}",
            ]
        return "\n".join(lines)


def parse_options(options: Sequence[str]) -> tuple[dict[str, str | None], dict[str, BaseDistribution]]:
    """Return what is fixed and what is to be searched, by key, of the command line and its yamls' sweeps."""
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


def one_of(values: BaseDistribution) -> Any:
    """Any value of a distribution."""
    return values.choices[0] if isinstance(values, CategoricalDistribution) else values.low  # type: ignore[attr-defined]


def _overrides(options: Sequence[str]) -> list[Override]:
    with translate_errors():
        return OverridesParser.create().parse_overrides(quote_options(options))


def _distribution(override: Override) -> BaseDistribution:
    """Hydra's sweep as Optuna's distribution: intervals and ranges are ordered, all else are names."""
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
    """Return what is searched for: the monitored number of the best epoch."""
    return run.history()[run.result["best_epoch"] - 1][monitor]


def _options_of(trial: Trial | optuna.trial.FrozenTrial) -> list[str]:
    """Return the options of a trial, numbers to four digits: that is what it trains with and what its command says."""
    short = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in trial.params.items()}
    return [f"{key}={value}" for key, value in short.items()]
