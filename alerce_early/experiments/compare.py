"""Compare runs: one row per config, best first, as text, CSV or a page. Also the index page of a folder of runs."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from alerce_early import files
from alerce_early.artifacts import predictions
from alerce_early.artifacts.run_folder import Run, flatten_config
from alerce_early.errors import InputError
from alerce_early.evaluation import comparison, tables
from alerce_early.evaluation.comparison import Outcome
from alerce_early.evaluation.kinds import Kind, choose_kind
from alerce_early.evaluation.metrics import TARGET
from alerce_early.evaluation.screening import QUEUE, RANDOM
from alerce_early.experiments.metrics import add_metrics
from alerce_early.report import page, sections
from alerce_early.report.foreign_table import find_queues
from alerce_early.report.page import number

POOLED_KEYS = {"seed", "data.split.fold", "metrics"}  # may differ between runs of one entry
THUMBNAILS = (
    "confusion.svg",
    "predicted.svg",
    "confusion.png",
    "predicted.png",
)  # the first that exists represents a run
RUN_COLUMNS = ("model", "data", "seed", "rows", "training")  # last columns of the index
N_HEADLINE_METRICS = 2  # metrics of each kind of evaluation in the table


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Parameters
    ----------
    run : Run
        The run folder.
    choices : mapping of str
        Options by dotted key, except `POOLED_KEYS`.
    result : mapping of str
        Content of metrics.json.
    seed : int
        Seed of the run.
    fold : int or None
        Test fold, if the run has folds.
    """

    run: Run
    choices: Mapping[str, Any]
    result: Mapping[str, Any]
    seed: int
    fold: int | None

    @classmethod
    def read(cls, run: Run) -> "Finished":
        """Read a finished run; raise InputError if a file is damaged."""
        # the name of a group stands for the group
        options = {key.removesuffix(".name"): value for key, value in flatten_config(run.config()).items()}
        choices = {key: value for key, value in options.items() if key not in POOLED_KEYS}
        fold = options.get("data.split.fold") if options.get("data.split.folds") else None
        return cls(run, choices, run.result, options["seed"], fold)

    @cached_property
    def table(self) -> dict[str, np.ndarray]:
        """Predictions of the rows that the run is evaluated on."""
        return tables.select_judged(predictions.read(self.run.predictions), self.result["judged"])


@dataclass(frozen=True, eq=False)
class Entry:
    """The runs of one config on one set of test rows.

    Parameters
    ----------
    runs : sequence of Finished
        The runs, over all seeds and folds.
    tables : sequence of mapping
        Predictions of each seed.
    values : sequence of mapping
        Metrics of each seed by name.
    rows : str
        Identifies test rows and kind of evaluation: only entries with the same value are ranked and tested.
    """

    runs: Sequence[Finished]
    tables: Sequence[Mapping[str, np.ndarray]]
    values: Sequence[Mapping[str, float]]
    rows: str

    @property
    def choices(self) -> Mapping[str, Any]:
        """Options by dotted key."""
        return self.runs[0].choices

    @cached_property
    def kind(self) -> Kind:
        """Kind of evaluation, with its metrics."""
        return choose_kind(self.tables[0], _target(self.runs[0]))

    @cached_property
    def outcome(self) -> Outcome:
        """Correctness or error of each row, for intervals and tests."""
        return Outcome.of(self.tables)

    @property
    def words(self) -> dict[str, str]:
        """Label of each metric to show, by name, including the user's own metrics."""
        known = [name for name in self.kind.words if name in self.values[0]]
        own = [name for name in _own_metrics(self.runs[0]) if all(name in values for values in self.values)]
        return {name: self.kind.words[name] for name in known[:N_HEADLINE_METRICS]} | {name: name for name in own}

    @property
    def scores(self) -> list[float]:
        """Ranking metric of each seed."""
        return [values[self.kind.ranked_by] for values in self.values]

    @property
    def order(self) -> float:
        """Sort key: the best entry has the lowest value."""
        return mean(self.scores) * (1 if self.kind.lower_is_better else -1)

    @property
    def interval(self) -> tuple[float, float]:
        """Limits of the 95 % interval of the ranking metric."""
        low, high = self.outcome.interval()
        return (1 - high, 1 - low) if self.kind.lower_is_better else (low, high)

    @property
    def seconds(self) -> float:
        """Mean training time of a run in seconds."""
        return mean(run.result["training_seconds"] for run in self.runs)

    @property
    def inference(self) -> float | None:
        """Mean inference rate in rows per second; None if it was not measured."""
        rates = [run.result.get("judged_rows_per_second") for run in self.runs]
        return mean(rate for rate in rates if rate) if all(rates) else None

    def over_seeds(self, name: str) -> tuple[float, float | None]:
        """Return mean and sample standard deviation of a metric; the latter is None for a single seed."""
        values = [values[name] for values in self.values]
        return mean(values), stdev(values) if len(values) > 1 else None


