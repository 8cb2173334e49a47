"""Search for good options with Optuna: `python -m alerce_early.search search=optimiser --trials 40`.

Options are written as for train, and what is to be searched as for a sweep of train -m: choices a,b, ranges, and
also intervals: 'optim.optimizer.lr=tag(log,interval(1e-4,1e-1))'. The study is a file beside its runs, so the same
command continues with it, and several processes, also of several machines, share it.
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
    """Let n more processes run the same command meanwhile; they and this one compute with so many threads."""
    if n:
        import torch

        torch.set_num_threads(threads)
    command = [sys.executable, "-m", "alerce_early.search", *sys.argv[1:], "--jobs", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "env": os.environ | {"OMP_NUM_THREADS": str(threads)}}
    helpers = [subprocess.Popen(command, **quiet) for _ in range(n)]  # type: ignore[call-overload]
    try:
        with signals.ending(*helpers):
            yield
    finally:
        for helper in helpers:
            helper.wait()


@exit_on_input_error
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m alerce_early.search", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"alerce-early {VERSION}")
    parser.add_argument("options", nargs="*", help="as for train -m: search=optimiser model=... data.batch_size=32,64")
    parser.add_argument("--trials", type=int, default=40, help="how many the study is to have in all (default 40)")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the trials, each with its cores")
    arguments = parser.parse_intermixed_args()
    with require_extra("search", "sweep"):
        import optuna

        from alerce_early.experiments.search import Search
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    again = shlex.join(["python", "-m", "alerce_early.search", *sys.argv[1:]])
    with signals.listen(), signals.resumed_by(again):
        search = Search(arguments.options)
        with _helpers(arguments.jobs - 1, max(1, cores() // arguments.jobs)):
            search.run(arguments.trials)
        print(search.summary())


if __name__ == "__main__":
    main()
