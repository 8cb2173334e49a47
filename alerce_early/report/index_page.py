"""One page of all runs in a folder: a row per run, with its numbers and a link to its own page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from alerce_early import files
from alerce_early.report import page


def write_index(folder: Path, rows: Sequence[Mapping[str, str]], unfinished: Sequence[Path]) -> Path:
    """Write index.html into a folder of runs.

    Parameters
    ----------
    folder : Path
        Where the page goes.
    rows : sequence of mapping
        The cells of each finished run by column, in the order of the page.
    unfinished : sequence of Path
        The run folders below it that are not finished.

    Returns
    -------
    Path
        The page.
    """
    header = list(dict.fromkeys(name for row in rows for name in row))
    words = "Of the test rows, with 95 % intervals, the last run first. A click on a column's name sorts by it."
    left = [page.Section("Not finished", words=[str(path.relative_to(folder)) for path in unfinished])]
    text = page.render(
        title="Runs",
        subtitle=f"{len(rows):,} finished and {len(unfinished):,} unfinished in {folder}",
        headline=[],
        sections=[
            page.Section("Finished", [words], [(header, [[row.get(name, "") for name in header] for row in rows])]),
            *(left if unfinished else []),
        ],
    )
    files.write_text(folder / "index.html", text)
    return folder / "index.html"