def find_runs(paths: Iterable[str]) -> tuple[list[Finished], list[Path]]:
    """Find the runs in folders.

    Parameters
    ----------
    paths : iterable of str
        Run folders, or folders that contain runs at any depth.

    Returns
    -------
    finished : list of Finished
        The finished runs.
    unfinished : list of Path
        Folders of the other runs.

    Raises
    ------
    InputError
        If a path contains no run.
    """
    finished, unfinished = [], []
    for path in map(Path, paths):
        runs = sorted(file.parent for file in path.rglob("config.yaml"))
        if not runs:
            raise InputError(f"{path}: contains no run. Give a run folder, or a folder of runs.")
        for folder in runs:
            if (run := Run(folder)).finished:
                finished.append(Finished.read(run))
            else:
                unfinished.append(folder)
    return finished, unfinished


def group_runs(finished: Iterable[Finished], labels: Path | None = None) -> tuple[list[Entry], list[str]]:
    """Group runs by config and test rows.

    The folds of a seed are evaluated together. A seed with missing folds is excluded, and so is a second run with the
    same config, seed and fold.

    Parameters
    ----------
    finished : iterable of Finished
        The finished runs.
    labels : Path, optional
        Table of labels with a column `queue`: compare only the rows that were selected at random.

    Returns
    -------
    entries : list of Entry
        Entries with the same test rows follow each other, best first.
    notes : list of str
        One sentence per excluded run.

    Raises
    ------
    InputError
        If none of the random rows is a test row of a run.
    """
    by_seed: dict[tuple[str, int], dict[int | None, Finished]] = {}
    excluded = []
    for run in finished:
        # older runs lack keys that were added later, with null as default
        chosen = str(sorted((item for item in run.choices.items() if item[1] is not None), key=str))
        folds = by_seed.setdefault((chosen, run.seed), {})
        if run.fold in folds:
            excluded.append(f"{run.run.path} repeats {folds[run.fold].run.path} and was excluded.")
        folds.setdefault(run.fold, run)
    groups: dict[tuple[str, str], list[tuple[list[Finished], dict[str, np.ndarray]]]] = {}
    for (choices, seed), folds in by_seed.items():
        runs = list(folds.values())
        # a combined run includes all folds
        expected = 1 if None in folds else runs[0].choices.get("data.split.folds") or 1
        if len(runs) < expected:
            excluded.append(f"{runs[0].choices['model']}, seed {seed}: {len(runs)} of {expected} folds; excluded.")
            continue
        table = tables.join_tables([run.table for run in runs])
        if labels:
            table = _select_random_rows(table, labels, runs[0].run.path)
        groups.setdefault((choices, _identify_rows(table, runs[0].result["origin"])), []).append((runs, table))
    entries = [
        Entry(
            [run for runs, _ in seeds for run in runs],
            [table for _, table in seeds],
            [_evaluate_seed(seed, anew=labels is not None) for seed in seeds],
            rows,
        )
        for (_, rows), seeds in groups.items()
    ]
    first = {rows: i for i, rows in reversed(list(enumerate(entry.rows for entry in entries)))}
    return sorted(entries, key=lambda entry: (first[entry.rows], entry.order)), excluded


