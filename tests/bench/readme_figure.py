"""Draw the figure of the README: confusion matrix and stamps of a simulated night, classified by `ztf_simulated`.

Run it with `python -m tests.bench.readme_figure`.
"""

import csv
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import alerce_early
from alerce_early.artifacts import predictions
from alerce_early.data.labels import CLASSES
from alerce_early.evaluation import metrics
from alerce_early.report import figures, page, pictures
from alerce_early.serving import inputs
from alerce_early.serving.predict import find_stamps, predict
from alerce_early.simulation import packets

N, SEED = 1_500, 2026  # number of alerts
N_STAMPS = 4  # stamps per class, the first of the night
CENTRE = slice(10, 53)  # pixels to show, of 63
EXAMPLE = Path(page.__file__).with_name("example.png")


@pictures.STYLED
def draw(
    table: dict[str, np.ndarray], labels: dict[str, str], stamps: dict[str, np.ndarray], rows: np.ndarray
) -> Figure:
    """Draw the confusion matrix and example stamps.

    Parameters
    ----------
    table : dict of str to ndarray
        Predictions of the night.
    labels : dict of str to str
        True class by candid.
    stamps : dict of str to ndarray (C, H, W)
        Stamps by candid, at least of `rows`.
    rows : ndarray (classes, N_STAMPS) of int
        Rows of the table to show, by predicted class.

    Returns
    -------
    Figure
        The figure.
    """
    true = np.array([labels[key] for key in table["candid"].astype(str).tolist()])
    numbers = [
        np.array([CLASSES.index(name) for name in names]) for names in (true.tolist(), table["predicted"].tolist())
    ]
    counts = metrics.confusion(numbers[0], numbers[1], len(CLASSES))
    figure = Figure(figsize=(13, 4.9))
    ((left, right),) = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.75))
    figures.draw_confusion(left.add_subplot(), counts, CLASSES)
    left.suptitle(f"{len(true):,} simulated alerts of one night", fontsize=11)
    right.suptitle("science, template and difference, with class and probability", fontsize=11)
    for name, line, of_class in zip(CLASSES, right.subplots(len(CLASSES), N_STAMPS), rows, strict=True):
        for axes, row in zip(line, of_class, strict=True):
            pictures.mosaic(axes, stamps[str(table["candid"][row])][None, :3, CENTRE, CENTRE])
            wrong = f" (true: {true[row]})" if true[row] != name else ""
            axes.set_title(f"{name} {table[f'q_{name}'][row]:.2f}{wrong}", fontsize=9, pad=2)
    return figure


def main() -> None:
    """Simulate and classify a night, and write the figure to the report folder."""
    with tempfile.TemporaryDirectory() as folder:
        night, out = Path(folder) / "night.tar.gz", Path(folder) / "night.parquet"
        _, file = packets.write(night, N, seed=SEED)
        with file.open() as lines:
            labels = {row["candid"]: row["label"] for row in csv.DictReader(lines)}
        classifier = alerce_early.load("ztf_simulated")
        source = inputs.find([str(night)], classifier.spec, out, None)
        predict(classifier, source, out, (0, 1), False)
        table = predictions.read(out)
        rows = np.array([np.flatnonzero(table["predicted"] == name)[:N_STAMPS] for name in CLASSES])
        stamps = find_stamps(source, (0, 1), table["candid"][rows.ravel()].astype(str).tolist())
        pictures.save(draw(table, labels, stamps, rows), EXAMPLE)
        Image.open(EXAMPLE).convert("RGB").quantize(48).save(EXAMPLE, optimize=True)


if __name__ == "__main__":
    main()
