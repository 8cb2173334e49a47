"""Compare runs, with one row per configuration: `python -m alerce_early.compare RUN RUN ... | SWEEP`."""

import argparse
from pathlib import Path

from alerce_early import files
from alerce_early.errors import exit_on_input_error
from alerce_early.training import signals


@exit_on_input_error
@signals.listen()
def main() -> None:
    """Print the table of runs, and write it as CSV or as a page on request."""
    parser = argparse.ArgumentParser(prog="python -m alerce_early.compare", description=__doc__)
    parser.add_argument("--version", action="version", version=f"alerce-early {files.VERSION}")
    parser.add_argument("folder", nargs="+", help="a run folder, or a folder that contains runs")
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="labels written by the label command: compare on the rows that were selected at random",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table as CSV")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the table as an HTML page")
    arguments = parser.parse_args()
    from alerce_early.experiments import compare  # a slow import that --help does not need
    from alerce_early.experiments.compare import find_runs, group_runs

    finished, unfinished = find_runs(arguments.folder)
    entries, notes = group_runs(finished, arguments.labels)
    notes += [f"not finished: {folder}" for folder in unfinished]
    if entries:
        print(compare.as_text(rows := compare.rank(entries)))
        if arguments.csv:
            files.write_text(arguments.csv, compare.as_csv(rows))
        if arguments.html:
            files.write_text(arguments.html, compare.as_html(rows, notes, arguments.html.parent))
        notes = [*compare.make_notes(entries), *notes]
    print(*notes, sep="\n", end="\n" if notes else "")


if __name__ == "__main__":
    main()