def _target(run: Finished) -> str:
    """Return the target class of a run; older runs have the default."""
    return str(run.result.get("target_class", TARGET))


def _select_random_rows(table: tables.Table, labels: Path, run: Path) -> dict[str, np.ndarray]:
    """Return the rows of objects that were selected for labelling at random; raise InputError if none is left."""
    queue = find_queues(labels, {"id": table["id"]}).get(QUEUE, np.full(len(table["id"]), ""))
    if not (queue == RANDOM).any():
        raise InputError(f"--labels {labels}: none of its random rows is a test row of {run}. Label more at random.")
    return tables.take_rows(table, queue == RANDOM)


def _evaluate_seed(seed: tuple[list[Finished], Mapping[str, np.ndarray]], anew: bool = False) -> Mapping[str, float]:
    """Return the metrics of one seed, computed again for several folds or if `anew` is set."""
    (run, *more), table = seed
    anew = anew or bool(more)
    judged = choose_kind(table, _target(run)).judge(table) if anew else run.result[run.result["judged"]]
    if anew:
        with suppress(InputError):  # code that no longer exists or is not trusted
            judged = add_metrics(judged, _own_metrics(run).values(), table)
    return judged["values"]


def _own_metrics(run: Finished) -> Mapping[str, str]:
    """Return the dotted paths of the user's own metrics by name."""
    return run.result[run.result["judged"]].get("own", {})


def _identify_rows(table: Mapping[str, np.ndarray], origin: str) -> str:
    """Return a hash of the data set, its rows and labels in any order, and the kind of evaluation."""
    lines = sorted(zip(table["id"].tolist(), table["row"].tolist(), table["label"].tolist(), strict=True))
    return sha256(repr((choose_kind(table).name, origin, lines)).encode()).hexdigest()


def write_index(folder: Path) -> Path:
    """Write the index page of all runs in a folder, latest first; raise InputError for a folder without runs."""
    finished, unfinished = find_runs([str(folder)])
    last_first = sorted(finished, key=lambda run: run.run.predictions.stat().st_mtime)[::-1]
    described = [_describe_run(run, folder) for run in last_first]
    given = Counter(name for run in described for name in run)
    columns = sorted(
        given, key=lambda name: (name in RUN_COLUMNS, -given[name])
    )  # results common to all runs come first
    rows = [[run.get(name, "") for name in columns] for run in described]
    unfinished = [path.relative_to(folder) for path in unfinished]
    shown = {"folder": folder, "columns": columns, "rows": rows, "unfinished": unfinished}
    text = page.render("index.html", marker=page.INDEX, **shown)
    files.write_text(index := folder / "index.html", text)
    for run in finished:
        page.link_up(run.run.page, index)
    return index


def _describe_run(run: Finished, folder: Path) -> dict[str, str]:
    """Return the cells of a run in the index page, by column."""
    judged = run.result[run.result["judged"]]
    return {
        "run": page.link(run.run.page, str(run.run.path.relative_to(folder)), folder),
        "result": page.thumbnail((run.run.path / name for name in THUMBNAILS), folder),
        **dict(sections.headline(choose_kind(run.table, _target(run)), judged)),
        "model": str(run.choices["model"]),
        "data": str(run.choices["data"]),
        "seed": str(run.seed),
        "rows": f"{judged['n']:,}",
        "training": f"{run.result['training_seconds']:,.0f} s",
    }


@dataclass(frozen=True)
class Row:
    """One config in the table.

    Parameters
    ----------
    entry : Entry
        The runs of the config.
    values : mapping of str
        Plain values by column, for the CSV file.
    cells : mapping of str to str
        Formatted values by column, for text and page.
    """

    entry: Entry
    values: Mapping[str, Any]
    cells: Mapping[str, str]


