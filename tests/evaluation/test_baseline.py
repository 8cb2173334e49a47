"""Baselines of a run: the same rows and metrics, without columns that leak labels."""

import json
from pathlib import Path

import numpy as np
import pytest

from alerce_early.artifacts.run_folder import Run
from alerce_early.evaluation import baselines, tables
from alerce_early.evaluation.kinds import Classification
from alerce_early.experiments.instantiate import make_data
from alerce_early.experiments.run import evaluate_baselines
from alerce_early.report import page
from tests.helpers.tiny import sections_of


def table_of(data, part: str = "test") -> dict[str, np.ndarray]:
    """Return the table of an untrained network."""
    rows, classes = data.parts[part], data.classes
    columns = {f"p_{name}": np.full(len(rows), 1 / len(classes)) for name in classes}
    return {"id": data.store.ids[rows], "row": rows, "label": np.array(classes)[data.labels[rows]], **columns}


def test_run_page_compares_the_network_with_the_baselines(finished_run: Run) -> None:
    run = finished_run
    result = json.loads((run.path / "metrics.json").read_text())
    found = result["baselines"]
    assert found["metadata"]["n"] == found["majority"]["n"] == result["test"]["n"]
    assert found["majority"]["values"]["balanced_accuracy"] == pytest.approx(0.2)
    assert found["left_out"] == ["rb"] and "rb" not in found["importances"] and len(found["importances"]) == 25
    assert sum(found["importances"].values()) == pytest.approx(1)
    html = run.page.read_text()
    assert "Metadata-only baselines" in html and "rb is excluded because it was used to make the labels" in html


def test_a_forest_learns_from_metadata(quick) -> None:
    data = make_data(quick())
    found = evaluate_baselines(data, table_of(data), seed=0)
    assert found["metadata"]["values"]["balanced_accuracy"] > 0.4  # chance: 0.2
    assert max(found["paired"].values()) < 0.05 and len(found["paired"]) == 2


def test_forest_weighs_a_rare_class_like_the_others() -> None:
    """One row in 20 is SN; the column is 1 for half of these and for a tenth of the others."""
    rng = np.random.default_rng(0)
    labels = (np.arange(2000) % 20 == 0).astype(int)
    columns = (rng.random((2000, 1)) < np.where(labels, 0.5, 0.1)[:, None]).astype(np.float32)
    names = np.array(["VS", "SN"])[labels]
    table = {"id": np.arange(2000).astype(str), "row": np.arange(2000), "label": names}
    table |= {name: np.full(2000, 0.5) for name in ("p_VS", "p_SN")}
    found = baselines.evaluate_baselines(table, columns, labels, columns, names=["fwhm"], present={"VS", "SN"})
    recall = {name: found["metadata"]["values"][f"recall/{name}"] for name in ("VS", "SN")}
    assert recall["SN"] == pytest.approx(columns[labels == 1].mean())
    assert recall["VS"] == pytest.approx(1 - columns[labels == 0].mean())


def test_rb_is_used_if_no_class_is_bogus(quick) -> None:
    without = make_data(quick("data.groups={SN:[SN],VS:[VS]}"))
    assert evaluate_baselines(without, table_of(without), seed=0)["left_out"] == []
    inside = make_data(quick("data.groups={SN:[SN],rest:[VS,bogus]}"))
    assert evaluate_baselines(inside, table_of(inside), seed=0)["left_out"] == ["rb"]


def test_data_without_metadata(composed, tmp_path: Path) -> None:
    data = make_data(composed("model=hits_deep", f"outputs={tmp_path}", "data.n=200"))
    found = evaluate_baselines(data, table_of(data), seed=0)
    assert "no metadata" in found["skipped"] and "metadata" not in found
    shown = {"result": {"baselines": found}, "judged": found["majority"], "kind": Classification()}
    (section,) = sections_of(page.render("baselines.html", **shown))
    assert section.words == [found["skipped"]] and len(section.tables[0][1]) == 2


def test_redshifts_have_no_baselines(quick) -> None:
    data = make_data(quick())
    assert evaluate_baselines(data, {"row": np.zeros(1, int), "true": np.zeros(1), "predicted": np.zeros(1)}, 0) == {}
    assert tables.classes_of({"true": np.zeros(1)}) == ()
