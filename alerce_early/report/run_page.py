"""Write the HTML page of a finished run, or of a predictions table from elsewhere."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from alerce_early import files
from alerce_early.artifacts.run_folder import Run
from alerce_early.data import splits
from alerce_early.evaluation import tables
from alerce_early.evaluation.kinds import Classification, choose_kind
from alerce_early.report import data_summary, figures, foreign_table, page, pictures, sections
from alerce_early.report.page import Section

BEST_OF = (
    "The epoch marked by the dotted line gave the checkpoint that is judged here. Training accuracy is that of the "
    "batches as they are drawn: balanced, augmented, under dropout."
)


@dataclass(frozen=True)
class ShownData:
    """What the page of a run shows of its data.

    Parameters
    ----------
    store : Path
        Folder of the store, which holds the pictures of `pictures.CAPTIONS`.
    meta : mapping
        Counts and facts of the store.
    sizes : mapping of str to mapping
        Labelled rows of each class in each part.
    left_out : mapping of str to int
        Rows of the classes that are in no group.
    stamps : callable
        Row numbers (n,) int64 to images (n, C, ...) float32 as the network sees them.
    """

    store: Path
    meta: Mapping[str, Any]
    sizes: Mapping[str, Mapping[str, int]]
    left_out: Mapping[str, int]
    stamps: Callable[[np.ndarray], np.ndarray]


def write_run_page(
    run: Run,
    config: DictConfig,
    predicted: tables.Table,
    result: Mapping[str, Any],
    data: ShownData,
    weights: Mapping[str, torch.Tensor],
) -> Path:
    """Draw the figures of a run and write its page.

    Parameters
    ----------
    run : Run
        Whose folder gets the page; its history and versions are there already.
    config : DictConfig
        The whole config.
    predicted : mapping of str to ndarray
        The predictions table over all splits.
    result : mapping
        The content of metrics.json.
    data : ShownData
        What to show of the data.
    weights : mapping of str to Tensor
        The state dict of the judged checkpoint.

    Returns
    -------
    Path
        The page.
    """
    split = result["judged"]
    table, judged = tables.select_judged(predicted, split), result[split]
    kind = choose_kind(table)
    drawn = _save(sections.draw(kind, judged, table), run.path)
    text = page.render(
        "sections.html",
        title=f"{config.model.name} on {config.data.name} data",
        subtitle=f"Data: {result['origin']}. Run {run.path.name}, seed {config.seed}.",
        headline=sections.headline(kind, judged),
        sections=[
            *sections.write(kind, judged, table, drawn, data.stamps),
            *([sections.write_baselines(result["baselines"], judged)] if result.get("baselines") else []),
            *sections.write_goal(judged),
            *([sections.write_posterior(result["posterior"])] if result.get("posterior") else []),
            *_show_pictures(run),
            *_learning(run, result, kind.curves),
            _data(data, config.data.split),
            _model(run, config, result, weights),
        ],
    )
    files.write_text(run.page, text)
    return run.page


def _learning(run: Run, result: Mapping[str, Any], scores: Sequence[str]) -> list[Section]:
    """Return the curves of a run; what was joined of several has none."""
    if not (history := run.history()):
        return []
    curves = pictures.save(figures.curves(history, result["best_epoch"], scores), run.path / "curves.png")
    cut_short = [f"Training was cut short: {result['stopped']}"] if result.get("stopped") else []
    caption = "Loss by step and by epoch, and scores of training and validation."
    return [Section("Learning", words=[*cut_short, BEST_OF], pictures=[(caption, curves)])]


def headline_text(result: Mapping[str, Any], predictions: tables.Table) -> str:
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


def _data(data: ShownData, split: Any) -> Section:
    meta, sizes = data.meta, data.sizes
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
            f"Data: {meta['origin']}. Store {data.store.name}.",
            splits.describe_split(**split),
            *([f"Left out, in no group: {left}."] if left else []),
        ],
        tables=[(("", "here", *published), read), (("rows", *splits.PARTS), parts)],
        pictures=[(caption, data.store / name) for name, caption in pictures.CAPTIONS.items()],
    )


def _model(run: Run, config: DictConfig, result: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> Section:
    facts = {
        "parameters": f"{result['parameters']:,}",
        "epochs": result["epochs"],
        "best epoch": result["best_epoch"],
        "training time": f"{result['training_seconds']:.0f} s",
        "seed": config.seed,
    }
    return Section(
        "Model",
        words=["Below: the whole config, and every weight of the checkpoint with its shape."],
        tables=[((), page.plain(facts)), ((), page.plain(run.read_json("versions.json")))],
        preformatted=f"{OmegaConf.to_yaml(config, resolve=True)}\n{_weights(weights)}",
    )


def _weights(weights: Mapping[str, torch.Tensor]) -> str:
    """Return one line per weight: its name, number of values and shape."""
    width = max(map(len, weights))
    return "\n".join(f"{name:{width}} {w.numel():>12,}  {' x '.join(map(str, w.shape))}" for name, w in weights.items())


def write_table_page(source: Path, folder: Path, labels: Path | None = None) -> tuple[Path, list[str]]:
    """Judge a table from elsewhere and write page, pictures and numbers into a folder.

    Returns the page's path and the notes of `foreign.read_with_notes`, which stand on the page as well.
    """
    table, constants, notes = foreign_table.read_with_notes(source, labels)
    kind = Classification()
    judged = kind.judge(table, constants)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = _save(sections.draw(kind, judged, table), folder)
    first, *rest = sections.write(kind, judged, table, drawn, images=None)
    first.words[1:1] = notes
    text = page.render(
        "sections.html",
        title=source.name,
        subtitle=f"{judged['n']:,} rows of {len(np.unique(tables.find_objects(table))):,} objects, classes "
        f"{', '.join(judged['classes'])}.",
        headline=sections.headline(kind, judged),
        sections=[first, *rest],
    )
    files.write_text(folder / "metrics.json", json.dumps(judged, indent=1))
    files.write_text(folder / "index.html", text)
    return folder / "index.html", notes