def rank(entries: Sequence[Entry]) -> list[Row]:
    """Make the table of a comparison.

    Parameters
    ----------
    entries : sequence of Entry
        Entries in the order of `group_runs`.

    Returns
    -------
    list of Row
        One row per entry: means and standard deviations over seeds, 95 % interval, and paired tests against the best
        entry on the same test rows.
    """
    rows = []
    for entry, best in zip(entries, _bests(entries), strict=True):
        spreads = {name: entry.over_seeds(name) for name in entry.words}
        tests = comparison.compare_paired(best.outcome, entry.outcome) if entry is not best else {}
        values = {
            "system": entry.choices["model"],
            "differs_in": "; ".join(f"{key}={value}" for key, value in _find_choices(entry, entries).items()),
            "parameters": entry.runs[0].result["parameters"],
            **{f"{name}_mean": average for name, (average, _) in spreads.items()},
            **{f"{name}_sd": spread for name, (_, spread) in spreads.items()},
            "ranked_by": entry.kind.ranked_by,
            **dict(zip(("low", "high"), entry.interval, strict=True)),
            "seeds": len(entry.values),
            "runs": len(entry.runs),
            "training_seconds": round(entry.seconds, 2),
            "inference_rows_per_second": entry.inference and round(entry.inference, 1),
            "bootstrap_p": tests.get(comparison.BOOTSTRAP),
            "mcnemar_p": tests.get(comparison.MCNEMAR),
            "welch_p": comparison.welch(best.scores, entry.scores) if entry is not best else None,
            "test_rows": _letter(entry, entries),
        }
        rows.append(Row(entry, values, _spell(entry, values)))
    return rows


def _spell(entry: Entry, values: Mapping[str, Any]) -> dict[str, str]:
    """Format the values of a row, by column."""
    results = {entry.words[name]: (values[f"{name}_mean"], values[f"{name}_sd"]) for name in entry.words}
    names = (entry.kind.words[entry.kind.ranked_by], comparison.MCNEMAR, "over seeds (Welch)")
    tests = zip(names, (values[f"{test}_p"] for test in ("bootstrap", "mcnemar", "welch")), strict=True)
    folds, rate = entry.choices.get("data.split.folds"), values["inference_rows_per_second"]
    return {
        "system": str(values["system"]),
        "differs in": values["differs_in"],
        "test result": ", ".join(
            f"{name} {average:.3f}" + (f" +- {spread:.3f}" if spread is not None else "")
            for name, (average, spread) in results.items()
        ),
        "95 % interval": number(mean(entry.scores), entry.interval),
        "n": f"{values['seeds']} x {folds} folds" if folds else str(values["seeds"]),
        "against the best": "; ".join(f"{name}: {comparison.verdict(p)}" for name, p in tests if p is not None),
        "parameters": f"{values['parameters']:,}",
        "training": f"{entry.seconds:.0f} s",
        "inference": f"{rate:,.0f} rows/s" if rate else "",
        "published": str(entry.choices.get("model.published", "")),
        "test rows": values["test_rows"],
    }


def make_notes(entries: Sequence[Entry]) -> list[str]:
    """Return notes below the table: test rows that differ, and the metrics of the baselines."""
    letters = list_letters(entries)
    several = (
        f"Different test rows or kinds of evaluation ({', '.join(letters)}): configurations with different letters are "
        "not ranked against each other or tested."
    )
    baselines = [
        f"{name} on {letter}: {metric} {value:.3f} (mean over runs)"
        for letter, name, metric, value in find_baselines(entries)
    ]
    return [*([several] if len(letters) > 1 else []), *baselines]


def list_letters(entries: Sequence[Entry]) -> list[str]:
    """Return one label per set of test rows and kind of evaluation, e.g. "A: 97"."""
    return list(dict.fromkeys(_letter(entry, entries) for entry in entries))


