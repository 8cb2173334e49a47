"""Small configs, specs, stamps and pages that many tests need."""

import re
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from omegaconf import DictConfig
from pyarrow import parquet

from alerce_early.data.spec import DataSpec
from alerce_early.evaluation import tables
from alerce_early.evaluation.kinds import NO_CONSTANTS, Classification
from alerce_early.experiments.config import compose_config
from alerce_early.experiments.run import train
from alerce_early.report import page, sections

CHECKOUT = Path(__file__).parents[2]
TWO_COLUMNS = ("trainer.max_epochs=1", "features.names=[fwhm,ndethist]")


def quick_config(stamps_file: Path, outputs: Path, *overrides: str) -> DictConfig:
    """Compose a config of two epochs of three batches on a stamps file."""
    return compose_config(
        "data=alerce",
        f"data.path={stamps_file}",
        f"outputs={outputs}",
        "model=preliminary_cnn",
        "recipe=minmax",
        "trainer.max_epochs=2",
        "data.batches_per_epoch=3",
        "data.batch_size=16",
        *overrides,
    )


class TrainingFinishedError(Exception):
    """Raised after training, to skip prediction, evaluation and the report."""


class StopAfterTraining(Callback):
    """Raise `TrainingFinishedError` when training ends."""

    def on_fit_end(self, *_: object) -> None:
        """Raise `TrainingFinishedError`."""
        raise TrainingFinishedError


def trained_weights(config: DictConfig, folder: Path) -> dict[str, torch.Tensor]:
    """Train without evaluation and return the last weights."""
    with pytest.raises(TrainingFinishedError):
        train(config, folder, StopAfterTraining())
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def spec(features: tuple[str, ...] = (), **facts: Any) -> DataSpec:
    """Return the spec of a small set of stamps, with some fields replaced."""
    usual: dict[str, Any] = {
        **{"kind": "stamps", "shape": (3, 21, 21), "classes": ("a", "b", "c"), "recipe": (), "margin": 0},
        **{"n_train": 100, "fingerprint": "", "origin": "a test"},
        **{"feature_mean": tuple(100.0 + i for i in range(len(features))), "feature_std": (10.0,) * len(features)},
    }
    return DataSpec(features=features, **usual | facts)


class Section(NamedTuple):
    """Content of a section of a page.

    Attributes
    ----------
    title : str
        Heading.
    words : list of str
        Paragraphs.
    tables : list of (tuple of str, list of list of str)
        Header and rows of each table.
    pictures : list of str
        Captions of the figures.
    """

    title: str
    words: list[str]
    tables: list[tuple[tuple[str, ...], list[list[str]]]]
    pictures: list[str]


def sections_of(html: str) -> list[Section]:
    """Parse the sections of a page or of a fragment."""
    root = ElementTree.fromstring(f"<page>{''.join(re.findall('<section>.*?</section>', html, re.S))}</page>")

    def find(part: ElementTree.Element, *tags: str) -> list[str]:
        return ["".join(one.itertext()) for one in part.iter() if one.tag in tags]

    return [
        Section(
            find(section, "h2")[0],
            [" ".join(words.split()) for words in find(section, "p")],
            [(tuple(find(t, "th")), [find(row, "td") for row in t.findall("tbody/tr")]) for t in section.iter("table")],
            find(section, "figcaption"),
        )
        for section in root
    ]


def page_of(
    table: dict[str, np.ndarray], title: str, constants: tables.Constants = NO_CONSTANTS
) -> tuple[dict[str, Figure], Section]:
    """Evaluate and render a table of classifications.

    Parameters
    ----------
    table : dict of str to ndarray
        Predictions: `label` and `p_<class>`, and more columns if the section needs them.
    title : str
        Title of the section to return.
    constants : Constants, optional
        Constants of the network, such as its thresholds.

    Returns
    -------
    figures : dict of str to Figure
        Figures of the page by name.
    section : Section
        The section with this title.
    """
    kind = Classification()
    names = [name.removeprefix("p_") for name in table if name.startswith("p_")]
    predicted = np.array(names)[np.stack([table[f"p_{name}"] for name in names], 1).argmax(1)]
    table = {"predicted": predicted, "split": np.full(len(predicted), "test")} | table
    drawn = sections.draw(kind, judged := kind.judge(table, constants), table)
    files = dict.fromkeys(
        drawn, Path(page.__file__).with_name("example.png")
    )  # a placeholder, because drawing takes seconds
    content = sections.describe(kind, judged, table) | {"drawn": files, "notes": []}
    html = "".join(page.render(name, **content) for name in ("classification.html", "classification_more.html"))
    return drawn, next(section for section in sections_of(html) if section.title == title)


def stamp(value: float = 0.0, height: int = 63, width: int = 63) -> np.ndarray:
    """Return a constant raw stamp, float32 (H, W, 3)."""
    return np.full((height, width, 3), value, dtype=np.float32)


def damage_row_group(file: Path, group: int) -> None:
    """Overwrite some cutouts in one row group of a Parquet file of alert packets."""
    columns = parquet.read_metadata(file).row_group(group).to_dict()["columns"]
    (column,) = (one for one in columns if one["path_in_schema"] == "cutoutScience.stampData")
    content, start = bytearray(file.read_bytes()), column["dictionary_page_offset"] or column["data_page_offset"]
    content[start : start + 100] = b"\xff" * 100
    file.write_bytes(content)
