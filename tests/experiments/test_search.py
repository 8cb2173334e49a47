"""Searches: the space to search, resuming, sharing between processes, and pruning."""

import os
import shlex
import signal
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError
from alerce_early.experiments.config import CONF, compose_config
from alerce_early.experiments.search import N_STARTUP_TRIALS, N_WARMUP_EPOCHS, Search
from alerce_early.search import main
from tests.helpers.command import Command


@pytest.fixture
def options(stamps_file: Path, tmp_path: Path) -> list[str]:
    """Return the options of a search with short trials."""
    return [
        *(
            "model=preliminary_cnn",
            "data=alerce",
            "trainer.max_epochs=2",
            "data.batches_per_epoch=2",
            "data.batch_size=16,32",
        ),
        *("optim.optimizer.lr=tag(log,interval(1e-4,1e-2))", "name=mine"),
        *(f"data.path={stamps_file}", f"outputs={tmp_path}"),
    ]


@pytest.mark.parametrize("file", sorted(Path(CONF, "search").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_predefined_search_composes(file: Path, tmp_path: Path) -> None:
    search = Search([f"search={file.stem}", f"outputs={tmp_path}"])
    trial = optuna.create_study().ask(search.space)
    assert len(trial.params) > 1
    compose_config(*search.fixed, *(f"{key}={value}" for key, value in trial.params.items()))


def test_a_space_is_written_as_a_sweep(tmp_path: Path) -> None:
    search = Search(
        [
            *("search=optimiser", "optim=adam", "data.batch_size=range(32,97,32)", "seed=int(interval(1,5))"),
            *("recipe=minmax,joint", "model.net.dropout=interval(0,0.5)", f"outputs={tmp_path}"),
        ]
    )
    assert search.space == {
        "optim.optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True),
        "data.batch_size": IntDistribution(32, 96, step=32),
        "seed": IntDistribution(1, 5),
        "recipe": CategoricalDistribution(["minmax", "joint"]),
        "model.net.dropout": FloatDistribution(0, 0.5),
    }
    assert "optim=adam" in search.fixed  # the command line replaces a distribution of the yaml


@pytest.mark.slow
def test_a_killed_search_resumes_until_it_has_all_trials(options: list[str], tmp_path: Path) -> None:
    killed = Command("alerce_early.search", *options, "--trials", "5")
    folder = tmp_path / "searches" / "mine"
    while len(list(folder.glob("*/checkpoints/last.ckpt"))) < 2 and killed.poll() is None:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    done = (folder / "trial-000" / "metrics.json").stat().st_mtime_ns
    assert Run(folder / "trial-001").cut

    search = Search(options)
    search.run(2)
    assert "2 trials: 2 finished" in search.summary() and search._ask_trial(2) is None
    trials = search.study.get_trials()
    for trial in trials:
        run = Run(folder / f"trial-{trial.number:03d}")
        assert run.config().data.batch_size == int(trial.params["data.batch_size"])
        assert run.config().optim.optimizer.lr == float(f"{trial.params['optim.optimizer.lr']:.4g}")
        assert trial.value == max(row["val/balanced_accuracy"] for row in run.history())
        assert list(trial.intermediate_values) == [0, 1]
    assert (folder / "trial-000" / "metrics.json").stat().st_mtime_ns == done
    best = shlex.split(search.summary().splitlines()[-1])
    assert best[:3] == ["python", "-m", "alerce_early.train"]
    assert compose_config(*best[3:]) == Run(folder / f"trial-{search.study.best_trial.number:03d}").config()
    assert (another := search._ask_trial(3)) and another.number == 2
    assert len({trial.params["optim.optimizer.lr"] for trial in (*trials, another)}) == 3


def test_two_processes_share_a_study(options: list[str], tmp_path: Path) -> None:
    first, second = Search(options), Search(options)
    trial = first._ask_trial(2)
    assert trial is not None and [begun.number for begun in second._running_trials()] == [0]
    run = Run(tmp_path / "searches" / "mine" / "trial-000")
    with run.alone():  # the first process trains
        second._run_trial(second._running_trials()[0])
        assert [t.state for t in second.study.get_trials()] == [TrialState.RUNNING]
        assert second._ask_trial(2) is not None and second._ask_trial(2) is None


@pytest.mark.slow
def test_several_jobs_run_trials_in_parallel(options: list[str], tmp_path: Path) -> None:
    with Command("alerce_early.search", *options, "--trials", "5", "--jobs", "2") as search:
        out, err = search.communicate()
    assert search.returncode == 0 and "5 trials: 5 finished" in out, err
    events = (tmp_path / "searches" / "mine").glob("*/events*")
    assert len({file.name.split(".")[-2] for file in events}) == 2  # the processes that wrote them


def test_bad_trials_are_pruned_and_errors_are_recorded(
    options: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    search = Search([*options, "data.sampling=balanced,fair"])
    for _ in range(N_STARTUP_TRIALS):
        trial = search.study.ask(search.space)
        for epoch in range(N_WARMUP_EPOCHS + 1):
            trial.report(2.0, epoch)  # better than any trial can reach
        search.study.tell(trial, 2.0)
    for sampling, state in (("balanced", TrialState.PRUNED), ("fair", TrialState.FAIL)):
        params = {"data.batch_size": "16", "optim.optimizer.lr": 1e-3, "data.sampling": sampling}
        search.study.enqueue_trial(params)
        search.fixed = [option for option in search.fixed if not option.startswith("trainer.max_epochs")]
        trial = search._ask_trial(10)
        assert trial is not None
        search._run_trial(trial)
        assert search.study.get_trials()[trial.number].state == state
    pruned, failed = (Run(tmp_path / "searches" / "mine" / f"trial-{N_STARTUP_TRIALS + i:03d}") for i in range(2))
    assert len(pruned.history()) == N_WARMUP_EPOCHS + 1 and not pruned.finished
    assert (failed.path / "failed.txt").read_text().startswith("data.sampling=fair: ")
    assert "7 trials: 5 finished, 1 pruned, 1 failed" in search.summary()


def test_invalid_options_are_refused_at_the_start(
    options: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="nothing to search"):
        Search([f"outputs={tmp_path}"])
    with pytest.raises(InputError, match=r"trainer\.devices=2"):
        Search([*options, "trainer=ddp"])
    with pytest.raises(InputError, match="modle"):
        Search([*options, "modle=rotinv"])
    Search(options)
    with pytest.raises(InputError, match=r"search with other options \(seed=3\).*name="):
        Search([*options, "seed=3"])
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr(sys, "argv", ["search", *options])
    with pytest.raises(SystemExit, match="2"):
        main()


def test_an_unknown_key_is_refused_before_the_first_trial(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="modle"):
        Search(["modle=a,b", f"outputs={tmp_path}"])
    assert not list(tmp_path.iterdir())
