"""Classifiers with constant outputs, and tables of their predictions."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from alerce_early.artifacts import predictions
from alerce_early.data.readers import stamps_file
from alerce_early.serving import inputs
from alerce_early.serving.classifier import Classifier
from alerce_early.serving.predict import predict
from alerce_early.serving.runtimes import Facts
from tests.helpers.tiny import spec

SIZE = 40  # rows per chunk: the stamps file has ten chunks


def table_of(classifier: Classifier, given: Any, out: Path, **options: Any) -> dict[str, np.ndarray]:
    """Classify files and return the table written to `out`."""
    predict(classifier, inputs.find([given], classifier.spec), out, **{"size": SIZE} | options)
    return predictions.read(out)


def constant(*classes: str, **of: Any) -> Classifier:
    """Make a classifier that assigns the same probability to every class.

    Parameters
    ----------
    *classes : str
        Names of the classes.
    **of : Any
        Fields of the `DataSpec` that differ from raw stamps of 63 x 63 pixels.

    Returns
    -------
    Classifier
        The classifier, with `torch` as the name of its runtime.
    """
    facts = spec(**{"classes": classes, "raw_shape": (3, 63, 63), "channels": stamps_file.CHANNELS} | of)
    columns = tuple(f"p_{name}" for name in classes)

    def run(stamps: np.ndarray, metadata: np.ndarray | None) -> dict[str, np.ndarray]:
        return {name: np.full(len(stamps), 1 / len(columns), np.float32) for name in columns}

    return Classifier([(Facts("0" * 12, facts, columns), run)], "torch")


def nothing_left(folder: Path) -> bool:
    """Return True if a folder has no temporary files."""
    return not [path for path in folder.iterdir() if path.name.endswith(".partial")]


def wait_for(happened: Any, seconds: float = 600) -> None:
    """Wait until a function returns True; fail after `seconds`."""
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, f"not true after {seconds} s"
        time.sleep(0.02)
