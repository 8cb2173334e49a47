"""Classes of the user's own, from a CSV of labels to a report, by the commands as the README writes them."""

import csv
import json
from pathlib import Path

import pytest

from alerce_early.artifacts import predictions
from alerce_early.simulation import packets
from tests.helpers.command import run

SIX = ("AGN", "SN", "VS", "asteroid", "bogus", "satellite")
OTHERS = {"AGN": "QSO", "SN": "SN Ia", "VS": "EB*", "bogus": "satellite"}  # every second row is called so


@pytest.mark.slow
def test_a_sixth_class_trains_calibrates_predicts_exports_and_is_reported(tmp_path: Path) -> None:
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
