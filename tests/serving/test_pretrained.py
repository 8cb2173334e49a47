"""The bundled networks."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import alerce_early
from alerce_early.artifacts import predictions
from alerce_early.data.readers.stamps_file import CLASSES, COLUMNS
from alerce_early.files import PRETRAINED
from alerce_early.simulation.survey import simulate_rubin
from tests.helpers.command import Command

NAMES = ("ztf", "ztf_images", "ztf_aged", "ztf_simulated", "ztf_simulated_metadata")
RUBIN = "rubin_images"


def test_each_network_has_a_card_and_all_are_small() -> None:
    card = (PRETRAINED / "README.md").read_text()
    assert {file.stem for file in PRETRAINED.glob("*.ckpt")} == {*NAMES, RUBIN}
    assert all(f"`{name}`" in card for name in (*NAMES, RUBIN))
    assert {file.stem for file in PRETRAINED.glob("*.onnx")} == {"ztf", "ztf_images", "ztf_aged", RUBIN}
    assert sum(file.stat().st_size for file in PRETRAINED.iterdir()) < 25e6


@pytest.mark.parametrize("name", ["ztf", "ztf_images", "ztf_aged", RUBIN])
def test_each_exported_file_agrees_with_its_checkpoint(name: str, survey: dict[str, Any]) -> None:
    square = [i for i, image in enumerate(survey["images"]) if image.shape == (63, 63, 3)][:64]
    metadata = dict(zip(COLUMNS, np.asarray(survey["metadata"])[square].T, strict=True))
    classifiers = [alerce_early.load(name, runtime="torch"), alerce_early.load(f"{name}.onnx")]
    of_checkpoint, of_file = (one.predict([survey["images"][i] for i in square], metadata) for one in classifiers)
    assert classifiers[0].model == classifiers[1].model and classifiers[1].runtime == "onnx"
    assert all(np.allclose(of_checkpoint[f"q_{cls}"], of_file[f"q_{cls}"], atol=1e-5) for cls in CLASSES)
    sizes = [(PRETRAINED / f"{name}.{end}").stat().st_size for end in ("onnx", "ckpt")]
    assert sizes[0] < 2 * sizes[1]  # both have float16 weights


@pytest.mark.parametrize("name", NAMES)
def test_each_network_classifies_simulated_stamps(name: str, survey: dict[str, Any]) -> None:
    """They were trained on other draws of the same simulation and fine-tuned on real stamps."""
    square = [i for i, image in enumerate(survey["images"]) if image.shape == (63, 63, 3)]
    stamps, labels = [survey["images"][i] for i in square], np.asarray(survey["labels"])[square]
    metadata = dict(zip(COLUMNS, np.asarray(survey["metadata"])[square].T, strict=True))
    predicted = alerce_early.load(name).predict(stamps, metadata)["predicted"]
    recalls = [(predicted[labels == i] == cls).mean() for i, cls in enumerate(CLASSES)]
    assert np.mean(recalls) > 0.6 and min(recalls) > 0.4  # chance is .2


def test_the_rubin_network_classifies_simulated_stamps() -> None:
    """In every class, with another seed than in training."""
    survey = simulate_rubin(250, seed=99)
    predicted = alerce_early.load(RUBIN).predict(survey["images"])["predicted"]
    recalls = [(predicted[survey["labels"] == i] == cls).mean() for i, cls in enumerate(CLASSES)]
    assert np.mean(recalls) > 0.7 and min(recalls) > 0.5


def test_a_simulated_night_is_classified_by_name_alone(tmp_path: Path) -> None:
    night, out = tmp_path / "night.tar.gz", tmp_path / "night.parquet"
    assert Command("alerce_early.generate", "--night", "60", "--out", str(night)).wait() == 0
    assert Command("alerce_early.predict", "ztf", str(night), "--out", str(out)).wait() == 0
    table = predictions.read(out)
    assert set(table["predicted"]) <= set(CLASSES) and len(set(table["predicted"])) > 2
    assert np.allclose(sum(table[f"q_{name}"] for name in CLASSES), 1, atol=1e-5)


def test_normalised_triplets_are_refused(tmp_path: Path, real_data: Path) -> None:
    place, out = real_data / "cases" / "04-l2-normalised-triplets", tmp_path / "out.csv"
    refused = Command("alerce_early.predict", "ztf_images.onnx", place / "l2.npz", "--out", out)
    assert refused.wait() == 2 and "norm 1" in refused.stderr and "recipe=l2" in refused.stderr
    assert Command("alerce_early.predict", "ztf_images.onnx", place / "raw.npz", "--out", out).wait() == 0
    assert len(predictions.read(out)["candid"]) == 6


def test_the_rubin_network_classifies_real_packets(tmp_path: Path, real_data: Path) -> None:
    """The simulation was compared with these packets; the network was not trained on them."""
    out = tmp_path / "rubin.parquet"
    assert Command("alerce_early.predict", RUBIN, str(real_data / "rubin"), "--out", str(out)).wait() == 0
    table = predictions.read(out)
    for cls in ("AGN", "asteroid"):
        assert (table["predicted"][table["label"] == cls] == cls).mean() > 0.75


@pytest.mark.parametrize("name", NAMES)
def test_each_network_classifies_real_stamps(name: str, real_data: Path) -> None:
    """These stamps tuned the networks, except ztf_simulated, which saw no real stamp."""
    found = pickle.load(io.BytesIO((real_data / "ztf_public_stamps.pkl").read_bytes()))
    square = [i for i, image in enumerate(found["images"]) if image.shape == (63, 63, 3)]
    metadata = dict(zip(COLUMNS, np.asarray(found["metadata"])[square].T, strict=True))
    predicted = alerce_early.load(name).predict([found["images"][i] for i in square], metadata)["predicted"]
    labels = np.array(CLASSES)[np.asarray(found["labels"])[square]]
    assert np.mean([(predicted[labels == cls] == cls).mean() for cls in CLASSES if (labels == cls).any()]) > 0.7
