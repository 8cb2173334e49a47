"""Complete runs on a small raw file: their files, their results, and non-finite losses."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alerce_early.artifacts import predictions
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError
from alerce_early.evaluation import calibration, conformal, tables, thresholds
from alerce_early.experiments.instantiate import make_data, make_task
from alerce_early.experiments.run import train
from alerce_early.report import figures
from alerce_early.tasks import restore
from alerce_early.tasks.classify import ClassifyTask
from tests.helpers.tiny import trained_weights


@pytest.fixture(scope="module")
def finished(composed, stamps_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of three epochs."""
    outputs = tmp_path_factory.mktemp("outputs")
    config = composed(
        *("data=alerce", f"data.path={stamps_file}", f"outputs={outputs}", "model=preliminary_cnn", "recipe=minmax"),
        *("trainer.max_epochs=3", "data.batches_per_epoch=20", "data.batch_size=32"),
    )
    return train(config, outputs / "run").path


def test_a_run_folder_contains_all_files(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"config.yaml", "versions.json", "history.jsonl", "predictions.parquet", "metrics.json"} <= names
    assert {"confusion.svg", "scores_by_epoch.svg"} <= names
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert not list(finished.rglob("*.partial"))


def test_the_rate_excludes_the_first_epoch(finished: Path) -> None:
    result = Run(finished).read_json("metrics.json")
    least = 2 * 20 * 32 / result["training_seconds"]  # two epochs, in less than the time of three with validation
    assert result["training_stamps_per_second"] > least and result["precision"] in ("32-true", "bf16-mixed")


def test_a_run_of_one_epoch_has_no_rate(finished_run: Run) -> None:
    """The first epoch is slower because it warms up."""
    assert finished_run.metrics["training_seconds"] > 0
    assert finished_run.metrics["training_stamps_per_second"] is None


def test_the_history_has_losses_by_step_and_by_epoch(finished: Path) -> None:
    history = Run(finished).history()
    assert [len(row["losses"]) for row in history] == [20, 20, 20] and [row["step"] for row in history] == [20, 40, 60]
    for row in history:  # all batches have the same number of rows
        assert np.mean(row["losses"]) == pytest.approx(row["train/loss"], rel=1e-4)
        assert 0 < row["train/accuracy"] < 1
    drawn = figures.curves(history, best_epoch=2, scores=("accuracy",))
    raw, smooth = drawn["loss_by_step"].axes[0].lines
    assert list(raw.get_xdata()[[0, 19, 59]]) == [1, 20, 60] and len(smooth.get_xdata()) == 60 - 3 + 1
    labels = [line.get_label() for line in drawn["scores_by_epoch"].axes[0].lines][:2]
    assert labels == ["training accuracy", "validation accuracy"]


def test_half_of_each_batch_is_simulated_but_never_evaluated(quick, tmp_path: Path) -> None:
    """Simulated rows have metadata and balanced classes; real rows are treated as without them."""
    options = ("trainer.max_epochs=1", "features.names=[fwhm,ndethist]", f"outputs={tmp_path}")
    share = ("data.simulated_share=0.5", "data.simulated_n=40")
    without, mixed = make_data(quick(*options)), make_data(quick(*options, *share))
    fresh = mixed.store.part == "simulated"
    assert fresh.sum() >= 38 and (mixed.store.features[fresh] != -999).any(0).all()  # edges of the chip cut some
    assert all(np.array_equal(without.parts[part], mixed.parts[part]) for part in without.parts)
    assert without.spec.feature_mean == mixed.spec.feature_mean and without.spec.n_train == mixed.spec.n_train
    for data in (without, mixed):
        data.setup()
    batches = [batch["row"].numpy() for batch in mixed.train_dataloader()]
    assert [fresh[rows].tolist() for rows in batches] == [[False] * 8 + [True] * 8] * 3
    assert np.ptp(np.bincount(mixed.labels[np.concatenate(batches)[fresh[np.concatenate(batches)]]])) <= 1
    run = train(quick(*options, *share), tmp_path / "run")
    table = predictions.read(run.predictions)
    assert sorted(table["row"]) == sorted(np.concatenate([without.parts["validation"], without.parts["test"]]))
    assert run.read_json("metrics.json")["origin"] == without.spec.origin


