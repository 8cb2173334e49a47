"""A network classifies the alerts of its own survey and rejects others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig

from alerce_early.artifacts import predictions
from alerce_early.data.readers import stamps_file
from alerce_early.data.readers.packets import stream
from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError
from alerce_early.experiments.instantiate import make_data
from alerce_early.serving import inputs
from alerce_early.serving.deployed import Deployed
from alerce_early.serving.predict import predict
from alerce_early.serving.runtimes import Facts
from alerce_early.simulation import packets as night
from tests.data.test_rubin import container, packet
from tests.helpers.command import run as run_command
from tests.helpers.networks import constant, table_of


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two packets of Rubin among three of ZTF."""
    folder = tmp_path_factory.mktemp("mixed")
    for i, (one, _) in enumerate(night.alerts(3, seed=0)):
        (folder / f"{2 * i}.avro").write_bytes(night.encode(one))
    for i in (1, 3):
        (folder / f"{i}.avro").write_bytes(container(packet(i)))
    return folder


@pytest.mark.parametrize(
    ("of", "own", "other"), [("", "ZTF", "Rubin"), ("ZTF", "ZTF", "Rubin"), ("Rubin", "Rubin", "ZTF")]
)
def test_a_network_classifies_only_its_survey_in_a_mixed_folder(
    of: str, own: str, other: str, mixed: Path, tmp_path: Path
) -> None:
    """Networks that do not record a survey are for ZTF."""
    network = constant("SN", "rest", survey=of)
    outcome = predict(network, inputs.find([mixed], network.spec), tmp_path / "out.parquet")
    counts = {"ZTF": 3, "Rubin": 2}
    assert (outcome.classified, outcome.rejected) == (counts[own], counts[other])
    assert outcome.first and outcome.first.key and f"packet of {other}, expected {own}" in outcome.first.reason
    table = predictions.read(tmp_path / "out.parquet")
    assert np.isfinite(table["jd"]).all() and np.isfinite(table["ra"]).all()

    network.survey = ""  # as --survey any
    both = table_of(network, mixed, tmp_path / "both.parquet", size=2)
    assert len(both["candid"]) == 5 and set(table["candid"]) < set(both["candid"])


def test_records_of_another_survey_are_refused(mixed: Path, tmp_path: Path) -> None:
    (chunk,) = stream.stream([mixed], survey="Rubin")
    network = constant("SN", "rest", survey="ZTF")
    assert chunk.records is not None
    with pytest.raises(InputError, match=r"Rubin.* model 0{12} .*ZTF.* rubin_images"):
        network.of_records(chunk.records)
    network.survey = ""
    assert len(network.of_records(chunk.records)["predicted"]) == 2

    network = constant("SN", "rest", survey="Rubin")
    assert len(network.of_records(chunk.records)["predicted"]) == 2
    stamps = stamps_file.from_raw({"images": np.ones((2, 63, 63, 3)), "labels": [0, 1], "metadata": None}, "a file")
    with pytest.raises(InputError, match=r"^a file: .*ZTF"):
        network.of_records(stamps)


def test_the_snr_channel_is_read_for_networks_trained_on_it(mixed: Path, tmp_path: Path) -> None:
    channels = ("difference", "SNR")
    network = constant("SN", "rest", survey="Rubin", channels=channels, raw_shape=(2, 63, 63))
    assert len(table_of(network, mixed, tmp_path / "out.parquet")["candid"]) == 2


def test_predict_refuses_packets_of_another_survey_in_one_line(finished_run: Any, mixed: Path, tmp_path: Path) -> None:
    """`--survey any` accepts them, but they still lack the metadata of this network."""
    command = ("alerce_early.predict", finished_run.path, mixed / "1.avro", "--out", "out.parquet")
    done = run_command(*command, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not (tmp_path / "out.parquet").exists()
    assert all(word in done.stderr for word in ("Rubin", "ZTF", "rubin_images")) and "--survey" not in done.stderr
    done = run_command(*command, "--survey", "any", cwd=tmp_path)
    assert done.returncode == 2 and "metadata fwhm" in done.stderr


@pytest.mark.parametrize(("asked", "fits"), (("ZTF", "data=rubin"), ("Rubin", "data=alerts")))
def test_training_on_packets_of_another_survey_names_the_data_that_fits(
    asked: str, fits: str, mixed: Path, tmp_path: Path
) -> None:
    """It does not suggest --survey, which the model cards advise against."""
    file = mixed / ("1.avro" if asked == "ZTF" else "0.avro")
    with pytest.raises(InputError, match=fits) as error:
        stream.read(file, survey=asked)
    assert "--survey" not in str(error.value)


def test_the_survey_is_recorded_from_the_reader_to_the_exported_file(
    composed: Callable[..., DictConfig], finished_run: Any, tmp_path: Path
) -> None:
    (tmp_path / "night.avro").write_bytes(container(*(packet(i) for i in range(40))))
    labels = [f"{10**17 + i},{'AGN' if i % 2 else 'asteroid'}" for i in range(40)]
    (tmp_path / "labels.csv").write_text("\n".join(["diaSourceId,label", *labels]))
    options = (
        "data.channels=[difference,SNR]",
        "data.groups={AGN:[AGN],asteroid:[asteroid]}",
        "recipe.min_share=0",
        "data.match_radius=null",
    )
    config = composed("data=rubin", f"data.path={tmp_path}", f"outputs={tmp_path / 'outputs'}", *options)
    facts = make_data(config).spec
    assert (facts.survey, facts.channels, facts.raw_shape) == ("Rubin", ("difference", "SNR"), (2, 63, 63))
    assert DataSpec.from_plain(facts.plain()) == facts

    deployed = Deployed.load(finished_run.path / "checkpoints" / "best.ckpt")
    assert Facts.from_texts(deployed.facts.texts()).spec.survey == deployed.spec.survey == "ZTF"
    before = facts.plain()
    del before["survey"]  # as in older checkpoints
    assert DataSpec.from_plain(before).survey == ""
