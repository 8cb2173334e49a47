"""Training from the command line and from Python, and invalid options."""

import os
from pathlib import Path

import pytest

import alerce_early
from alerce_early.artifacts import predictions
from alerce_early.artifacts.run_folder import Run
from alerce_early.construct import TRUST
from alerce_early.errors import InputError
from alerce_early.evaluation import tables
from alerce_early.experiments.run import train
from tests.helpers.command import run


def test_a_sweep_has_one_folder_per_job_and_continues_after_a_failure(stamps_file: Path, tmp_path: Path) -> None:
    done = run(
        *("alerce_early.train", "-m", "model=preliminary_cnn", "seed=0", "data.sampling=fair,balanced,worse"),
        *("data=alerce", f"data.path={stamps_file}", "trainer.max_epochs=1", "data.batches_per_epoch=2", "name=mine"),
        cwd=tmp_path,
    )
    assert done.returncode == 1 and "2 of the jobs failed" in done.stderr
    assert all(f"data.sampling={bad}: " in done.stderr for bad in ("fair", "worse"))
    folders = list((tmp_path / "outputs" / "sweeps" / "mine").glob("*,seed=*"))
    assert len(folders) == 3
    for folder in folders:
        bad = "balanced" not in folder.name
        assert (folder / "failed.txt").exists() == bad and (folder / "metrics.json").exists() != bad


