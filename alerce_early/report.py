"""Write the HTML page of a finished run again: `python -m alerce_early.report RUN`."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from alerce_early import baseline
from alerce_early.configs import data_of
from alerce_early.data import pictures, splits, summary
from alerce_early.data.module import AlertData
from alerce_early.data.recipe import Recipe
from alerce_early.errors import at_the_door
from alerce_early.evaluation import figures, page
from alerce_early.evaluation import table as tables
from alerce_early.evaluation.kinds import kind_of
from alerce_early.evaluation.page import Section
from alerce_early.runs import Run, write_text

BEST_OF = "The epoch marked by the dotted line gave the checkpoint that is judged here."


def write(run: Run, data: AlertData, result: dict[str, Any]) -> Path:
    """Draw the figures of a run and write its page; returns the page's path.

    result: what metrics.json holds.
    """
    split = result["judged"]
    table, judged = tables.labelled(tables.part(tables.read(run.predictions), split)), result[split]
    kind = kind_of(table)
    drawn = kind.pictures(judged, table)
    curves = figures.curves(run.history(), result["best_epoch"], kind.CURVES)
    for name, figure in {**drawn, "curves": curves}.items():
        pictures.save(figure, run.path / f"{name}.png")

    config = run.config()
    recipe = Recipe(data.spec.recipe, data.spec.margin)
    cut_short = [f"Training was cut short: {result['stopped']}"] if result["stopped"] else []
    text = page.render(
        title=f"{config.model.name} on {config.data.name} data",
        subtitle=f"Data: {result['origin']}. Run {run.path.name}, seed {config.seed}.",
        headline=kind.headline(judged),
        sections=[
            *kind.sections(judged, table, drawn, lambda rows: _finished(recipe, data.store.images[rows])),
            *([baseline.section(result["baselines"], judged)] if result.get("baselines") else []),
            Section("Learning", words=[*cut_short, BEST_OF], pictures=[("Loss and scores by epoch.", curves)]),
            _data(data, config.split),
            _model(run, result),
        ],
    )
    write_text(run.page, text)
    return run.page


def headline_text(result: dict[str, Any], predictions: tables.Table) -> str:
    """The result in a few lines for the log."""
    split = result["judged"]
    numbers = kind_of(predictions).headline(result[split])
    return "\n".join(
        [f"{split} split of {result[split]['n']} rows, 95 % intervals:"]
        + [f"  {name:20} {value}" for name, value in numbers]
    )


def _data(data: AlertData, split: Any) -> Section:
    meta, sizes = data.store.meta, data.part_sizes()
    published = ["published"] if summary.is_published_file(meta) else []
    read = [
        [name, f"{here:,}", *(["" if there is None else f"{there:,}"] if published else [])]
        for name, here, there in summary.lines(meta)
    ]
    parts = [[name, *[f"{sizes[part][name]:,}" for part in splits.PARTS]] for name in sizes["test"]]
    return Section(
        "Data",
        words=[
            f"Data: {meta['origin']}. Store {data.store.path.name}.",
            splits.told(**split),
        ],
        tables=[(("", "here", *published), read), (("rows", *splits.PARTS), parts)],
        pictures=[(caption, data.store.path / name) for name, caption in pictures.CAPTIONS.items()],
    )


def _model(run: Run, result: dict[str, Any]) -> Section:
    facts = {
        "parameters": f"{result['parameters']:,}",
        "epochs": result["epochs"],
        "best epoch": result["best_epoch"],
        "training time": f"{result['training_seconds']:.0f} s",
    }
    return Section(
        "Model",
        tables=[((), page.plain(facts)), ((), page.plain(run.read_json("versions.json")))],
        preformatted=OmegaConf.to_yaml(run.config()),
    )


def _finished(recipe: Recipe, stored: np.ndarray) -> np.ndarray:
    """Stored stamps (n, C, S, S) as the net sees them."""
    return recipe.finish(torch.from_numpy(np.array(stored))).numpy()


@at_the_door
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m alerce_early.report", description=__doc__)
    parser.add_argument("run", help="a run folder")
    run = Run.find(parser.parse_args().run)
    print(write(run, data_of(run.config()), run.read_json("metrics.json")))


if __name__ == "__main__":
    main()
