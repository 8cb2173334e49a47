"""`neighbours` lists the alerts most similar to a given one, nearest first, of other objects only."""

from pathlib import Path

import numpy as np

from alerce_early.artifacts import predictions
from tests.helpers.command import run

ROWS = {  # candid: id, embedding
    "1": ("ZTFa", (0, 0)),
    "2": ("ZTFb", (3, 4)),
    "3": ("ZTFa", (0, 1)),
    "4": ("ZTFc", (0, -2)),
    "5": ("ZTFd", (9, 9)),
}


def write_table(path: Path) -> Path:
    """Write a table of predictions with embeddings."""
    ids, points = zip(*ROWS.values(), strict=True)
    texts = {
        "candid": list(ROWS),
        "id": ids,
        "label": ["", "SN", "", "", ""],
        "predicted": ["SN", "SN", "VS", "VS", "SN"],
    }
    columns = {name: np.array(column) for name, column in texts.items()}
    predictions.write(path, {**columns, "q_SN": np.full(5, 0.9), "embedding": np.array(points, np.float16)})
    return path


def test_the_nearest_alerts_of_other_objects_are_listed(tmp_path: Path) -> None:
    table = write_table(tmp_path / "night.parquet")
    done = run("alerce_early.neighbours", "ZTFa", "--in", table, "--n", 2)
    assert [line.split() for line in done.stdout.splitlines()[1:]] == [
        ["1", "ZTFa", "0.000", "SN", "0.90"],
        ["4", "ZTFc", "2.000", "VS"],
        ["2", "ZTFb", "5.000", "SN", "0.90", "SN"],
    ]


def test_an_unknown_object_or_missing_embeddings_are_named(tmp_path: Path) -> None:
    table = write_table(tmp_path / "night.parquet")
    plain = {name: column for name, column in predictions.read(table).items() if name != "embedding"}
    predictions.write(tmp_path / "plain.parquet", plain)
    for name, file, word in (("ZTFx", table, "ZTFx"), ("1", tmp_path / "plain.parquet", "--embedding")):
        done = run("alerce_early.neighbours", name, "--in", file)
        assert done.returncode == 2 and word in done.stderr and len(done.stderr.splitlines()) == 1
