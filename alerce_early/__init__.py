"""Train, evaluate and deploy early classifiers of astronomical alerts."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from alerce_early import files

if TYPE_CHECKING:
    from alerce_early.artifacts.run_folder import Run
    from alerce_early.serving.classifier import Classifier


__version__ = files.VERSION

# With spinning threads, a run is ten times slower as soon as another process needs a core, as is usual on shared
# machines. Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def load(*runs: str | Path, runtime: str | None = None, embedding: bool = False) -> "Classifier":
    """Load a classifier.

    Parameters
    ----------
    *runs : str or Path
        A run folder, a checkpoint, the name of a pretrained network, or an exported .onnx file. The probabilities of
        several are averaged.
    runtime : str, optional
        How a network is computed: auto (the default), torch, float32, mixed, bfloat16 or openvino. Not for an exported
        file.
    embedding : bool
        Add a column with the output of the last hidden layer to the tables.

    Returns
    -------
    serving.classifier.Classifier
        The classifier, with `predict(stamps, metadata=None)`, `classes` and `features`.

    Raises
    ------
    errors.InputError
        If a run or file is missing or damaged.
    """
    from alerce_early.serving.classifier import load  # imports numpy and pyarrow, not needed for the version

    return load(*runs, runtime=runtime, embedding=embedding)


def run(*options: str) -> "Run":
    """Train a network, as `python -m alerce_early.train` does with the same options.

    Parameters
    ----------
    *options : str
        Options as on the command line, e.g. "model=rotinv".

    Returns
    -------
    artifacts.run_folder.Run
        The finished run. `metrics` is a flat dict such as {"test/recall/SN": 0.9, "epochs": 8}; `predictions` and
        `page` are the paths of its table and report.

    Raises
    ------
    errors.InputError
        If an option is invalid.
    """
    from alerce_early.train import train_options

    return train_options(*options)