def test_a_share_without_real_or_simulated_rows_is_refused(quick, composed) -> None:
    for share in (0.01, 0.99):
        with pytest.raises(InputError, match=r"data\.simulated_share"):
            make_data(quick(f"data.simulated_share={share}"))
    with pytest.raises(InputError, match=r"data\.simulated_share"):
        make_data(composed("data=hits", "model=hits_deep", "data.path=FILE", "data.simulated_share=0.5"))


def test_the_page_compares_with_the_published_result(finished: Path) -> None:
    page = (finished / "report" / "index.html").read_text()
    assert (
        "Comparison with published results" in page
        and "goal of the 2020 report</td><td></td><td>ALeRCE, 200 per class</td><td>0.950</td><td>0.850</td>" in page
    )


def test_the_table_covers_validation_and_test_once(finished: Path, composed) -> None:
    table = predictions.read(finished / "predictions.parquet")
    config = OmegaConf.load(finished / "config.yaml")
    assert isinstance(config, DictConfig)
    data = make_data(config)
    expected = np.concatenate([data.parts["validation"], data.parts["test"]])
    assert sorted(table["row"]) == sorted(expected)
    assert (table["id"] == data.store.ids[table["row"]]).all()
    assert (table["label"] == np.array(data.classes)[data.labels[table["row"]]]).all()
    assert np.allclose(tables.probabilities(table, data.classes).sum(1), 1, atol=1e-5)


