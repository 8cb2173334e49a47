"""List the alerts of a night that are most similar to one alert.

python -m alerce_early.neighbours ID --in NIGHT.parquet

The distance is Euclidean, between the embeddings that `predict --embedding` writes. Alerts of the same object are left
out.
"""

import argparse
from pathlib import Path

import numpy as np

from alerce_early.artifacts import predictions
from alerce_early.artifacts.predictions import EMBEDDING
from alerce_early.errors import InputError, exit_on_input_error
from alerce_early.evaluation import tables
from alerce_early.files import VERSION
from alerce_early.training import signals


def find_neighbours(table: tables.Table, name: str) -> tuple[int, np.ndarray, np.ndarray]:
    """Sort the alerts of other objects by their distance from one alert.

    Parameters
    ----------
    table : mapping of str to ndarray
        Predictions: ``candid`` (N,), ``id`` (N,) and ``embedding`` (N, D) float.
    name : str
        A candid, or an id, which selects the first of its alerts.

    Returns
    -------
    int
        The row of the alert.
    (M,) int64
        The rows of other objects, nearest first.
    (M,) float64
        Their Euclidean distances.

    Raises
    ------
    InputError
        If no row has this name.
    """
    found = np.flatnonzero((table["candid"] == name) | (table["id"] == name))
    if not len(found):
        raise InputError(f"{name}: neither a candid nor an id of the table. Choose one of its rows.")
    points, row = table[EMBEDDING].astype(np.float64), int(found[0])
    others = np.flatnonzero(table["id"] != table["id"][row])
    distances = np.linalg.norm(points[others] - points[row], axis=1)
    order = np.argsort(distances, kind="stable")
    return row, others[order], distances[order]


def describe(table: tables.Table, row: int, distance: float) -> list[str]:
    """Return the cells of one alert: candid, id, distance, predicted class with its probability, label."""
    predicted = str(table["predicted"][row])
    best = next((f"{kind}_{predicted}" for kind in "qp" if f"{kind}_{predicted}" in table), None)
    probability = f"{table[best][row]:.2f}" if best else ""
    label = str(table["label"][row] or "") if "label" in table else ""
    return [str(table["candid"][row]), str(table["id"][row]), f"{distance:.3f}", predicted, probability, label]


@exit_on_input_error
@signals.listen()
def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(
        prog="python -m alerce_early.neighbours",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"alerce-early {VERSION}")
    parser.add_argument("name", metavar="ID", help="candid or id of the alert")
    parser.add_argument("--in", dest="table", type=Path, required=True, metavar="FILE", help="table with embeddings")
    parser.add_argument("--n", type=int, default=10, help="number of alerts to list; default: 10")
    given = parser.parse_args()
    if given.n < 1:
        raise InputError(f"--n {given.n}: not a positive number. Give 1 or more.")
    table = predictions.read(given.table)
    if missing := [name for name in ("candid", "id", "predicted", EMBEDDING) if name not in table]:
        raise InputError(f"--in {given.table}: has no column {missing[0]}. Write it with predict --embedding.")
    row, others, distances = find_neighbours(table, given.name)
    pairs = zip([row, *others[: given.n].tolist()], [0.0, *distances[: given.n].tolist()], strict=True)
    lines = [["candid", "id", "distance", "predicted", "prob.", "label"], *(describe(table, *pair) for pair in pairs)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for cells in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
