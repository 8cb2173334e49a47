"""Write the HTML page of a finished run, or of any classifier's predictions table."""

import json
import os
from collections.abc import Mapping
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
from alerce_early.evaluation.metrics import TARGET
from alerce_early.report import data_summary, figures, foreign_table, page, pictures, sections

N_EXAMPLES = 2  # stamps per class


@dataclass(frozen=True)
class ShownData:
    """The data that the page of a run shows.

    Parameters
    ----------
    store : str
        Name of the data store.
    meta : mapping
        Metadata of the store, such as row counts.
    sizes : mapping of str to mapping
        Labelled rows of each class, by part.
    left_out : mapping of str to int
        Rows of the classes that are in no group.
    images : Images
        Preprocessed images of the rows.
    examples : tuple of ndarray
        Row numbers (n,) int64 of some rows, their classes (n,) str, and their raw images (n, H, W, C).
    """

    store: str
    meta: Mapping[str, Any]
    sizes: Mapping[str, Mapping[str, int]]
    left_out: Mapping[str, int]
    images: sections.Images
    examples: tuple[np.ndarray, np.ndarray, np.ndarray]


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
        The run, with its history and versions written; the page goes into its folder.
    config : DictConfig
        The whole configuration.
    predicted : mapping of str to ndarray
        The predictions table over all splits.
    result : mapping
        The content of metrics.json.
    data : ShownData
        What to show of the data.
    weights : mapping of str to Tensor
        State dict of the evaluated checkpoint.

    Returns
    -------
    Path
        Path of the page.
    """
    split = result["judged"]
    table, judged = tables.select_judged(predicted, split), result[split]
    kind = choose_kind(table, result.get("target_class", TARGET))
    drawn = sections.draw(kind, judged, table)
    if history := run.history():  # empty for an ensemble
        drawn |= figures.curves(history, result["best_epoch"], kind.curves, judged.get("classes", ()))
    text = page.render(
        "run.html",
        **sections.describe(kind, judged, table, data.images),
        drawn=_save(drawn, run.path),
        notes=[],
        index=find_index(run),
        run=run,
        config=config,
        config_text=OmegaConf.to_yaml(config, resolve=True),
        result={"stopped": None, "baselines": None, "posterior": None, **result},
        data=data,
        counts=data_summary.list_counts(data.meta),
        examples=_encode_examples(data),
        published=data_summary.is_published_file(data.meta),
        split_words=splits.describe_split(**config.data.split),
        outputs={file.stem: file for file in sorted(run.pictures.glob("*.[ps][nv]g"))},
        versions=run.read_json("versions.json"),
        weights=weights,
    )
    files.write_text(run.page, text)
    return run.page


def headline_text(result: Mapping[str, Any], predictions: tables.Table) -> str:
    """Format the main results for the log.

    Parameters
    ----------
    result : mapping
        The content of metrics.json.
    predictions : mapping of str to ndarray
        The predictions table.
    """
    split = result["judged"]
    numbers = sections.headline(choose_kind(predictions, result.get("target_class", TARGET)), result[split])
    return "\n".join(
        [f"{split} split of {result[split]['n']} rows, 95 % intervals:"]
        + [f"  {name:20} {value}" for name, value in numbers]
    )


def find_index(run: Run) -> str | None:
    """Find the index of all runs in a folder above a run; return its link relative to the run's page, or None."""
    above = (folder / "index.html" for folder in run.path.absolute().parents)
    found = next((file for file in above if file.exists() and page.INDEX in file.read_text(errors="replace")), None)
    return Path(os.path.relpath(found, run.page.parent.absolute())).as_posix() if found else None


def _encode_examples(data: ShownData) -> dict[str, list[list[Any]]]:
    """Encode examples of each class, raw and preprocessed, in the form of `Images.encode`."""
    rows, labels, raw = data.examples
    read = sections.Images(lambda rows: np.moveaxis(raw[rows], -1, 1), data.meta["channels"])
    shown: dict[str, list[list[Any]]] = {}
    for i, (row, label) in enumerate(zip(rows, labels.tolist(), strict=True)):
        if len(shown.setdefault(label, [])) < N_EXAMPLES:
            (before,), (after,) = read.encode(np.array([i])), data.images.encode(np.array([row]))
            shown[label].append([*(("as read", *rest) for _, *rest in before), *after])
    return shown


def _save(drawn: Mapping[str, Figure], folder: Path) -> dict[str, Path]:
    """Save figures as SVG and return their paths."""
    return {name: pictures.save(figure, folder / f"{name}.svg") for name, figure in drawn.items()}


def write_table_page(
    source: Path, folder: Path, labels: Path | None = None, target: str = TARGET, classifier: str | None = None
) -> tuple[Path, list[str]]:
    """Evaluate a table of any classifier, and write its page, figures and metrics.json.

    Parameters
    ----------
    source : Path
        Predictions, see `foreign_table.read_with_notes`.
    folder : Path
        Folder to write into; it is created.
    labels : Path, optional
        Table of labels.
    target : str
        Class with operating points.
    classifier : str, optional
        Which classifier of ALeRCE's table of probabilities to evaluate, see `foreign_table.pivot`.

    Returns
    -------
    page : Path
        Path of the page.
    notes : list of str
        Sentences on labels, excluded rows and the purity of randomly drawn rows, which the page shows, too.

    Raises
    ------
    InputError
        If the table or its labels are invalid.
    """
    table, constants, notes = foreign_table.read_with_notes(source, labels, target, classifier)
    kind = Classification(target)
    judged = kind.judge(table, constants)
    if purity := judged.get("screening", {}).get("shares", {}).get("purity"):
        of, drawn = judged["screening"]["of"], judged["screening"]["n"]
        value = page.number(purity["value"], purity["interval"])
        notes.append(f"{of} purity {value} of {purity['n']:,} alerts classified as {of}, of {drawn:,} drawn at random.")
    folder.mkdir(parents=True, exist_ok=True)
    text = page.render(
        "table.html",
        **sections.describe(kind, judged, table),
        drawn=_save(sections.draw(kind, judged, table), folder),
        notes=notes,
        title=source.name,
    )
    files.write_text(folder / "metrics.json", json.dumps(judged, indent=1))
    files.write_text(folder / "index.html", text)
    return folder / "index.html", notes