def find_baselines(entries: Sequence[Entry]) -> list[tuple[str, str, str, float]]:
    """Average the baselines without images over runs.

    Parameters
    ----------
    entries : sequence of Entry
        Entries in the order of `group_runs`.

    Returns
    -------
    list of tuple
        Label of the test rows, name of the baseline, name of the ranking metric, and its mean.
    """
    found = []
    for best in dict.fromkeys(_bests(entries)):
        metric = best.kind.ranked_by
        runs = [run.result.get("baselines", {}) for entry in entries if entry.rows == best.rows for run in entry.runs]
        for key, name in (("metadata", "random forest on metadata"), ("majority", "majority class")):
            reached = [run[key]["values"][metric] for run in runs if metric in run.get(key, {}).get("values", {})]
            if reached:
                found.append((_letter(best, entries), name, best.kind.words[metric], mean(reached)))
    return found


def _columns(rows: Sequence[Row]) -> list[str]:
    """Return the columns that are not empty in all rows."""
    return [name for name in rows[0].cells if any(row.cells[name] for row in rows)]


def as_text(rows: Sequence[Row]) -> str:
    """Format the rows as a table of aligned columns."""
    names = _columns(rows)
    lines = [names, *([row.cells[name] for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def as_csv(rows: Sequence[Row]) -> str:
    """Format the rows as CSV, with one number per column."""
    file = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row.values))
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.values for row in rows)
    return file.getvalue()


def as_html(rows: Sequence[Row], sentences: Sequence[str], folder: Path) -> str:
    """Render the rows as a page.

    Parameters
    ----------
    rows : sequence of Row
        The table, see `rank`.
    sentences : sequence of str
        Notes on excluded runs.
    folder : Path
        Folder of the page; links to the runs are relative to it.

    Returns
    -------
    str
        The HTML page.
    """
    pages = [[page.link(run.run.page, str(i), folder) for i, run in enumerate(row.entry.runs, 1)] for row in rows]
    entries = [row.entry for row in rows]
    return page.render(
        "comparison.html",
        rows=list(zip(rows, pages, strict=True)),
        metrics=list(dict.fromkeys(item for entry in entries for item in entry.words.items())),
        columns=_columns(rows),
        letters=list_letters(entries),
        baselines=find_baselines(entries),
        n_runs=sum(len(entry.runs) for entry in entries),
        sentences=sentences,
    )


def _bests(entries: Sequence[Entry]) -> list[Entry]:
    """Return, for each entry, the best entry on its test rows: the first, as entries are sorted."""
    first: dict[str, Entry] = {}
    return [first.setdefault(entry.rows, entry) for entry in entries]


def _find_choices(entry: Entry, entries: Sequence[Entry]) -> dict[str, str]:
    """Return the options in which an entry differs from others with the same model, as typed.

    Keys implied by a named choice are omitted; of equivalent keys only the first is kept.
    """
    model = entry.choices["model"]
    family = [other.choices for other in entries if other.choices["model"] == model]
    keys = dict.fromkeys(key for choices in family for key in choices)
    columns = {key: [str(choices.get(key)) for choices in family] for key in keys}
    differ = {key: column for key, column in columns.items() if len(set(column)) > 1}
    first = {str(column): key for key, column in reversed(differ.items())}
    return {
        key: _format_choice(entry.choices[key])
        for key, column in differ.items()
        if key in entry.choices
        and first[str(column)] == key
        and not any(key.startswith(f"{name}.") and _follows(column, differ[name]) for name in differ)
    }


def _follows(column: Sequence[str], other: Sequence[str]) -> bool:
    """Return True if the values (n,) of one option determine the values of the other."""
    return len(set(zip(other, column, strict=True))) == len(set(other))


def _format_choice(value: Any) -> str:
    """Return an option as text; a list of steps is shortened to their class names."""
    if isinstance(value, list) and value and all(isinstance(step, dict) for step in value):
        return " ".join(str(step.get("_target_", step)).rpartition(".")[2] for step in value)
    return str(value)


def _letter(entry: Entry, entries: Sequence[Entry]) -> str:
    """Return a letter for the test rows and the kind of evaluation of an entry, with the number of rows."""
    letter = list(dict.fromkeys(other.rows for other in entries)).index(entry.rows)
    return f"{chr(ord('A') + letter) if letter < 26 else letter}: {len(entry.tables[0]['id']):,}"
