"""HiTS files, their simulated counterpart, and predictions for an unlabelled test file."""

import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig

from alerce_early.data.readers import hits
from alerce_early.data.records import UNLABELLED
from alerce_early.errors import InputError
from alerce_early.experiments.run import train
from alerce_early.simulation.hits import simulate_hits


def raw(n: int = 6, **changes: Any) -> dict[str, Any]:
    """Return a raw dict whose images have the number of their channel at the first pixel of the second row."""
    images = {}
    for i, name in enumerate(hits.CHANNELS):
        images[f"{name}_images"] = np.zeros((n, 441))
        images[f"{name}_images"][:, 21] = i + 1
    entries = {**images, "labels": np.arange(n) % 2, "ID": np.arange(n) + 100, **changes}
    return {key: value for key, value in entries.items() if value is not ...}


def test_channels_are_in_the_requested_order() -> None:
    records = hits.from_raw(raw(), "a test")
    assert records.images.shape == (6, 21, 21, 4) and records.channels == ("temp", "sci", "diff", "SNR")
    assert records.images[0, 1, 0].tolist() == [1, 2, 3, 4] and records.images[0, 0, 1].tolist() == [0] * 4
    assert records.labels.tolist() == [0, 1, 0, 1, 0, 1] and records.classes == ("artefact", "real")
    assert records.ids[0] == "100"
    swapped = hits.from_raw(raw(), "a test", ["SNR", "sci"])
    assert swapped.images[0, 1, 0].tolist() == [4, 2] and swapped.channels == ("SNR", "sci")


def test_names_are_case_insensitive_and_extra_entries_ignored() -> None:
    entries = {key.upper(): value for key, value in raw(SNRs=np.ones(6)).items()}
    assert hits.from_raw(entries, "a test").labels.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("labels", (None, ...))
def test_a_file_without_labels_is_unlabelled(labels: Any) -> None:
    assert (hits.from_raw(raw(labels=labels), "a test").labels == UNLABELLED).all()


@pytest.mark.parametrize(
    "changes, channels, message",
    [
        ({"sci_images": ...}, hits.CHANNELS, "no sci_images"),
        ({}, ["science"], r"data\.channels"),
        ({}, [], r"data\.channels"),
        ({"sci_images": np.zeros((6, 440))}, hits.CHANNELS, r"sci_images.*\(6, 440\)"),
        ({"sci_images": np.zeros((5, 441))}, hits.CHANNELS, r"\(5, 21, 21\)"),
        ({"labels": [0, 1, 2, 0, 1, 0]}, hits.CHANNELS, "label 2"),
        ({"labels": [0, 1]}, hits.CHANNELS, r"labels.*\(2,\).*\(6,\)"),
    ],
)
def test_a_wrong_file_is_refused_by_name(changes: dict[str, Any], channels: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        hits.from_raw(raw(**changes), "a test", channels)


def test_a_missing_path_names_the_flag() -> None:
    with pytest.raises(InputError, match=r"data\.path=FILE"):
        hits.read(None)


def test_simulated_stamps_are_half_artefacts_and_reproducible() -> None:
    first, again = simulate_hits(30, 3), simulate_hits(30, 3)
    assert first.keys() == {f"{name}_images" for name in hits.CHANNELS} | {"labels", "ID"}
    assert first["labels"].sum() == 15 and len(set(first["ID"])) == 30
    for name in hits.CHANNELS:
        assert np.array_equal(first[f"{name}_images"], again[f"{name}_images"], equal_nan=True)
    # a source in the difference image is also in the science image, so both centres are bright
    real = first["labels"] == 1
    snr = first["SNR_images"].reshape(-1, 21, 21)[real]
    assert np.nanmedian(snr[:, 9:12, 9:12].max((1, 2))) > 5 > np.nanmedian(np.abs(snr))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a training file and two test files, labelled and unlabelled."""
    folder = tmp_path_factory.mktemp("hits")
    survey = simulate_hits(120, 0)
    train_part = {key: value[:80] for key, value in survey.items()}
    test_part = {key: value[80:] for key, value in survey.items()}
    written = {"train": train_part, "test": test_part, "blind": {**test_part, "labels": None}}
    for name, content in written.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(content))
    return {name: folder / f"{name}.pkl" for name in written}


@pytest.mark.parametrize("test_file", ("test", "blind"))
def test_a_test_file_with_and_without_labels(
    test_file: str, files: dict[str, Path], composed: Callable[..., DictConfig], tmp_path: Path
) -> None:
    config = composed(
        *("model=hits_two_conv", "data=hits", f"data.path={files['train']}", f"data.test_path={files[test_file]}"),
        *(f"outputs={tmp_path}", "trainer.max_epochs=1", "data.batches_per_epoch=2"),
    )
    run = train(config, tmp_path / "run")
    result = json.loads((run.path / "metrics.json").read_text())
    page = run.page.read_text()
    labels = pickle.loads(files["train"].read_bytes())["labels"]
    assert result["validation"]["n"] == sum(int(0.3 * count) for count in np.bincount(labels))
    if test_file == "test":
        assert result["judged"] == "test" and result["test"]["n"] == 40
        assert not run.blind_predictions.exists()
        return
    assert result["judged"] == "validation" and result["test"] is None
    assert "The test rows have no labels" in page
    with run.blind_predictions.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:6] == ["id", "row", "split", "predicted", "p_artefact", "p_real"]
    assert [row["id"] for row in rows] == pickle.loads(files["blind"].read_bytes())["ID"]
    for row in rows:
        assert float(row["p_artefact"]) + float(row["p_real"]) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == max(("artefact", "real"), key=lambda name: float(row[f"p_{name}"]))
