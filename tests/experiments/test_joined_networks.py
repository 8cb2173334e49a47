"""The networks of a sweep over folds, combined into one."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import alerce_early
from alerce_early.artifacts import checkpoints, predictions
from alerce_early.artifacts.run_folder import Run
from alerce_early.data.features import clip
from alerce_early.data.readers.stamps_file import COLUMNS
from alerce_early.data.text import hash_objects
from alerce_early.errors import InputError
from alerce_early.evaluation import tables
from alerce_early.experiments import compare
from alerce_early.experiments.ensemble import combine_runs
from alerce_early.experiments.run import train, write_page
from alerce_early.serving import export
from alerce_early.serving.deployed import Deployed
from alerce_early.simulation.survey import simulate
from alerce_early.tasks import restore
from tests.helpers.command import run as start
from tests.helpers.tiny import quick_config

NAMING = ("ra", "dec", "magpsf", "fwhm")
FOLDS = ("data.split.folds=2", "data.split.validation=2", "monitor=null", "trainer.max_epochs=1")


def train_folds(config: Callable[..., DictConfig], folder: Path) -> list[Run]:
    return [train(config(*FOLDS, f"data.split.fold={fold}"), folder / f"fold{fold}") for fold in (0, 1)]


@pytest.fixture(scope="module")
def folds(quick: Callable[..., DictConfig], tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return train_folds(quick, tmp_path_factory.mktemp("folds"))


def columns(table: tables.Table, classes: tuple[str, ...]) -> np.ndarray:
    return np.stack([table[f"p_{name}"] for name in classes], 1)


def test_each_row_is_predicted_by_the_member_that_has_not_seen_it(
    folds: list[Run], tmp_path: Path, survey: dict[str, Any]
) -> None:
    made = combine_runs(folds, tmp_path / "joined")
    table = predictions.read(made.predictions)
    parts = [tables.select_split(predictions.read(run.predictions), "test") for run in folds]
    assert sorted(table["row"]) == sorted(np.concatenate([part["row"] for part in parts]))
    classifier = alerce_early.load(made.path)
    for part in parts:
        same = np.isin(table["row"], part["row"])
        assert np.allclose(columns(table, classifier.classes)[same], columns(part, classifier.classes), atol=2e-4)

    stamps = [image for image in survey["images"] if image.shape == (63, 63, 3)][:50]
    members = [columns(alerce_early.load(run.path).predict(stamps), classifier.classes) for run in folds]
    mean = np.exp(np.mean(np.log(members), axis=0))
    wanted = mean / mean.sum(1, keepdims=True)
    assert np.allclose(columns(classifier.predict(stamps), classifier.classes), wanted, atol=2e-3)
    assert made.metrics["test/n"] == len(table["row"])
    assert checkpoints.read(made.best)["operating_points"]["SN"]["rows"] == (table["label"] == "SN").sum()
    held = [checkpoints.read(run.best)["trained_on"] for run in (*folds, made)]
    assert held[2] == hash_objects([], *held[:2])
    assert "into 2 folds, each evaluated" in made.page.read_text()
    written = write_page(made)  # as `report` does
    (entry,), left_out = compare.group_runs(compare.find_runs([str(made.path)])[0])
    assert written == made.page and [one.run for one in entry.runs] == [made] and not left_out


def test_random_labels_are_not_predicted_from_metadata_unique_to_each_row(
    survey: dict[str, Any], tmp_path: Path
) -> None:
    """A forest trained on the rows it predicts, or on other rows of their objects, would be perfect."""
    raw = tmp_path / "shuffled.pkl"
    rows, labels = np.arange(400) % 231, np.random.default_rng(0).permutation(231) % 5
    twice = {name: [survey[name][row] for row in rows] for name in ("images", "metadata", "oid")}
    raw.write_bytes(pickle.dumps({**twice, "labels": labels[rows]}))
    runs = train_folds(lambda *given: quick_config(raw, tmp_path, *given), tmp_path)
    made = combine_runs(runs, tmp_path / "joined", NAMING, trees=30, leaf=1)
    assert made.metrics["test/balanced_accuracy"] < 0.35
    deployed = Deployed.load(made.best)
    assert deployed.features == NAMING
    for form in export.FORMATS:  # compares the outputs of file and checkpoint
        assert export.content_of(deployed, form)[0]


def test_log_probabilities_are_averaged_over_seeds(folds: list[Run], tmp_path: Path) -> None:
    """The second seed of each fold is a copy of the first, with the probabilities of two classes exchanged."""
    seeds = []
    for run in folds:
        other = Run(Path(shutil.copytree(run.path, tmp_path / run.path.name)))
        config, table = other.config(), predictions.read(other.predictions)
        config.seed = 1
        other.config_file.write_text(OmegaConf.to_yaml(config))
        names = [name for name in table if name.startswith("p_")]
        table[names[0]], table[names[1]] = table[names[1]], table[names[0]]
        predictions.write(other.predictions, table)
        seeds.append(other)
    table = predictions.read(combine_runs([*folds, *seeds], tmp_path / "joined").predictions)
    classes = tables.classes_of(table)
    for run, other in zip(folds, seeds, strict=True):
        parts = [tables.select_split(predictions.read(one.predictions), "test") for one in (run, other)]
        mean = np.exp(np.mean([np.log(columns(part, classes)) for part in parts], axis=0))
        same = np.isin(table["row"], parts[0]["row"])
        assert np.allclose(columns(table, classes)[same], mean / mean.sum(1, keepdims=True), atol=1e-4)


def test_the_forest_gives_all_classes_the_same_weight(folds: list[Run], tmp_path: Path, survey: dict[str, Any]) -> None:
    """Trees that may not split return only the weight of each class."""
    assert np.bincount(survey["labels"]).min() < 0.04 * len(survey["labels"])
    alone, made = (
        combine_runs(folds, tmp_path / f"joined{len(names)}", names, trees=100, leaf=400) for names in ((), NAMING)
    )
    shares = restore.task(made.best).net.forest(torch.zeros(1, len(NAMING)))
    assert shares.min() > 0.14 and shares.max() < 0.26
    table, other = predictions.read(made.predictions), predictions.read(alone.predictions)
    ratio = columns(table, tables.classes_of(table)) / columns(other, tables.classes_of(table))
    assert ratio.min() > 0.6 and ratio.max() < 1.6


def test_the_forest_also_learns_from_simulated_rows(survey: dict[str, Any], tmp_path: Path) -> None:
    """Real labels are random here, so the forest learns from simulated rows, which are never evaluated."""
    raw, names = tmp_path / "shuffled.pkl", ("fwhm", "ndethist", "distpsnr1", "magnr")
    labels = np.random.default_rng(0).permutation(survey["labels"])
    raw.write_bytes(pickle.dumps(survey | {"labels": labels}))
    share = ("data.simulated_share=0.5", "data.simulated_n=400")
    other, at = simulate(200, seed=9), [COLUMNS.index(name) for name in names]
    seen = torch.from_numpy(clip(np.asarray(other["metadata"])[:, at], names).astype(np.float32))
    right = []
    for options in ((), share):
        folder = tmp_path / str(len(options))
        runs = train_folds(lambda *given, options=options: quick_config(raw, tmp_path, *options, *given), folder)
        made = combine_runs(runs, folder / "joined", names, trees=30, leaf=1)
        assert np.isin(predictions.read(made.predictions)["id"], survey["oid"]).all()
        assert made.result["test"]["n"] == sum(image.shape == (63, 63, 3) for image in survey["images"])
        found = restore.task(made.best).net.forest(seen).argmax(1).numpy()
        right.append((found == other["labels"]).mean())
    assert right[1] > right[0] + 0.1


def test_a_missing_fold_is_an_error(folds: list[Run], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Run all folds"):
        combine_runs(folds[:1], tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_runs_with_different_options_are_not_combined(folds: list[Run], tmp_path: Path) -> None:
    """A second sweep with the same name writes its runs to the same folder."""
    other = Run(Path(shutil.copytree(folds[1].path, tmp_path / "other")))
    config = other.config()
    config.model.net.dropout = 0.123
    other.config_file.write_text(OmegaConf.to_yaml(config))
    with pytest.raises(InputError, match=r"differ in model\.net\.dropout"):
        combine_runs([folds[0], other], tmp_path / "joined")


@pytest.mark.slow
def test_a_sweep_over_folds_ends_with_one_network(stamps_file: Path, tmp_path: Path) -> None:
    """Use a predefined experiment, reduced in size."""
    small = ("model=preliminary_cnn", "init_from=null", "trainer.max_epochs=1", "data.batches_per_epoch=2")
    options = (*small, f"data.path={stamps_file}", "trainer=cpu", "data.split.folds=2", "ensemble.trees=3")
    options += ("data.simulated_n=40",)
    done = start("alerce_early.train", "experiment=ztf_robust", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "outputs" / "runs").iterdir()
    assert made.name == "ztf_robust" and Run(made).result["members"] and "report" in done.stdout.splitlines()[-1]
    forest = restore.task(Run(made).best).net.forest
    assert len(forest.root) == 3 and len(Run(made).config().features.names) == 18


def test_networks_are_not_combined_without_folds(tmp_path: Path) -> None:
    done = start("alerce_early.train", "sweep=seeds", "ensemble={features: []}", cwd=tmp_path)
    assert done.returncode == 2 and "ensemble" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.rglob("config.yaml"))
