"""Jobs of a sweep: no job runs twice, a failed job does not stop the others, and a summary lists the outcomes.

A job may run in another process or on another machine (submitit), so its outcome is read from its folder.
"""

import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from alerce_early import construct, files
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError, exit_on_input_error
from alerce_early.experiments import schema
from alerce_early.training import signals
from alerce_early.training.processes import is_first, is_launched

FAILURE = "failed.txt"  # error of the last attempt at a job, in its folder


def run(job: Callable[[DictConfig], None], config: DictConfig) -> None:
    """Run a job of a sweep, unless it has finished or another process is running it.

    Parameters
    ----------
    job : callable
        Takes the config.
    config : DictConfig
        The composed config of the job. An error is written to failed.txt in its folder and does not end the sweep.
    """
    context = HydraConfig.get()
    folder = Path(context.runtime.output_dir)
    try:
        if config.trainer.devices != 1 and not (Run(folder).finished or is_launched()):
            _run_in_subprocess(list(context.overrides.task), folder)
        else:
            job(config)
        (folder / FAILURE).unlink(missing_ok=True)
    except files.BusyError as busy:
        print(busy)
    except Exception as error:
        whole = str(error) if isinstance(error, (InputError, ChildProcessError)) else traceback.format_exc()
        print(f"error: {_last_line(whole)}", file=sys.stderr)
        if is_first():
            files.write_text(folder / FAILURE, f"{whole}\n")
        if is_launched() and not isinstance(error, InputError):
            sys.exit(1)  # the launcher must end the other processes, which may be waiting for this one


def _last_line(text: str) -> str:
    """Return the last line of a text."""
    return text.strip().rpartition("\n")[2]


def _run_in_subprocess(options: list[str], folder: Path) -> None:
    """Run a job with several processes as a separate command, so that a crash does not end the sweep."""
    command = [sys.executable, "-m", "alerce_early.train", *options, f"hydra.run.dir='{folder}'"]
    # terminated rather than killed, so that it can end its own processes
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job, signals.terminate_on_error(job):
        printed = job.communicate()[1]
    print(printed, end="", file=sys.stderr)
    if job.returncode == files.BusyError.status:
        raise files.BusyError(printed)
    if job.returncode:
        raise ChildProcessError(printed.strip() or f"exit status {job.returncode}")


class Summary(Callback):
    """Hydra callback that prints the outcome of each job of a sweep.

    If the config has `ensemble.features`, it also combines the networks of the jobs into one.
    """

    @exit_on_input_error  # Hydra turns other errors into warnings
    def on_multirun_start(self, config: DictConfig, **also: Any) -> None:
        """Check the config, and trust the classes that it names, so that the jobs' checkpoints can be read later."""
        schema.check(config, config.hydra.overrides.task)
        construct.trust(OmegaConf.to_container(config))
        if config.ensemble.features is not None and not config.data.split.folds:
            raise InputError("ensemble.features: needs a sweep over folds. Give data.split.folds=N, or sweep=folds.")
        self.finished, self.failed = _read_outcomes(Path(config.hydra.sweep.dir))

    @exit_on_input_error
    def on_multirun_end(self, config: DictConfig, **also: Any) -> None:
        """Print the outcomes, combine the networks if configured, and exit with status 1 if a job failed."""
        if not is_first():
            return
        folder = Path(config.hydra.sweep.dir)
        finished, failed = _read_outcomes(folder)
        bad = {job: failed[job][1] for job in sorted(failed) if failed[job] != self.failed.get(job)}
        outcomes = dict.fromkeys(sorted(path.name for path in folder.glob("[!.]*") if path.is_dir()), "not finished")
        outcomes |= dict.fromkeys(finished, "finished") | dict.fromkeys(self.finished, "finished before")
        outcomes |= dict.fromkeys(bad, "failed")
        counts = Counter(outcomes.values())
        print(f"{folder}: {len(outcomes)} jobs,", ", ".join(f"{n} {outcome}" for outcome, n in counts.items()))
        for job in sorted(outcomes.keys() - finished - bad.keys()):
            print(f"  not finished: {job}")
        if bad:
            print(f"error: {len(bad)} of the jobs failed:", *map(": ".join, bad.items()), sep="\n  ", file=sys.stderr)
            sys.exit(1)
        if config.ensemble.features is not None and finished:
            from alerce_early.experiments.ensemble import combine_runs  # a slow import that other sweeps do not need

            options: Any = OmegaConf.to_container(config.ensemble, resolve=True)
            runs = [Run(folder / job) for job in sorted(finished)]
            print(construct.construct(combine_runs, runs, Path(config.outputs) / "runs" / config.name, **options).page)


def _read_outcomes(folder: Path) -> tuple[set[str], dict[str, tuple[int, str]]]:
    """Return the names of finished jobs; and of failed ones the time in ns and the error, by name."""
    failed = {}
    for file in folder.glob(f"*/{FAILURE}"):
        with suppress(FileNotFoundError):  # another process has just retried the job
            failed[file.parent.name] = file.stat().st_mtime_ns, _last_line(file.read_text())
    return {file.parent.name for file in folder.glob("*/metrics.json")}, failed
