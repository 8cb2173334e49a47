"""Train, trust and deploy early classifiers of astronomical alerts."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from alerce_early import files

if TYPE_CHECKING:
    from alerce_early.artifacts.run_folder import Run
    from alerce_early.serving.classifier import Classifier


__version__ = files.VERSION

# Threads that wait for each other by spinning slow a run down to a tenth as soon as another process wants a
# core, which on shared machines is always. Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def load(*runs: str | Path, runtime: str | None = None, embedding: bool = False) -> "Classifier":
    """Return the classifier of a run folder, a checkpoint or an exported .onnx file; of several, their mean.

    runtime: what computes a run: auto (the default), torch, float32, mixed, bfloat16 or openvino; an exported file
    needs none of these. embedding: whether its tables have a column with the output of the network's last hidden layer.
    The classifier has `predict(stamps, metadata=None)`, `classes` and `features`; see `serving.classifier.Classifier`.
    Raises `errors.InputError` if it is missing.
    """
    from alerce_early.serving.classifier import load  # brings numpy and pyarrow, which a version number must not

    return load(*runs, runtime=runtime, embedding=embedding)


def run(*options: str) -> "Run":
    """Train as `python -m alerce_early.train` does with these options; return the finished run.

    It is not called train, which is the module of that command. The run has `metrics`, a flat
    dict such as {"test/recall/SN": 0.9, "epochs": 8}; `predictions`, the path of its table; and `page`, that of its
    report. Raises `errors.InputError` for options
    that do not fit.
    """
    from alerce_early.train import train_options

    return train_options(*options)
