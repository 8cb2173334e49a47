"""Initial weights of a run, and the epoch that it keeps."""

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import alerce_early
from alerce_early.artifacts import checkpoints, predictions
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError
from alerce_early.evaluation import tables
from alerce_early.experiments.instantiate import make_data
from alerce_early.experiments.run import train
from alerce_early.files import PRETRAINED
from tests.helpers.tiny import trained_weights

STILL = ("optim=sgd", "optim.optimizer.lr=0", "trainer.max_epochs=1", "data.batches_per_epoch=1")


def test_a_run_starts_from_the_weights_of_another(quick, finished_run: Run, tmp_path: Path) -> None:
    given = checkpoints.read(finished_run.best)["state_dict"]
    features = "features.names=[fwhm,ndethist]"
    found = trained_weights(quick(*STILL, features, f"init_from={finished_run.path}"), tmp_path / "run")
    assert found.keys() == given.keys() and all(torch.equal(found[name], given[name]) for name in given)
    fresh = trained_weights(quick(*STILL, features), tmp_path / "fresh")
    assert not all(torch.equal(fresh[name], given[name]) for name in given)


def test_a_classifier_knows_its_training_objects_and_those_of_its_start(
    quick, survey: dict[str, Any], tmp_path: Path
) -> None:
    """Hashes of training and validation objects are in the checkpoint, without test objects."""
    names = np.array([f"ZTF18{i:04d}" for i in range(len(survey["labels"]))])
    runs, options = [], (*STILL, "data.split.validation=5", "data.split.test=10")
    for number in (0, 1):
        file = tmp_path / f"{number}.pkl"
        ids = np.char.add("" if number == 0 else "b", names)
        file.write_bytes(pickle.dumps(survey | {"oid": ids.tolist()}))
        start = [f"init_from={runs[0].path}"] if runs else []
        config = quick(*options, *start, f"data.path={file}")
        runs.append(train(config, tmp_path / f"run{number}"))
        table, classifier = predictions.read(runs[-1].predictions), alerce_early.load(runs[-1].path)
        trained = classifier.find_trained(ids)
        judged = tables.select_split(table, "test")["id"]
        kept = make_data(config).store.ids
        assert set(kept[~classifier.find_trained(kept)]) == set(judged)
        assert np.isin(tables.select_split(table, "validation")["id"], ids[trained]).all()
    first = alerce_early.load(runs[0].path).find_trained(names)
    assert (classifier.find_trained(names) == first).all() and first.any() and not first.all()


def test_names_of_simulated_objects_and_row_numbers_never_match(quick, finished_run: Run) -> None:
    classifier = alerce_early.load(finished_run.path)
    assert not classifier.find_trained(np.array(["SIM0000001", "row1", "train/row2"])).any()


def test_layers_that_do_not_match_are_logged_and_stay_random(
    quick, finished_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = checkpoints.read(finished_run.best)["state_dict"]
    groups = "data.groups={SN:[SN],rest:[AGN,VS,asteroid,bogus]}"
    with caplog.at_level(logging.INFO, "alerce_early"):
        found = trained_weights(quick(*STILL, groups, f"init_from={finished_run.best}"), tmp_path / "run")
    other = [name for name in found if found[name].shape != given[name].shape]
    assert any(record.levelname == "WARNING" and "init_from: " in record.message for record in caplog.records)
    assert other and f"randomly initialised: {', '.join(other)}" in caplog.text
    assert all(torch.equal(found[name], given[name]) for name in found if name not in other)


def test_weights_of_another_network_are_refused(quick, finished_run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="init_from"):
        train(quick("model=resnet18", f"init_from={finished_run.path}"), tmp_path / "run")
    with pytest.raises(InputError, match="ztf_simulated"):  # the message lists the available networks
        train(quick("init_from=nothing"), tmp_path / "run")


@pytest.mark.parametrize("name", ("ztf", "ztf_images"))
def test_a_run_starts_from_the_first_member_of_an_ensemble(quick, name: str, tmp_path: Path) -> None:
    held = checkpoints.read(PRETRAINED / f"{name}.ckpt")
    network = {"model.net.dropout": 0.2, "model.net.kernel": 3, "recipe": "two_scales", "init_from": name}
    config = quick(*STILL, "model=rotinv", "features=none", *(f"{key}={value}" for key, value in network.items()))
    found = trained_weights(config, tmp_path / "run")
    first = held["hyper_parameters"]["net"]["members"][0]
    assert make_data(config).feature_names == tuple(first["features"])
    given = {key: weight.float() for key, weight in held["state_dict"].items() if "members.0." in key}
    assert {key.replace("members.0.net.", "") for key in given} == found.keys()
    learnt = {key: weight for key, weight in given.items() if "running_" not in key and "tracked" not in key}
    assert all(torch.equal(found[key.replace("members.0.net.", "")], weight) for key, weight in learnt.items())


def test_a_start_that_matches_few_weights_is_refused(quick, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"init_from=.*filters=16"):
        train(quick("model=rotinv", "recipe=two_scales", "init_from=rubin_images"), tmp_path / "run")
    options = ("model=rotinv", "model.net.filters=16", "recipe=two_scales", "init_from=rubin_images")
    assert trained_weights(quick(*STILL, *options), tmp_path / "half")


@pytest.mark.parametrize("described", ([], {}, {"net": []}, {"net": {"members": 7}}))
def test_a_start_without_a_valid_description_is_refused(described: object, quick, tmp_path: Path) -> None:
    held = checkpoints.read(PRETRAINED / "ztf_images.ckpt")
    torch.save({**held, "hyper_parameters": described}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match="init_from="):
        train(quick(*STILL, "model=rotinv", "recipe=two_scales", f"init_from={tmp_path / 'a.ckpt'}"), tmp_path / "run")


def test_without_a_monitor_the_last_epoch_is_kept(quick, tmp_path: Path) -> None:
    run = train(
        quick("monitor=null", "trainer.max_epochs=4", "patience=0", "optim.optimizer.lr=0.03"), tmp_path / "run"
    )
    best, last = (checkpoints.read(path)["state_dict"] for path in (run.best, run.last))
    assert run.metrics["best_epoch"] == run.metrics["epochs"] == 4
    assert all(torch.equal(best[name], last[name]) for name in last)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(quick, tmp_path: Path) -> None:
    options = {"a": (), "b": (), "c": ("seed=1",)}
    first, again, other = (trained_weights(quick(*given), tmp_path / name) for name, given in options.items())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
