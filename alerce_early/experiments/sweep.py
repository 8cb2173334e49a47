"""A sweep's jobs: none runs twice, the others continue after one fails, and the end says what came of each.

A job may run in another process or on another machine (submitit), so each leaves a note of its outcome in a folder
of this launch, which the end reads and clears away.
"""

import os
import shutil
import socket
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from alerce_early import construct, files
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError
from alerce_early.training import signals
from alerce_early.training.processes import is_first, is_launched

LAUNCH = f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}-{socket.gethostname()}-{os.getpid()}"
FINISHED, BEFORE, FAILED = "finished", "finished before", "failed"
TAKEN, DONE = "running in another process", "finished by another process"


class JobError(Exception):
    """A job of several processes ended badly; the message is what it printed."""


def run(job: Callable[[DictConfig], None], config: DictConfig, launch: str) -> None:
    """Run one job of a sweep, unless it has finished or another process runs it, and note what came of it."""
    context = HydraConfig.get()
    folder = Path(context.runtime.output_dir)
    outcome, reason = BEFORE if Run(folder).finished else FINISHED, ""
    try:
        if outcome != BEFORE and config.trainer.get("devices", 1) != 1 and not is_launched():
            _run_apart(list(context.overrides.task), folder)
        else:
            job(config)
        (folder / "failed.txt").unlink(missing_ok=True)
    except files.BusyError:
        outcome = BEFORE if outcome == BEFORE else TAKEN  # a finished job may be looked at by another launch
    except Exception as error:
        outcome, reason = FAILED, str(error).strip().rpartition("\n")[2]
        whole = str(error) if isinstance(error, (InputError, JobError)) else traceback.format_exc()
        print(f"error: {reason}", file=sys.stderr)
        if is_first():
            files.write_text(folder / "failed.txt", f"{whole}\n")
        if is_launched() and not isinstance(error, InputError):
            sys.exit(1)  # the other processes may be waiting for this one: their launcher must end them
    if is_first():
        files.write_text(folder.parent / ".launches" / launch / folder.name, f"{outcome}\n{reason}")


def _run_apart(options: list[str], folder: Path) -> None:
    """Run a job of several processes as a command of its own: if one of them dies, the sweep lives."""
    command = [sys.executable, "-m", "alerce_early.train", *options, f"hydra.run.dir='{folder}'"]
    # it ends its own processes, which a SIGKILL would leave behind
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job, signals.ending(job):
        printed = job.communicate()[1]
    print(printed, end="", file=sys.stderr)
    if job.returncode == files.BusyError.status:
        raise files.BusyError(printed)
    if job.returncode:
        raise JobError(printed.strip() or f"exit status {job.returncode}")


class Summary(Callback):
    """Hydra calls this when all jobs have ended, wherever they ran."""

    def on_multirun_start(self, config: DictConfig, **also: Any) -> None:
        """Trust what the user's config names: what is made of the jobs' checkpoints here must open them."""
        construct.trust(OmegaConf.to_container(config))

    def on_multirun_end(self, config: DictConfig, **also: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        notes = folder / ".launches" / LAUNCH
        if not is_first():
            return
        jobs = {note.name: note.read_text().split("\n", 1) for note in sorted(notes.glob("[!.]*"))}
        shutil.rmtree(notes, ignore_errors=True)
        with suppress(OSError):  # another launch has its notes there
            notes.parent.rmdir()
        for name, note in jobs.items():
            if note[0] == TAKEN and Run(folder / name).finished:
                note[0] = DONE
        counts = Counter(outcome for outcome, _ in jobs.values())
        print(f"{folder}: {len(jobs)} jobs,", ", ".join(f"{n} {outcome}" for outcome, n in counts.items()))
        for name, (outcome, _) in jobs.items():
            if outcome == TAKEN:
                print(f"  {TAKEN}: {name}")
        if bad := [f"{name}: {reason}" for name, (outcome, reason) in jobs.items() if outcome == FAILED]:
            print(f"error: {len(bad)} of the jobs failed:", *bad, sep="\n  ", file=sys.stderr)
            sys.exit(1)
