"""Runs side by side, seeds of one config as one row: `python -m alerce_early.compare RUN RUN ... | SWEEP`."""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from omegaconf import OmegaConf

from alerce_early.errors import InputError, at_the_door
from alerce_early.evaluation import table as tables
from alerce_early.evaluation.kinds import kind_of
from alerce_early.runs import Run

# What may differ between runs of one row: the seed, and where things lie.
NOT_A_CHOICE = ("seed", "outputs", "name", "hydra")
NUMBERS = 2  # of a kind's headline, in the table


@dataclass(frozen=True)
class Finished:
    """A finished run: its folder, its choices as dotted keys, what metrics.json holds and its headline names."""

    run: Run
    choices: Mapping[str, Any]
    result: Mapping[str, Any]
    words: Mapping[str, str]

    @classmethod
    def read(cls, run: Run) -> "Finished":
        config = run.config()
        choices = {
            key: value for key, value in _flat(OmegaConf.to_container(config)) if _first(key) not in NOT_A_CHOICE
        }
        result = run.read_json("metrics.json")
        words = kind_of(tables.read(run.predictions)).WORDS
        known = [(name, told) for name, told in words.items() if name in result[result["judged"]]["values"]]
        return cls(run, choices, result, dict(known[:NUMBERS]))

    @property
    def judged(self) -> Mapping[str, Any]:
        return self.result[self.result["judged"]]


def find(paths: Iterable[str]) -> tuple[list[Finished], list[Path]]:
    """The finished runs in these folders, and the folders of runs that have not finished.

    Raises InputError for a path without a run in it.
    """
    finished, unfinished = [], []
    for path in map(Path, paths):
        runs = sorted(file.parent for file in path.rglob("config.yaml"))
        if not runs:
            raise InputError(f"{path} holds no run: there is no config.yaml in it or below.")
        for folder in runs:
            if (folder / "metrics.json").exists():
                finished.append(Finished.read(Run(folder)))
            else:
                unfinished.append(folder)
    return finished, unfinished


def leaderboard(finished: Iterable[Finished]) -> list[list[str]]:
    """Header and one row a config: the model and what else sets it apart, numbers as mean +- sd over its n seeds."""
    groups: dict[str, list[Finished]] = {}
    for run in finished:
        groups.setdefault(str(sorted(run.choices.items(), key=str)), []).append(run)
    rows = [["system", "apart by", "parameters", "published", "result here", "n", "training"]]
    for runs in groups.values():
        first = runs[0]
        model = first.choices["model.name"]
        family = [group[0].choices for group in groups.values() if group[0].choices["model.name"] == model]
        apart = [k for k in first.choices if len({str(other.get(k)) for other in family}) > 1]
        seconds = mean(run.result["training_seconds"] for run in runs)
        rows.append(
            [
                str(model),
                " ".join(f"{_last(k)}={first.choices[k]}" for k in apart),
                f"{first.result['parameters']:,}",
                str(first.choices.get("model.published", "")),
                ", ".join(_over_seeds(name, told, runs) for name, told in first.words.items()),
                str(len(runs)),
                f"{seconds:.0f} s",
            ]
        )
    return rows


def text(rows: list[list[str]]) -> str:
    """Rows as a table in columns; a column without entries is left out."""
    kept = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in kept}
    return "\n".join("  ".join(row[i].ljust(widths[i]) for i in kept).rstrip() for row in rows)


def _over_seeds(name: str, told: str, runs: list[Finished]) -> str:
    values = [run.judged["values"][name] for run in runs]
    spread = f" +- {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{told} {mean(values):.3f}{spread}"


def _flat(node: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested dicts as dotted keys; lists count as values."""
    if not isinstance(node, dict):
        yield prefix, node
        return
    for key, value in node.items():
        yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))


def _first(key: str) -> str:
    return key.partition(".")[0]


def _last(key: str) -> str:
    return key.rpartition(".")[2]


@at_the_door
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m alerce_early.compare", description=__doc__)
    parser.add_argument("folder", nargs="+", help="a run folder, or one with runs below it")
    finished, unfinished = find(parser.parse_args().folder)
    if finished:
        print(text(leaderboard(finished)))
    for folder in unfinished:
        print(f"not finished: {folder}")


if __name__ == "__main__":
    main()
