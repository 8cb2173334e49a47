"""Which pixels a verdict rests on: `python -m alerce_early.explain RUN --id ID ... [--out FOLDER]`.

Heat maps of layer-wise relevance propagation beside the stamps, one picture per row.
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
    parser = argparse.ArgumentParser(
        prog="python -m alerce_early.explain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"alerce-early {VERSION}")
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--id", nargs="+", required=True, help="objects, by the id in the predictions table")
    parser.add_argument("--out", type=Path, help="folder for the pictures; default: explain in the run folder")
    parser.add_argument("--rule", default="alpha_beta", help="alpha_beta (default, with 2 and 1) or epsilon")
    asked = parser.parse_args()
    from alerce_early.experiments.explain import write  # with torch, which --help need not wait for

    run = Run.find(asked.run)
    for file in write(run, asked.id, asked.out or run.path / "explain", asked.rule):
        print(file)


if __name__ == "__main__":
    main()
