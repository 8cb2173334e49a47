"""Distillation: training on the probabilities of another network."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import alerce_early
from alerce_early.artifacts import checkpoints
from alerce_early.artifacts.run_folder import Run
from alerce_early.data.records import UNLABELLED
from alerce_early.errors import InputError
from alerce_early.experiments.distillation import find_teachers, predict_soft_labels
from alerce_early.experiments.instantiate import make_data
from alerce_early.experiments.run import train

COLUMNS = "features.names=[fwhm,ndethist]"


@pytest.fixture(scope="module")
def unlabelled(survey: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of twelve unlabelled stamps; the last two are of an object in the stamps file."""
    from alerce_early.simulation.survey import simulate

    more = simulate(n=60, seed=5)
    chosen = [i for i, image in enumerate(more["images"]) if image.shape == (63, 63, 3)][:12]
    raw = {name: [more[name][i] for i in chosen] for name in ("images", "metadata")}
    raw["labels"] = [UNLABELLED] * 12
    raw["oid"] = [f"MORE{i}" for i in range(10)] + [survey["oid"][0]] * 2
    path = tmp_path_factory.mktemp("more") / "unlabelled.pkl"
    path.write_bytes(pickle.dumps(raw))
    return path


def test_a_teacher_predicts_stored_rows_as_it_predicts_raw_ones(quick, finished_run: Run, survey) -> None:
    data = make_data(quick(COLUMNS))
    data.prepare_data()
    found = predict_soft_labels([finished_run.best], data)
    rows = np.flatnonzero(np.isin(data.store.ids, survey["oid"][:40]))
    raw = [survey["oid"].index(name) for name in data.store.ids[rows]]
    classifier = alerce_early.load(finished_run.path)
    metadata = np.asarray(survey["metadata"])[raw][:, [7, 17]]  # fwhm, ndethist
    table = classifier.predict([survey["images"][i] for i in raw], metadata)
    wanted = np.stack([table[f"q_{name}"] for name in classifier.classes], 1)
    assert np.ptp(wanted[:, 0]) > 1e-4 and np.allclose(found[rows], wanted, atol=1e-5)
    assert np.allclose(predict_soft_labels([finished_run.best] * 2, data), found, atol=1e-6)


def test_probabilities_of_several_teachers_are_averaged(quick, finished_run: Run, tmp_path: Path) -> None:
    held = checkpoints.read(finished_run.best)
    weights = {name: -weight if weight.ndim > 1 else weight for name, weight in held["state_dict"].items()}
    checkpoints.save(held | {"state_dict": weights}, other := tmp_path / "other.ckpt")
    data = make_data(quick(COLUMNS))
    data.prepare_data()
    one, two = (predict_soft_labels([path], data) for path in (finished_run.best, other))
    assert np.abs(one - two).max() > 0.05
    assert np.allclose(predict_soft_labels([finished_run.best, other], data), (one + two) / 2, atol=1e-6)


def test_unlabelled_rows_train_with_the_probabilities_of_the_teacher(quick, unlabelled: Path, survey) -> None:
    whole = ("data.sampling=as_is", "data.batches_per_epoch=null")
    config = quick(f"data.extra={unlabelled}", "data.split.folds=2", "data.split.validation=2", *whole)
    alone, taught = make_data(config), make_data(config)
    taught.prepare_data()
    probabilities = np.random.default_rng(0).dirichlet(np.ones(5), len(taught.store.ids)).astype(np.float32)
    taught.set_soft_labels(probabilities)
    taught.setup()
    new = np.setdiff1d(taught.parts["train"], alone.parts["train"])
    held_out = survey["oid"][0] in taught.store.ids[np.concatenate([taught.parts["test"], taught.parts["validation"]])]
    assert len(new) == (10 if held_out else 12) and (taught.labels[new] == UNLABELLED).all()
    assert all((alone.parts[part] == taught.parts[part]).all() for part in ("validation", "test"))

    batches = list(taught.train_dataloader())
    rows = torch.cat([batch["row"] for batch in batches]).numpy()
    wanted = torch.cat([batch["taught"] for batch in batches]).numpy()
    assert sorted(rows) == sorted(taught.parts["train"])
    free = taught.labels[rows] == UNLABELLED
    assert (wanted[free] == probabilities[rows[free]]).all()
    known = np.eye(5)[taught.labels[rows[~free]]]
    assert np.allclose(wanted[~free], (known + probabilities[rows[~free]]) / 2)


def test_distillation_reports_the_accuracy_of_the_teacher(
    quick, finished_run: Run, unlabelled: Path, tmp_path: Path
) -> None:
    options = (f"distil={finished_run.path}", "trainer.max_epochs=1", "model.task.mixup=0.2")
    run = train(quick(*options, f"data.extra={unlabelled}"), tmp_path / "run")
    assert run.metrics["baselines/teacher/n"] == run.metrics["test/n"]
    assert "its teacher" in run.page.read_text()
    with pytest.raises(InputError, match=r"distil=.* recipe"):
        train(quick(*options, "recipe=crop_minmax"), tmp_path / "other")
    with pytest.raises(InputError, match=r"distil=.* classes"):
        train(quick(*options, "data.groups={SN:[SN],rest:[AGN,VS,asteroid,bogus]}"), tmp_path / "other")
    with pytest.raises(InputError, match="distil: model=stamp_vae"):
        train(quick(f"distil={finished_run.path}", "model=stamp_vae", "recipe=minmax"), tmp_path / "other")


def test_only_runs_of_a_sweep_with_the_same_split_are_teachers(quick, tmp_path: Path) -> None:
    folds = ("data.split.folds=2", "data.split.validation=2", "trainer.max_epochs=1", "data.batches_per_epoch=1")
    runs = [train(quick(*folds, f"data.split.fold={fold}"), tmp_path / "sweep" / str(fold)) for fold in (0, 1)]
    (tmp_path / "sweep" / "multirun.yaml").touch()
    split = quick(*folds, "data.split.fold=1").data.split
    assert find_teachers(tmp_path / "sweep", split) == [runs[1].best]
    with pytest.raises(InputError, match=r"distil=.*data\.split"):
        find_teachers(tmp_path / "sweep", quick().data.split)
