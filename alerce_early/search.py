"""Search for good options with Optuna: `python -m alerce_early.search search=optimiser --trials 40`.

Options are written as for train, and what is to be searched as for a sweep of train -m: choices a,b, ranges, and
also intervals: 'optim.optimizer.lr=tag(log,interval(1e-4,1e-1))'. The study is a file beside its runs, so the same
command continues with it, and several processes, also of several machines, share it.
"""

import argparse
import logging
import sys

from alerce_early.errors import exit_on_input_error, require_extra
from alerce_early.training import signals


@exit_on_input_error
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m alerce_early.search", description=__doc__.splitlines()[0])
    parser.add_argument("options", nargs="*", help="as for train -m: search=optimiser model=... data.batch_size=32,64")
    parser.add_argument("--trials", type=int, default=40, help="how many the study is to have in all (default 40)")
    arguments = parser.parse_intermixed_args()
    with require_extra("search", "sweep"):
        import optuna

        from alerce_early.study import Search
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    signals.listen()
    search = Search(arguments.options)
    try:
        search.run(arguments.trials)
    except signals.Stopped as stopped:
        print(f"stopped by {stopped.name}; the same command continues", file=sys.stderr)
        raise
    print(search.summary())


if __name__ == "__main__":
    main()
