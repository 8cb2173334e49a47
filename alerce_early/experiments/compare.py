"""Configs side by side, best first, as text, as CSV and as a page."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from markupsafe import Markup

from alerce_early.artifacts import predictions
from alerce_early.artifacts.run_folder import Run, flatten_config
from alerce_early.errors import InputError
from alerce_early.evaluation import comparison, tables
from alerce_early.evaluation.comparison import Outcome
from alerce_early.evaluation.kinds import Kind, choose_kind
from alerce_early.report import index_page, page, sections
from alerce_early.report.page import Section, number

NOT_A_CHOICE = {"seed", "data.split.fold"}  # may differ between runs of one entry
NUMBERS = 2  # of a kind's headline, in the table


@dataclass(frozen=True)
class Finished:
    """A finished run: its choices as dotted keys, what metrics.json holds, its seed and its fold, if it has one."""

    run: Run
    choices: Mapping[str, Any]
    result: Mapping[str, Any]
    seed: int
    fold: int | None

    @classmethod
    def read(cls, run: Run) -> "Finished":
        # the name of a group is the value of the group
        options = {key.removesuffix(".name"): value for key, value in flatten_config(run.config()).items()}
        choices = {key: value for key, value in options.items() if key not in NOT_A_CHOICE}
        fold = options.get("data.split.fold") if options.get("data.split.folds") else None
        return cls(run, choices, run.read_json("metrics.json"), options["seed"], fold)

    @cached_property
    def table(self) -> dict[str, np.ndarray]:
        """The rows it is judged on."""
        return tables.select_judged(predictions.read(self.run.predictions), self.result["judged"])


@dataclass(frozen=True, eq=False)
class Entry:
    """The runs of one config on one set of test rows; tables and values: one of each seed."""

    runs: Sequence[Finished]
    tables: Sequence[Mapping[str, np.ndarray]]
    values: Sequence[Mapping[str, float]]
    rows: str  # names test rows and kind of evaluation: two entries with the same one can be ranked and tested

    @property
    def choices(self) -> Mapping[str, Any]:
        return self.runs[0].choices

    @cached_property
    def kind(self) -> Kind:
        return choose_kind(self.tables[0])

    @cached_property
    def outcome(self) -> Outcome:
        return Outcome.of(self.tables)

    @property
    def words(self) -> dict[str, str]:
        """Name and wording of the numbers to show, the one that ranks among them."""
        known = [name for name in self.kind.words if name in self.values[0]]
        return {name: self.kind.words[name] for name in known[:NUMBERS]}

    @property
    def scores(self) -> list[float]:
        """What ranks, of each seed."""
        return [values[self.kind.ranked_by] for values in self.values]

    @property
    def order(self) -> float:
        """Sorts the best first."""
        return mean(self.scores) * (1 if self.kind.lower_is_better else -1)

    @property
    def interval(self) -> tuple[float, float]:
        low, high = self.outcome.interval()
        return (1 - high, 1 - low) if self.kind.lower_is_better else (low, high)

    @property
    def seconds(self) -> float:
        """Of training, the mean of a run."""
        return mean(run.result["training_seconds"] for run in self.runs)

    @property
    def inference(self) -> float | None:
        """Rows a second of the trained network, the mean of a run; None of runs that did not measure it."""
        rates = [run.result.get("judged_rows_per_second") for run in self.runs]
        return mean(rate for rate in rates if rate) if all(rates) else None

    def over_seeds(self, name: str) -> tuple[float, float | None]:
        """Mean and sample standard deviation of a number; None of a single seed."""
        values = [values[name] for values in self.values]
        return mean(values), stdev(values) if len(values) > 1 else None


def find(paths: Iterable[str]) -> tuple[list[Finished], list[Path]]:
    """Return the finished runs in these folders, and the folders of runs that have not finished.

    Raises InputError for a path without a run in it.
    """
    finished, unfinished = [], []
    for path in map(Path, paths):
        runs = sorted(file.parent for file in path.rglob("config.yaml"))
        if not runs:
            raise InputError(f"{path} holds no run: there is no config.yaml in it or below.")
        for folder in runs:
            if (run := Run(folder)).finished:
                finished.append(Finished.read(run))
            else:
                unfinished.append(folder)
    return finished, unfinished


def join(finished: Iterable[Finished]) -> tuple[list[Entry], list[str]]:
    """Return the entries, those on the same rows together and the best of these first; and what was left out, in words.

    The folds of a seed are judged as one table; a seed that lacks one is left out, and so is a second run of the
    same config, seed and fold.
    """
    by_seed: dict[tuple[str, int], dict[int | None, Finished]] = {}
    said = []
    for run in finished:
        # null is no choice: runs of before a key was there lack it
        chosen = str(sorted((item for item in run.choices.items() if item[1] is not None), key=str))
        folds = by_seed.setdefault((chosen, run.seed), {})
        if run.fold in folds:
            said.append(f"{run.run.path} repeats {folds[run.fold].run.path} and is left out.")
        folds.setdefault(run.fold, run)
    groups: dict[tuple[str, str], list[tuple[list[Finished], dict[str, np.ndarray]]]] = {}
    for (choices, seed), folds in by_seed.items():
        runs = list(folds.values())
        # of what is joined from all folds, one run has them all
        wanted = 1 if None in folds else runs[0].choices.get("data.split.folds") or 1
        if len(runs) < wanted:
            said.append(f"{runs[0].choices['model']}, seed {seed}: {len(runs)} of {wanted} folds; left out.")
            continue
        table = tables.join_tables([run.table for run in runs])
        groups.setdefault((choices, _rows(table, runs[0].result["origin"])), []).append((runs, table))
    entries = [
        Entry(
            [run for runs, _ in seeds for run in runs], [table for _, table in seeds], list(map(_values, seeds)), rows
        )
        for (_, rows), seeds in groups.items()
    ]
    first = {rows: i for i, rows in reversed(list(enumerate(entry.rows for entry in entries)))}
    return sorted(entries, key=lambda entry: (first[entry.rows], entry.order)), said


def _values(seed: tuple[list[Finished], Mapping[str, np.ndarray]]) -> Mapping[str, float]:
    (run, *more), table = seed
    judged = choose_kind(table).judge(table) if more else run.result[run.result["judged"]]
    return judged["values"]


def _rows(table: Mapping[str, np.ndarray], origin: str) -> str:
    """Return a name for these rows of this data under these labels, in any order, and for how they are judged."""
    lines = sorted(zip(table["id"].tolist(), table["row"].tolist(), table["label"].tolist(), strict=True))
    return sha256(repr((choose_kind(table).name, origin, lines)).encode()).hexdigest()


READ_AS = (
    "n: seeds, the folds of a seed judged as one table; +-: standard deviation over seeds. Brackets: 95 % interval of "
    "what ranks, by which objects the test rows hold. Against the best, on the same test rows: a bootstrap over "
    "objects of the difference in what ranks, and, where each row is another object, McNemar's exact test of which is "
    "right on more rows; then Welch's t-test over seeds. p is not corrected for how many configs were tried."
)


def write_index(folder: Path) -> Path:
    """Write the page of all runs in a folder, the last one first; raises InputError where there is none."""
    finished, unfinished = find([str(folder)])
    last_first = sorted(finished, key=lambda run: run.run.predictions.stat().st_mtime)[::-1]
    return index_page.write_index(folder, [_describe_run(run, folder) for run in last_first], unfinished)


def _describe_run(run: Finished, folder: Path) -> dict[str, str]:
    """Return the cells of a run in the index of a folder, by column."""
    judged = run.result[run.result["judged"]]
    return {
        "run": page.link(run.run.page, str(run.run.path.relative_to(folder)), folder),
        "model": str(run.choices["model"]),
        "data": str(run.choices["data"]),
        "seed": str(run.seed),
        **dict(sections.headline(choose_kind(run.table), judged)),
        "rows": f"{judged['n']:,}",
        "training": f"{run.result['training_seconds']:,.0f} s",
    }


def rank(entries: Sequence[Entry]) -> list[list[str]]:
    """Header and one row per config, best first: the model and what else sets it apart, mean +- sd over its n seeds."""
    header = ["system", "apart by", "result here", "95 % interval", "n", "against the best"]
    rows = []
    for entry, best in zip(entries, _bests(entries), strict=True):
        rows.append(
            [
                str(entry.choices["model"]),
                " ".join(f"{key}={value}" for key, value in _find_choices(entry, entries).items()),
                ", ".join(_over_seeds(entry, name) for name in entry.words),
                number(mean(entry.scores), entry.interval),
                _n(entry),
                _against(entry, best),
                f"{entry.runs[0].result['parameters']:,}",
                f"{entry.seconds:.0f} s",
                f"{entry.inference:,.0f} rows/s" if entry.inference else "",
                str(entry.choices.get("model.published", "")),
                _letter(entry, entries),
            ]
        )
    return [[*header, "parameters", "training", "inference", "published", "test rows"], *rows]


def notes(entries: Sequence[Entry]) -> list[str]:
    """Return what a reader must know before comparing rows of the table."""
    letters = list(dict.fromkeys(_letter(entry, entries) for entry in entries))
    without_images = [
        sentence for best in dict.fromkeys(_bests(entries)) if (sentence := _without_images(best, entries))
    ]
    if len(letters) == 1:
        return without_images
    return [
        f"Judged on different test rows, or by a different kind of evaluation ({', '.join(letters)}): configs of "
        "different letters are not ranked against each other, and no test compares them.",
        *without_images,
    ]


def _without_images(best: Entry, entries: Sequence[Entry]) -> str:
    """Return what the baselines reach on the same rows, so that a reader sees what the images bought."""
    metric = best.kind.ranked_by
    runs = [run.result.get("baselines", {}) for entry in entries if entry.rows == best.rows for run in entry.runs]
    reached = {
        words: [run[key]["values"][metric] for run in runs if key in run and metric in run[key].get("values", {})]
        for key, words in (("metadata", "a random forest on the metadata alone"), ("majority", "the majority class"))
    }
    baselines = [f"{words} {mean(values):.3f}" for words, values in reached.items() if values]
    if not baselines:
        return ""
    what = best.kind.words[metric]
    return f"Without the images, {what} on {_letter(best, entries)}: {', '.join(baselines)} (mean over runs)."


def text(rows: list[list[str]]) -> str:
    """Rows as a table in columns; a column without entries is left out."""
    kept = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in kept}
    return "\n".join("  ".join(row[i].ljust(widths[i]) for i in kept).rstrip() for row in rows)


def as_csv(entries: Sequence[Entry]) -> str:
    """One line per config, each number in a column of its own."""
    lines: list[dict[str, Any]] = []
    for entry, best in zip(entries, _bests(entries), strict=True):
        found = comparison.compare_paired(best.outcome, entry.outcome) if entry is not best else {}
        spreads = {key: entry.over_seeds(key) for key in entry.words}
        lines.append(
            {
                "system": entry.choices["model"],
                "apart_by": "; ".join(f"{key}={value}" for key, value in _find_choices(entry, entries).items()),
                "parameters": entry.runs[0].result["parameters"],
                **{f"{key}_mean": average for key, (average, _) in spreads.items()},
                **{f"{key}_sd": spread for key, (_, spread) in spreads.items()},
                "ranked_by": entry.kind.ranked_by,
                **dict(zip(("low", "high"), entry.interval, strict=True)),
                "seeds": len(entry.values),
                "runs": len(entry.runs),
                "training_seconds": round(entry.seconds, 2),
                "inference_rows_per_second": entry.inference and round(entry.inference, 1),
                "bootstrap_p": found.get(comparison.BOOTSTRAP),
                "mcnemar_p": found.get(comparison.MCNEMAR),
                "welch_p": comparison.welch(best.scores, entry.scores) if entry is not best else None,
                "test_rows": _letter(entry, entries),
            }
        )
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def as_html(entries: Sequence[Entry], said: Sequence[str], folder: Path) -> str:
    """Return the table as a page in a folder, with links to the pages of the runs."""
    header, *rows = rank(entries)
    header.insert(1, "pages")
    for row, entry in zip(rows, entries, strict=True):
        row.insert(
            1,
            Markup(" ").join(page.link(run.run.page, str(number), folder) for number, run in enumerate(entry.runs, 1)),
        )
    kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
    return page.render(
        title="Comparison",
        subtitle=f"{len(entries)} configs, {sum(len(entry.runs) for entry in entries)} runs.",
        headline=[],
        sections=[
            Section(
                "Leaderboard",
                words=[*notes(entries), *said, READ_AS],
                tables=[([header[i] for i in kept], [[row[i] for i in kept] for row in rows])],
            )
        ],
    )


def _bests(entries: Sequence[Entry]) -> list[Entry]:
    """For each entry the best on its test rows; entries are sorted so."""
    first: dict[str, Entry] = {}
    return [first.setdefault(entry.rows, entry) for entry in entries]


def _against(entry: Entry, best: Entry) -> str:
    if entry is best:
        return ""
    found = comparison.compare_paired(best.outcome, entry.outcome)
    tests: dict[str, float | None] = {best.kind.words[best.kind.ranked_by]: found.pop(comparison.BOOTSTRAP), **found}
    tests["over seeds (Welch)"] = comparison.welch(best.scores, entry.scores)
    return "; ".join(f"{name}: {comparison.verdict(p)}" for name, p in tests.items() if p is not None)


def _find_choices(entry: Entry, entries: Sequence[Entry]) -> dict[str, str]:
    """Return the choices that set an entry apart from the others of its model, as they are typed.

    A name stands for what it always brings, and of keys that say the same the first is named.
    """
    model = entry.choices["model"]
    family = [other.choices for other in entries if other.choices["model"] == model]
    keys = dict.fromkeys(key for choices in family for key in choices)
    columns = {key: [str(choices.get(key)) for choices in family] for key in keys}
    differ = {key: column for key, column in columns.items() if len(set(column)) > 1}
    first = {str(column): key for key, column in reversed(differ.items())}
    return {
        key: _short(entry.choices[key])
        for key, column in differ.items()
        if key in entry.choices
        and first[str(column)] == key
        and not any(key.startswith(f"{name}.") and _follows(column, differ[name]) for name in differ)
    }


def _follows(column: Sequence[str], other: Sequence[str]) -> bool:
    """Whether who knows the values (n,) of another option knows those (n,) of this one."""
    return len(set(zip(other, column, strict=True))) == len(set(other))


def _short(value: Any) -> str:
    """Return a choice in few words: of steps only the classes."""
    if isinstance(value, list) and value and all(isinstance(step, dict) for step in value):
        return " ".join(_last(str(step.get("_target_", step))) for step in value)
    return str(value)


def _letter(entry: Entry, entries: Sequence[Entry]) -> str:
    """Return a letter for the test rows and the kind of evaluation of an entry, and how many rows there are."""
    letter = list(dict.fromkeys(other.rows for other in entries)).index(entry.rows)
    return f"{chr(ord('A') + letter) if letter < 26 else letter}: {len(entry.tables[0]['id']):,}"


def _n(entry: Entry) -> str:
    folds = entry.choices.get("data.split.folds")
    return f"{len(entry.values)} x {folds} folds" if folds else str(len(entry.values))


def _over_seeds(entry: Entry, name: str) -> str:
    average, spread = entry.over_seeds(name)
    return f"{entry.words[name]} {average:.3f}" + (f" +- {spread:.3f}" if spread is not None else "")


def _last(key: str) -> str:
    return key.rpartition(".")[2]