def test_metrics_agree_with_the_predictions_table(finished: Path) -> None:
    result = json.loads((finished / "metrics.json").read_text())
    test = tables.select_split(predictions.read(finished / "predictions.parquet"), "test")
    right = test["label"] == test["predicted"]
    recalls = [right[test["label"] == name].mean() for name in sorted(set(test["label"]))]
    assert result["test"]["values"]["accuracy"] == pytest.approx(right.mean())
    assert result["test"]["values"]["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    low, high = result["test"]["intervals"]["accuracy"]
    assert low < right.mean() < high
    assert result["parameters"] == 149_245 and result["epochs"] == 3 and result["stopped"] is None


def test_fits_on_the_validation_split_are_saved_and_applied(finished: Path) -> None:
    result = json.loads((finished / "metrics.json").read_text())
    checkpoint = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    table = predictions.read(finished / "predictions.parquet")
    applied = {
        "calibration": calibration.calibrate_columns,
        "conformal": conformal.set_columns,
    }
    for name, apply in applied.items():
        assert checkpoint[name] == result[name]
        columns = apply(checkpoint[name], table)
        for column, values in columns.items():
            np.testing.assert_array_equal(values, table[column])
    assert result["thresholds"] == checkpoint["thresholds"]
    constants = conformal.list_constants(result["conformal"]) | thresholds.list_constants(result["thresholds"])
    assert predictions.read_constants(finished / "predictions.parquet") == constants and len(constants) == 6
    assert {"set", "q_SN", "magpsf"} <= set(table) and not {*constants} & {*table}
    assert result["test"]["conformal"]["wanted"] == 0.9


def test_the_fits_use_only_the_validation_split(finished: Path) -> None:
    result = json.loads((finished / "metrics.json").read_text())
    table = predictions.read(finished / "predictions.parquet")

    def fits(split: str) -> dict[str, Any]:
        rows = tables.select_split(table, split)
        return {
            "calibration": calibration.fit(rows, "temperature"),
            "conformal": conformal.fit(rows, 0.9),
            "thresholds": thresholds.fit(rows),
        }

    of_validation, of_test = fits("validation"), fits("test")
    for name, fitted in of_validation.items():
        assert result[name] == fitted != of_test[name], name


def test_the_page_describes_the_data_with_pictures(finished: Path) -> None:
    html = (finished / "report" / "index.html").read_text()
    assert "file stamps.pkl" in html and "Most confident mistakes" in html
    assert html.count("data:image/png;base64,") >= 6 and html.count("data:image/svg+xml;base64,") >= 6
    assert "http://" not in html and "https://" not in html  # self-contained


def test_tensorboard_has_curves_pictures_and_hparams(finished: Path) -> None:
    events = EventAccumulator(str(finished)).Reload()
    assert len(events.Scalars("val/balanced_accuracy")) == 3 and len(events.Scalars("train/loss")) == 3
    assert {"stamps as the net sees them", "confusion matrix (validation)"} <= set(events.Tags()["images"])
    assert "_hparams_/experiment" in events.summary_metadata
    choices = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert all(name in choices for name in (b"preliminary_cnn", b"flips", b"one_cycle"))


def test_a_checkpoint_reproduces_the_predictions_table(finished: Path) -> None:
    task = restore.task(finished / "checkpoints" / "best.ckpt")
    assert isinstance(task, ClassifyTask)
    data = make_data(OmegaConf.load(finished / "config.yaml"))  # type: ignore[arg-type]
    assert task.spec == data.spec and set(task.hparams["augment"]) == {"margin", "redraw", "steps"}
    table = predictions.read(finished / "predictions.parquet")
    image = torch.from_numpy(data.store.images[table["row"]])
    with torch.no_grad():
        batch = {"image": task.recipe.finish(image)}
        probabilities = task.net(batch).softmax(1)
    assert np.abs(tables.probabilities(table, data.classes) - probabilities.numpy()).max() <= 1e-6


def test_predictions_are_computed_in_float32(quick, tmp_path: Path) -> None:
    run = train(quick("trainer.precision=bf16-mixed"), tmp_path / "run")
    table = predictions.read(run.predictions)
    images = make_data(run.config()).store.images[table["row"]]
    task = restore.task(run.best)
    with torch.no_grad():
        probabilities = task.net({"image": task.recipe.finish(torch.from_numpy(images))}).softmax(1)
    assert np.abs(tables.probabilities(table, task.spec.classes) - probabilities.numpy()).max() <= 1e-6
    assert run.read_json("metrics.json")["precision"] == "bf16-mixed"


@pytest.mark.parametrize("precision", ("bf16-mixed", "auto"))  # auto depends on the machine
def test_gradients_are_also_clipped_in_mixed_precision(precision: str, quick, tmp_path: Path) -> None:
    options = (f"trainer.precision={precision}", "optim=adam", "trainer.max_epochs=1", "data.batches_per_epoch=1")
    clipped = trained_weights(quick(*options, "+trainer.gradient_clip_val=1e-9"), tmp_path / "clipped")
    free = trained_weights(quick(*options), tmp_path / "free")
    assert any(not torch.equal(clipped[name], free[name]) for name in free)


def test_arrays_are_loaded_onto_the_device_once(quick) -> None:
    data = make_data(quick())
    data.setup("fit")
    before = data.rows
    data.setup("test")
    assert before is data.rows


class SignalRecorder(Callback):
    """Record the handler of the signal with which SLURM announces the end of a job."""

    def on_train_start(self, *_: Any) -> None:
        self.found = signal.getsignal(signal.SIGUSR1)


def test_lightning_requeues_nothing_under_slurm(quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JOB_ID": "1", "JOB_NAME": "early", "NODELIST": "127.0.0.1", "NTASKS": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    for name in ("PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    recorder = SignalRecorder()
    assert train(quick(), tmp_path / "run", recorder).finished and recorder.found == signal.SIG_DFL
    with pytest.raises(InputError, match=r"trainer\.devices.*hydra\.launcher\.tasks_per_node"):
        train(quick("trainer=ddp", "trainer.accelerator=cpu"), tmp_path / "two")


def test_each_process_needs_at_least_two_rows(quick, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.batch_size=3.*2 processes"):
        train(quick("trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=3"), tmp_path / "run")


def test_a_run_without_epochs_is_refused(quick, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no epoch was trained.*trainer\.max_epochs"):
        train(quick("trainer.max_epochs=0"), tmp_path / "run")


def test_pictures_do_not_change_the_run(quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_pictures = trained_weights(quick(), tmp_path / "a")
    monkeypatch.setattr("alerce_early.training.tensorboard.Board.on_train_batch_start", lambda *_: None)
    without = trained_weights(quick(), tmp_path / "b")
    assert all(torch.equal(with_pictures[name], without[name]) for name in without)


@pytest.mark.parametrize("augment", ("none", "flips", "rotations"))
@pytest.mark.parametrize("recipe", ("minmax", "crop_minmax", "joint", "two_scales"))
def test_every_recipe_works_with_every_augmentation(quick, tmp_path: Path, recipe: str, augment: str) -> None:
    data = make_data(config := quick(f"recipe={recipe}", f"augment={augment}"))
    if (recipe, augment) == ("two_scales", "rotations"):
        with pytest.raises(InputError, match=r"needs a margin of sky.*Try augment=flips"):
            data.prepare_data()
        return
    data.setup()
    assert data.rows
    task, batch = make_task(config, data.spec), data.rows[data.parts["train"][:16]]
    batch["image"] = task.recipe.finish(task.augment(batch["image"]))
    assert batch["image"].shape[1:] == data.spec.shape and batch["image"].isfinite().all()
    assert task.losses(task.net(batch), batch)["loss"].isfinite()


@pytest.mark.parametrize(("model", "size"), (("rotinv", 13), ("preliminary_cnn", 21)))
def test_a_network_can_memorise_a_few_rows(quick, model: str, size: int) -> None:
    config = quick(f"model={model}", "recipe=joint", f"recipe.size={size}", "model.net.dropout=0", "optim=adam")
    data = make_data(config)
    data.setup()
    assert data.rows
    torch.manual_seed(0)
    task = make_task(config, data.spec)
    rows = data.parts["train"]
    batch = data.rows[np.concatenate([rows[data.labels[rows] == i][:4] for i in range(len(data.classes))])]
    optimizer = task.configure_optimizers()
    for _ in range(80):
        loss = task.losses(task.net(batch), batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    task.eval()
    assert (task.net(batch).argmax(1) == batch["label"]).float().mean() > 0.95


@pytest.mark.slow
def test_a_network_learns_the_simulated_survey(composed, tmp_path: Path) -> None:
    config = composed(
        *("model=preliminary_cnn", "recipe=joint", "data.n=800", f"outputs={tmp_path}"),
        *("trainer.max_epochs=3", "data.batches_per_epoch=30", "data.batch_size=32"),
    )
    result = train(config, tmp_path / "run").read_json("metrics.json")
    assert result["test"]["values"]["balanced_accuracy"] > 0.45  # chance is .20


class Explodes(ClassifyTask):
    """A task whose loss becomes infinite in the second epoch."""

    def losses(self, z: torch.Tensor, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        losses = super().losses(z, batch)
        late = self.training and self.global_step >= 3  # three steps per epoch
        return {"loss": losses["loss"] / (0.0 if late else 1.0)}


def test_a_non_finite_loss_stops_the_run_and_keeps_the_best_epoch(
    quick, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = quick()
    config.model.task._target_ = f"{__name__}.Explodes"
    run = train(config, tmp_path / "run")
    result = json.loads((run.path / "metrics.json").read_text())
    assert "not finite from epoch 2, batch 1 on, learning rate " in result["stopped"]
    assert result["best_epoch"] == 1 and run.best.exists()
    assert "Training ended early" in run.page.read_text()


def test_a_non_finite_loss_in_the_first_epoch_is_an_error(quick, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not finite from epoch 1,.*No checkpoint"):
        train(quick("optim.optimizer.lr=1e25", "data.batches_per_epoch=20"), tmp_path / "run")


@pytest.mark.parametrize("name", ("best.ckpt", "last.ckpt"))
def test_a_damaged_checkpoint_cannot_be_resumed(quick, finished: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(finished, run := tmp_path / "run")
    (run / "metrics.json").unlink()  # as if killed just before the end
    damaged = bytearray((run / "checkpoints" / name).read_bytes())
    damaged[len(damaged) // 2] ^= 64
    (run / "checkpoints" / name).write_bytes(damaged)
    config = OmegaConf.load(run / "config.yaml")
    assert isinstance(config, DictConfig)
    with pytest.raises(InputError, match=rf"{name} is damaged"):
        train(config, run)
