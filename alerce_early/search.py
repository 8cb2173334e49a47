"""Search for the best options with Optuna: `python -m alerce_early.search search=optimiser --trials 40`.

Fixed options are written as for train. Options to search are choices or ranges, as for a sweep with train -m, or
intervals: 'optim.optimizer.lr=tag(log,interval(1e-4,1e-1))'. The study is a file in the folder of its runs: the same
command resumes it, and several processes, also on several machines, can share it.
"""

import argparse
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from alerce_early.errors import exit_on_input_error, require_extra
from alerce_early.files import VERSION
from alerce_early.machine import cores
from alerce_early.training import signals


@contextmanager
def _helpers(n: int, threads: int) -> Iterator[None]:
    """Inside the block, run the same command in n more processes; each process uses this number of threads."""
    if n:
        import torch

        torch.set_num_threads(threads)
    command = [sys.executable, "-m", "alerce_early.search", *sys.argv[1:], "--jobs", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "env": os.environ | {"OMP_NUM_THREADS": str(threads)}}
    helpers = [subprocess.Popen(command, **quiet) for _ in range(n)]  # type: ignore[call-overload]
    try:
        with signals.terminate_on_error(*helpers):
            yield
    finally:
        for helper in helpers:
            helper.wait()


@exit_on_input_error
def main() -> None:
    """Run or resume the search, and print its summary."""
    parser = argparse.ArgumentParser(prog="python -m alerce_early.search", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"alerce-early {VERSION}")
    parser.add_argument(
        "options", nargs="*", help="options as for train -m, e.g. search=optimiser model=rotinv data.batch_size=32,64"
    )
    parser.add_argument("--trials", type=int, default=40, help="number of trials of the study in total (default: 40)")
    parser.add_argument(
        "--jobs", type=int, default=1, help="number of processes that share the trials and the cores (default: 1)"
    )
    arguments = parser.parse_intermixed_args()
    with require_extra("search", "sweep"):
        import optuna

        from alerce_early.experiments.search import Search
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    again = shlex.join(["python", "-m", "alerce_early.search", *sys.argv[1:]])
    with signals.listen(), signals.set_resume_command(again):
        search = Search(arguments.options)
        with _helpers(arguments.jobs - 1, max(1, cores() // arguments.jobs)):
            search.run(arguments.trials)
        print(search.summary())


if __name__ == "__main__":
    main()
