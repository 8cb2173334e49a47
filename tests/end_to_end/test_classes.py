"""User-defined classes, from a CSV of labels to a report, with the commands of the README."""

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alerce_early.artifacts import predictions
from alerce_early.errors import InputError
from alerce_early.experiments.instantiate import make_data
from alerce_early.simulation import packets
from alerce_early.simulation import survey as simulation
from tests.helpers.command import run

SIX = ("AGN", "SN", "VS", "asteroid", "bogus", "satellite")
USUAL = ("AGN", "SN", "VS", "asteroid", "bogus")
OTHERS = {"AGN": "QSO", "SN": "SN Ia", "VS": "EB*", "bogus": "satellite"}  # new class of every second row


@pytest.mark.slow
def test_a_sixth_class_works_in_every_command(tmp_path: Path) -> None:
    night = tmp_path / "night"
    night.mkdir()
    _, labels = packets.write(night / "night.tar.gz", 400, seed=3)
    with labels.open() as file:
        rows = [(row["candid"], row["label"]) for row in csv.DictReader(file)]
    labels.unlink()
    named = [(key, OTHERS.get(label, label) if i % 2 else label) for i, (key, label) in enumerate(rows)]
    table = "\n".join(["candid,label", *(",".join(row) for row in named)])
    (night / "labels.csv").write_text(table)

    def do(verb: str, *arguments: object) -> str:
        done = run(f"alerce_early.{verb}", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    quick = ("model=preliminary_cnn", "recipe=minmax", "trainer.max_epochs=1", "data.batches_per_epoch=3")
    options = (f"data.classes=[{','.join(SIX)}]", "target_class=satellite", "hydra.run.dir=run", "logger=none")
    do("train", "data=alerts", "data.path=night", *options, *quick)
    result = json.loads((tmp_path / "run" / "metrics.json").read_text())
    judged = result[result["judged"]]
    assert judged["classes"] == list(SIX) and judged["thresholds"]["of"] == result["thresholds"]["of"] == "satellite"
    assert result["calibration"] and next(iter(judged["values"])) == "recall/satellite"
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "satellite recall" in page and "Thresholds for satellite" in page and "SN recall" not in page
    assert "satellite recall" in (tmp_path / "run" / "train.log").read_text()
    do("report", "run/predictions.parquet")
    of_table = json.loads((tmp_path / "run" / "predictions_report" / "metrics.json").read_text())
    assert of_table["thresholds"]["of"] == "satellite"
    do("export", "run", "--out", "model.onnx")
    for network in ("run", "model.onnx"):
        said = do("predict", network, "night", "--out", "out.parquet", "--overwrite")
        found = predictions.read(tmp_path / "out.parquet")
        assert set(found["label"].tolist()) == set(SIX) and {f"q_{name}" for name in SIX} <= set(found)
        assert f"labels name a row by candid; 0 of {len(found['id'])} rows have no label" in said
    do("report", "out.parquet", "--labels", "night/labels.csv", "--target-class", "satellite")
    judged = json.loads((tmp_path / "out_report" / "metrics.json").read_text())
    assert judged["classes"] == list(SIX) and judged["thresholds"]["of"] == "satellite"
    refused = run("alerce_early.train", "data=alerts", "data.path=night", "target_class=comet", *quick, cwd=tmp_path)
    assert refused.returncode and "target_class=comet" in refused.stderr and "Traceback" not in refused.stderr


def test_simulated_stamps_have_only_classes_of_the_simulation(survey: dict[str, Any], quick, tmp_path: Path) -> None:
    """The classes are in another order, and a sixth class is trained on real rows only."""
    names = ["satellite" if i % 5 == 0 else USUAL[label] for i, label in enumerate(survey["labels"])]
    file = tmp_path / "six.pkl"
    file.write_bytes(pickle.dumps({"images": survey["images"], "labels": names}))
    classes = f"data.classes=[satellite,{','.join(reversed(USUAL))}]"
    shared = ("data.simulated_share=0.5", "data.simulated_n=20", "data.split={validation:0.2,test:0.2}")
    data = make_data(quick(f"data.path={file}", classes, *shared, f"outputs={tmp_path}"))
    sizes = data.part_sizes()
    assert sizes["simulated"]["satellite"] == 0 < sizes["train"]["satellite"]
    assert sum(sizes["simulated"].values()) == len(data.simulated_rows) > 15
    raw = simulation.simulate(20, 1000, counts="balanced")
    ids = data.store.ids[data.simulated_rows].tolist()
    found = dict(zip(ids, np.array(data.classes)[data.labels[data.simulated_rows]].tolist(), strict=True))
    expected = {name: USUAL[label] for name, label in zip(raw["oid"], raw["labels"], strict=True)}
    assert found.items() <= expected.items()
    data.setup("fit")
    for batch in data.train_dataloader():
        rows, label = batch["row"].numpy(), batch["label"].numpy()
        simulated = np.isin(rows, data.simulated_rows)
        assert simulated.sum() == 8 and "satellite" not in np.array(data.classes)[label[simulated]]
    with pytest.raises(InputError, match="classes"):
        make_data(
            quick(f"data.path={file}", "data.classes=[satellite,SN]", *shared, f"outputs={tmp_path}")
        ).prepare_data()
