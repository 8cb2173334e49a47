"""Write the HTML page of a finished run, or of a predictions table from elsewhere."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from alerce_early import files
from alerce_early.artifacts import checkpoints
from alerce_early.artifacts import predictions as predictions_io
from alerce_early.artifacts.run_folder import Run
from alerce_early.data import splits
from alerce_early.data.datamodule import AlertData
from alerce_early.data.recipe import Recipe
from alerce_early.evaluation import tables
from alerce_early.evaluation.kinds import Classification, choose_kind
from alerce_early.report import data_summary, figures, foreign_table, page, pictures, sections
from alerce_early.report.page import Section

BEST_OF = (
    "The epoch marked by the dotted line gave the checkpoint that is judged here. Training accuracy is that of the "
    "batches as they are drawn: balanced, augmented, under dropout."
)


def write_run_page(run: Run, data: AlertData, result: dict[str, Any]) -> Path:
    """Draw the figures of a run and write its page; returns the page's path.

    result: what metrics.json holds.
    """
    split = result["judged"]
    table, judged = (
        tables.keep_labelled(tables.select_split(predictions_io.read(run.predictions), split)),
        result[split],
    )
    kind = choose_kind(table)
    drawn = _save(sections.draw(kind, judged, table), run.path)
    config = run.config()
    recipe = Recipe(data.spec.recipe, data.spec.margin)
    text = page.render(
        title=f"{config.model.name} on {config.data.name} data",
        subtitle=f"Data: {result['origin']}. Run {run.path.name}, seed {config.seed}.",
        headline=sections.headline(kind, judged),
        sections=[
            *sections.write(kind, judged, table, drawn, lambda rows: _finish_stamps(recipe, data.store.images[rows])),
            *([sections.write_baselines(result["baselines"], judged)] if result.get("baselines") else []),
            *sections.write_goal(judged),
            *([sections.write_posterior(result["posterior"])] if result.get("posterior") else []),
            *_show_pictures(run),
            *_learning(run, result, kind.curves),
            _data(data, config.data.split),
            _model(run, result),
        ],
    )
    files.write_text(run.page, text)
    return run.page


def _learning(run: Run, result: dict[str, Any], scores: Sequence[str]) -> list[Section]:
    """Return the curves of a run; what was joined of several has none."""
    if not (history := run.history()):
        return []
    curves = pictures.save(figures.curves(history, result["best_epoch"], scores), run.path / "curves.png")
    cut_short = [f"Training was cut short: {result['stopped']}"] if result.get("stopped") else []
    caption = "Loss by step and by epoch, and scores of training and validation."
    return [Section("Learning", words=[*cut_short, BEST_OF], pictures=[(caption, curves)])]


def headline_text(result: dict[str, Any], predictions: tables.Table) -> str:
    """Return the result in a few lines for the log."""
    split = result["judged"]
    numbers = sections.headline(choose_kind(predictions), result[split])
    return "\n".join(
        [f"{split} split of {result[split]['n']} rows, 95 % intervals:"]
        + [f"  {name:20} {value}" for name, value in numbers]
    )


def _save(drawn: Mapping[str, Figure], folder: Path) -> dict[str, Path]:
    return {name: pictures.save(figure, folder / f"{name}.png") for name, figure in drawn.items()}


def _show_pictures(run: Run) -> list[Section]:
    """Return what the task drew at the end of training, if anything."""
    found = sorted(run.pictures.glob("*.png"))
    return (
        [Section("What the network makes of it", pictures=[(f"{file.stem}.", file) for file in found])] if found else []
    )


def _data(data: AlertData, split: Any) -> Section:
    meta, sizes = data.store.meta, data.part_sizes()
    published = ["published"] if data_summary.is_published_file(meta) else []
    read = [
        [name, f"{here:,}", *(["" if there is None else f"{there:,}"] if published else [])]
        for name, here, there in data_summary.list_counts(meta)
    ]
    left = ", ".join(f"{count:,} {name}" for name, count in data.left_out.items())
    parts = [[name, *[f"{sizes[part][name]:,}" for part in splits.PARTS]] for name in sizes["test"]]
    return Section(
        "Data",
        words=[
            f"Data: {meta['origin']}. Store {data.store.path.name}.",
            splits.describe_split(**split),
            *([f"Left out, in no group: {left}."] if left else []),
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
        "seed": run.config().seed,
    }
    return Section(
        "Model",
        words=["Below: the whole config, and every weight of the checkpoint with its shape."],
        tables=[((), page.plain(facts)), ((), page.plain(run.read_json("versions.json")))],
        preformatted=f"{OmegaConf.to_yaml(run.config())}\n{_weights(run)}",
    )


def _weights(run: Run) -> str:
    """One line per weight: its name, number of values and shape."""
    weights = checkpoints.read(run.best)["state_dict"]
    width = max(map(len, weights))
    return "\n".join(f"{name:{width}} {w.numel():>12,}  {' x '.join(map(str, w.shape))}" for name, w in weights.items())


def _finish_stamps(recipe: Recipe, stored: np.ndarray) -> np.ndarray:
    """Return stored stamps (n, C, S, S) as the net sees them."""
    return recipe.finish(torch.from_numpy(np.array(stored))).numpy()


def write_table_page(source: Path, folder: Path, labels: Path | None = None) -> tuple[Path, list[str]]:
    """Judge a table from elsewhere and write page, pictures and numbers into a folder.

    Returns the page's path and the notes of `foreign.read_with_notes`, which stand on the page as well.
    """
    table, notes = foreign_table.read_with_notes(source, labels)
    kind = Classification()
    judged = kind.judge(table)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = _save(sections.draw(kind, judged, table), folder)
    first, *rest = sections.write(kind, judged, table, drawn, images=None)
    first.words[1:1] = notes
    text = page.render(
        title=source.name,
        subtitle=f"{judged['n']:,} rows of {len(np.unique(tables.find_objects(table))):,} objects, classes "
        f"{', '.join(judged['classes'])}.",
        headline=sections.headline(kind, judged),
        sections=[first, *rest],
    )
    files.write_text(folder / "metrics.json", json.dumps(judged, indent=1))
    files.write_text(folder / "index.html", text)
    return folder / "index.html", notes
