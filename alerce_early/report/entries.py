"""Finished runs, joined to one entry per config: its seeds side by side, the folds of a seed as one table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from alerce_early.artifacts import predictions
from alerce_early.artifacts.run_folder import Run, flatten_config
from alerce_early.errors import InputError
from alerce_early.evaluation import tables
from alerce_early.evaluation.comparison import Outcome
from alerce_early.evaluation.kinds import Kind, choose_kind

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
