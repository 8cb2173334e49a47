"""Show which pixels drove a prediction: `python -m alerce_early.explain RUN --id ID ... [--out FOLDER]`.

Draws one picture per row: the stamps, and heat maps of layer-wise relevance propagation.
"""

import argparse
from pathlib import Path

from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import exit_on_input_error
from alerce_early.files import VERSION
from alerce_early.training import signals


@exit_on_input_error
@signals.listen()
def main() -> None:
    """Draw the relevance for some objects and print the paths of the pictures."""
    parser = argparse.ArgumentParser(
        prog="python -m alerce_early.explain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"alerce-early {VERSION}")
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--id", nargs="+", required=True, help="ids of objects, as in the predictions table")
    parser.add_argument("--out", type=Path, help="folder of the pictures; default: explain/ in the run folder")
    parser.add_argument(
        "--rule", default="alpha_beta", help="rule of propagation: alpha_beta (default; alpha 2, beta 1) or epsilon"
    )
    arguments = parser.parse_args()
    from alerce_early.experiments.explain import write_relevance  # a slow import that --help does not need

    run = Run.find(arguments.run)
    for file in write_relevance(run, arguments.id, arguments.out or run.path / "explain", arguments.rule):
        print(file)


if __name__ == "__main__":
    main()