def test_an_invalid_option_ends_the_command_with_one_line(tmp_path: Path) -> None:
    done = run("alerce_early.train", "data=alerce", "data.path=none.pkl", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: none.pkl cannot be read")


def test_a_run_can_be_started_from_python(stamps_file: Path, tmp_path: Path) -> None:
    options = ("data=alerce", f"data.path={stamps_file}", f"outputs={tmp_path}", "model=preliminary_cnn")
    done = alerce_early.run(*options, "trainer.max_epochs=1", "data.batches_per_epoch=2")
    assert done.path.parent == tmp_path / "runs" / "alerce-preliminary_cnn" and done.page.exists()
    test = tables.select_judged(predictions.read(done.predictions), "test")
    right = test["predicted"] == test["label"]
    assert done.metrics["test/n"] == len(test["row"]) and done.metrics["epochs"] == 1
    assert done.metrics["test/recall/SN"] == pytest.approx(right[test["label"] == "SN"].mean())
    assert done.metrics["test/intervals/recall/SN"] == done.result["test"]["intervals"]["recall/SN"]
    assert alerce_early.run(f"resume={done.path}", f"outputs={tmp_path}").path == done.path  # already finished
    with pytest.raises(InputError, match="modle"):
        alerce_early.run("modle=x")


def test_a_run_from_python_logs_what_the_command_logs(stamps_file: Path, tmp_path: Path) -> None:
    options = ("data=alerce", f"data.path={stamps_file}", f"outputs={tmp_path}", "model=preliminary_cnn")
    short = ("trainer.max_epochs=2", "data.batches_per_epoch=2")
    code = "import sys, alerce_early; print(alerce_early.run(*sys.argv[1:]).path)"
    done = run("-c", code, *options, *short)
    assert done.returncode == 0, done.stderr
    *said, folder = done.stdout.splitlines()
    assert (Path(folder) / "train.log").read_text().splitlines() == said
    assert sum(line.startswith("epoch ") for line in said) == 2 and any("dropped" in line for line in said)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("monitor=beauty", "monitor=beauty is not a metric of this task. Choose from accuracy, "),
        ("patience=long", "patience=long"),
        ("data.split.validation=many", "validation=many: "),
    ],
)
def test_an_invalid_value_is_refused(quick, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(quick(override), tmp_path / "run")


@pytest.mark.parametrize(
    ("option", "key"),
    (
        ("data.sampling=weights", r"data\.sampling"),
        ("+model.net.droput=0.3", r"model\.net: .*dropout\?"),
        ("+model.task.los=focal", r"model\.task: .*loss\?"),
        ("recipe.steps=[{_target_: alerce_early.data.recipe.Crop, size: 21, sise: 3}]", "sise"),
        ("optim.schedule._target_=torch.optim.lr_scheduler.Nothing", "lr_scheduler.Nothing"),
        ("init_from=nothing", "nothing"),
        ("distil=nothing", "nothing"),
        ("model.task.loss=logistic", r"model\.task\.loss=logistic"),
        ("model.task.loss=nowhere.at_all", r"model\.task\.loss=nowhere\.at_all"),
        ("metrics=[nowhere.purity]", r"metrics=nowhere\.purity"),
        ("metrics=[purity]", "metrics=purity"),
        ("+callbacks.x=1", r"callbacks\.x"),
        ("+callbacks.x._target_=os.system", r"os\.system"),
        ("+callbacks.x._target_=lightning.pytorch.callbacks.ModelCheckpoint", r"callbacks\.x"),
        ("+callbacks.x._target_=lightning.pytorch.callbacks.LearningRateFinder", "search="),
        ("+callbacks.x._target_=lightning.pytorch.callbacks.StochasticWeightAveraging", "callbacks=ema"),
        ("+callbacks.x._target_=lightning.pytorch.callbacks.BackboneFinetuning", "BaseFinetuning"),
        ("callbacks=timer callbacks.timer.duration=long", r"callbacks\.timer"),
        ("callbacks=timer +callbacks.timer.hours=1", "hours"),
        ("callbacks=ema ema=0.9", r"callbacks\.ema"),
        ("+trainer.callbacks=1", "callbacks="),
    ),
)
def test_invalid_options_are_refused_before_data_are_read(quick, tmp_path: Path, option: str, key: str) -> None:
    words = option.split(" ") if option.startswith("callbacks") else [option]
    with pytest.raises(InputError, match=key):
        train(quick(*words, f"outputs={tmp_path}", f"data.path={tmp_path / 'absent.pkl'}"), tmp_path / "run")


def test_a_callback_of_the_config_can_stop_a_run(quick, tmp_path: Path) -> None:
    stop = ("_target_=lightning.pytorch.callbacks.EarlyStopping", "monitor=val/loss", "stopping_threshold=1e9")
    run = train(quick("callbacks=timer", *(f"+callbacks.stop.{option}" for option in stop)), tmp_path / "run")
    assert run.metrics["epochs"] == 1  # of two
    with pytest.raises(InputError, match=r"callbacks\.ema.*init_from="):
        alerce_early.run(f"resume={run.path}", "callbacks=ema")


@pytest.mark.parametrize(("verb", "other"), (("train", "prepare"), ("prepare", "train")))
def test_each_command_has_its_own_help(verb: str, other: str, tmp_path: Path) -> None:
    done = run(f"alerce_early.{verb}", "--help", cwd=tmp_path)
    assert done.returncode == 0 and f"python -m alerce_early.{verb} " in done.stdout
    assert f"python -m alerce_early.{other} " not in done.stdout and not list(tmp_path.iterdir())


def test_invalid_options_are_refused(quick, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Adam: got an unexpected keyword argument 'learning_rate'"):
        train(quick("+optim.optimizer.learning_rate=1"), tmp_path / "a")
    with pytest.raises(InputError, match=r"features\.names: no column colour"):
        train(quick("features.names=[colour]"), tmp_path / "b")
    with pytest.raises(InputError, match=r"trainer: .*Try trainer=cpu"):
        train(quick("trainer=gpu"), tmp_path / "c")


def test_preparing_data_leaves_no_run_folder(stamps_file: Path, tmp_path: Path) -> None:
    done = run("alerce_early.prepare", "data=alerce", f"data.path={stamps_file}", cwd=tmp_path)
    assert done.returncode == 0 and list((tmp_path / "outputs" / "stores").iterdir())
    assert not list(tmp_path.rglob("train.log"))


def test_too_few_steps_for_a_schedule_are_refused(quick, tmp_path: Path) -> None:
    """With ten steps, the rise of one_cycle would take a single step."""
    with pytest.raises(InputError, match=r"trainer\.max_epochs"):
        train(quick("trainer.max_epochs=1", "data.batches_per_epoch=10"), tmp_path / "run")


OWN = """
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from alerce_early.data.readers import stamps_file
from alerce_early.models.net import Net
from alerce_early.tasks.classify import ClassifyTask


class MyNet(Net):
    def __init__(self, spec, width=2, filters=1):
        super().__init__(spec)
        assert filters == 1, "that of the net before"
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.Linear(width, len(spec.classes)))
        self.layers(torch.zeros(1, *spec.shape))

    def forward(self, batch):
        return self.layers(batch["image"])


class MyTask(ClassifyTask):
    pass


class MyStep(nn.Module):
    def forward(self, image):
        return image.nan_to_num()


class MyOptimizer(torch.optim.SGD):
    def __init__(self, parameters, lr):
        super().__init__(parameters, lr)


class MyCallback(Callback):
    def __init__(self, file):
        self.file = file

    def on_fit_end(self, trainer, task):
        with open(self.file, "w") as file:
            file.write("called")


def my_reader(path):
    return stamps_file.read(path)
"""
READER = ("data=alerce", "data.source._target_=my_package.parts.my_reader")
PARTS = (
    *("model.net._target_=my_package.parts.MyNet", "+model.net.width=4", "model.task._target_=my_package.parts.MyTask"),
    *("recipe=minmax", "recipe.steps=[{_target_: my_package.parts.MyStep}]", "optim=adam"),
    *("+callbacks.mine._target_=my_package.parts.MyCallback", "+callbacks.mine.file=called.txt"),
    *("optim.optimizer._target_=my_package.parts.MyOptimizer", "trainer.max_epochs=1", "data.batches_per_epoch=2"),
)


@pytest.fixture
def own_code(tmp_path: Path) -> Path:
    """Return a folder outside the checkout that contains a user's package."""
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "parts.py").write_text(OWN)
    return tmp_path


def test_names_on_the_command_line_are_imported_but_not_in_a_run_folder(stamps_file: Path, own_code: Path) -> None:
    done = run("alerce_early.train", *READER, f"data.path={stamps_file}", *PARTS, "outputs=out", cwd=own_code)
    assert done.returncode == 0, done.stderr
    (folder,) = (own_code / "out" / "runs").glob("*/*")
    config = Run(folder).config()
    assert config.model.net == {"_target_": "my_package.parts.MyNet", "width": 4}
    assert set(config.model.task) > {"loss", "entropy"}  # inherited from the base class
    assert (own_code / "called.txt").read_text() == "called"
    assert set(config.optim.optimizer) == {"_target_", "lr"} and set(config.data.source) == {"_target_", "path"}

    (folder / "metrics.json").unlink()  # as if killed just before the end
    for command in (("alerce_early.train", f"resume={folder}"), ("alerce_early.predict", folder, stamps_file)):
        out = () if command[0].endswith("train") else ("--out", own_code / "night.parquet")
        refused = run(*command, *out, cwd=own_code)
        assert refused.returncode == 2 and f"{TRUST}=my_package" in refused.stderr
        trusted = run(*command, *out, cwd=own_code, env={**os.environ, TRUST: "my_package"})
        assert trusted.returncode == 0, trusted.stderr


def test_the_console_command_finds_the_users_package(stamps_file: Path, own_code: Path) -> None:
    done = run("alerce_early", "prepare", *READER, f"data.path={stamps_file}", "outputs=out", cwd=own_code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", (None, "class MyNet: pass", 'raise ValueError("a slip")', "def"))
def test_an_error_in_the_users_code_is_one_line(tmp_path: Path, code: str | None) -> None:
    if code:
        (tmp_path / "slips.py").write_text(code)
    done = run("alerce_early.train", "model.net._target_=slips.MyNet", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "slips.MyNet" in done.stderr
