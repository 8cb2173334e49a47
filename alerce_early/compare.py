"""Runs side by side, seeds of one config as one row: `python -m alerce_early.compare RUN RUN ... | SWEEP`."""

import argparse
from pathlib import Path

from alerce_early import files
from alerce_early.errors import exit_on_input_error
from alerce_early.training import signals


@exit_on_input_error
@signals.listen()
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m alerce_early.compare", description=__doc__)
    parser.add_argument("--version", action="version", version=f"alerce-early {files.VERSION}")
    parser.add_argument("folder", nargs="+", help="a run folder, or one with runs below it")
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="labels of the label command: compare on its random rows"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there, a number a column")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the table there as a page")
    asked = parser.parse_args()
    from alerce_early.experiments import compare  # draws and tests: seconds that --help need not take
    from alerce_early.experiments.compare import find, join

    finished, unfinished = find(asked.folder)
    entries, said = join(finished, asked.labels)
    said += [f"not finished: {folder}" for folder in unfinished]
    if entries:
        print(compare.as_text(rows := compare.rank(entries)))
        if asked.csv:
            files.write_text(asked.csv, compare.as_csv(rows))
        if asked.html:
            files.write_text(asked.html, compare.as_html(rows, said, asked.html.parent))
        said = [*compare.notes(entries), *said]
    print(*said, sep="\n", end="\n" if said else "")


if __name__ == "__main__":
    main()
