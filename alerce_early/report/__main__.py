"""Write the HTML page of a finished run, of any classifier's predictions table, or of all runs in a folder.

python -m alerce_early.report RUN
python -m alerce_early.report FOLDER
python -m alerce_early.report TABLE.csv|TABLE.parquet [--labels FILE] [--out FOLDER]
python -m alerce_early.report TABLE.csv|TABLE.parquet --by object [--out TABLE]
"""

import argparse
from contextlib import suppress
from pathlib import Path

from alerce_early.errors import InputError, exit_on_input_error
from alerce_early.files import VERSION
from alerce_early.training import signals


@exit_on_input_error
@signals.listen()
def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m alerce_early.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"alerce-early {VERSION}")
    parser.add_argument(
        "source",
        type=Path,
        metavar="RUN|TABLE|FOLDER",
        help="a run folder, a .csv or .parquet table, or a folder of runs",
    )
    for_table = parser.add_argument_group("options for a TABLE")
    add = for_table.add_argument
    add("--out", type=Path, help="folder of the page, or table to write with --by; default: TABLE_report or _objects")
    add("--by", choices=["object"], help="write a table and a page with one row per object")
    add("--labels", type=Path, help="labels: a table of candid (or id) and label")
    add("--target-class", metavar="CLASS", help="class of the thresholds; default: the target class of the run, or SN")
    add("--classifier", metavar="NAME", help="classifier to read from a table of ALeRCE")
    add("--overwrite", action="store_true", help="write into an existing folder, or replace the table")
    given = parser.parse_args()
    from alerce_early.artifacts import predictions  # slow to import, and --help does not need them
    from alerce_early.artifacts.run_folder import Run
    from alerce_early.evaluation.metrics import TARGET
    from alerce_early.experiments.compare import write_index
    from alerce_early.experiments.run import write_page
    from alerce_early.report.night_page import write_objects
    from alerce_early.report.run_page import write_table_page

    if given.by:
        if given.source.suffix not in predictions.EXTENSIONS or given.labels or given.classifier:
            raise InputError("--by object: needs a .csv or .parquet table. Leave out --labels and --classifier.")
        out = given.out or given.source.with_name(f"{given.source.stem}_objects{given.source.suffix}")
        print(*write_objects(given.source, out, given.target_class, given.overwrite), sep="\n")
        return
    if given.source.suffix in predictions.EXTENSIONS:
        folder = given.out or given.source.with_name(f"{given.source.stem}_report")
        if folder.exists() and not given.overwrite:
            raise InputError(f"{folder}: already exists. Give another --out, or --overwrite to write into it.")
        run, target = Run(given.source.parent), given.target_class or TARGET
        if given.source == run.predictions and not given.target_class:
            with suppress(InputError):  # not a run folder
                target = run.config().target_class
        page, notes = write_table_page(given.source, folder, given.labels, target, given.classifier)
        print(*notes, page, sep="\n")
        return
    if given.out or given.labels or given.classifier or given.target_class:
        raise InputError(
            f"{given.source}: not a .csv or .parquet table. Leave out --out, --labels, --classifier and --target-class."
        )
    if given.source.is_dir() and not Run(given.source).config_file.exists():
        print(write_index(given.source))
    else:
        print(write_page(Run.find(given.source)))


if __name__ == "__main__":
    main()
