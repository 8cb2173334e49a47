"""One page of all runs in a folder: a row a run, with its numbers and a link to its own page."""

import os
from pathlib import Path

from markupsafe import Markup

from alerce_early import files
from alerce_early.evaluation.kinds import choose_kind
from alerce_early.experiments.compare import Finished, find
from alerce_early.report import page, sections


def link(run: Finished, words: str, here: Path) -> str:
    """Return words that lead from a page in the folder `here` to the run's own."""
    return Markup('<a href="{}">{}</a>').format(Path(os.path.relpath(run.run.page, here)).as_posix(), words)


def write_index(folder: Path) -> Path:
    """Write index.html into a folder of runs; returns its path. Raises InputError where there is none."""
    finished, unfinished = find([str(folder)])
    rows = [_row(run, folder) for run in sorted(finished, key=lambda run: run.run.predictions.stat().st_mtime)[::-1]]
    header = list(dict.fromkeys(name for row in rows for name in row))
    words = "Of the test rows, with 95 % intervals, the last run first. A click on a column's name sorts by it."
    left = [page.Section("Not finished", words=[str(path.relative_to(folder)) for path in unfinished])]
    text = page.render(
        title="Runs",
        subtitle=f"{len(finished):,} finished and {len(unfinished):,} unfinished in {folder}",
        headline=[],
        sections=[
            page.Section("Finished", [words], [(header, [[row.get(name, "") for name in header] for row in rows])]),
            *(left if unfinished else []),
        ],
    )
    files.write_text(folder / "index.html", text)
    return folder / "index.html"


def _row(run: Finished, folder: Path) -> dict[str, str]:
    """Return what the page tells of a run, by column."""
    judged = run.result[run.result["judged"]]
    return {
        "run": link(run, str(run.run.path.relative_to(folder)), folder),
        "model": str(run.choices["model"]),
        "data": str(run.choices["data"]),
        "seed": str(run.seed),
        **dict(sections.headline(choose_kind(run.table), judged)),
        "rows": f"{judged['n']:,}",
        "training": f"{run.result['training_seconds']:,.0f} s",
    }
