"""Full or read-only disks and damaged files give a one-line error, and the same command works afterwards."""

import importlib
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from alerce_early import compare, files
from alerce_early.artifacts import checkpoints, predictions
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError, require_extra
from alerce_early.experiments.command import run_folder
from alerce_early.experiments.instantiate import make_data
from alerce_early.experiments.run import train
from alerce_early.machine import STOPS
from alerce_early.report import __main__ as report
from alerce_early.report import pictures
from alerce_early.serving.output import Parts
from alerce_early.train import main
from tests.end_to_end.kills import differences, run_results

ROWS = {"id": np.arange(5000).astype(str), "p_SN": np.random.default_rng(0).random(5000)}
WRITERS: dict[str, Callable[[Path], None]] = {
    "predictions.parquet": lambda path: predictions.write(path, ROWS),
    "predictions.csv": lambda path: predictions.write(path, ROWS),
    "curves.png": lambda path: pictures.save(Figure(), path),
    "index.html": lambda path: files.write_text(path, "page " * 2000),
    "last.ckpt": lambda path: checkpoints.save({"weights": torch.zeros(5000)}, path),
}


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Limit the size of files that this process writes, in bytes, as a disk quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 12 MB in memory."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.parametrize("name", WRITERS)
def test_a_failed_write_keeps_the_old_file(name: str, tmp_path: Path) -> None:
    path, write = tmp_path / name, WRITERS[name]
    path.write_bytes(b"before")
    with limit_file_size(200), pytest.raises(InputError, match=rf"^disk full: {path} .*outputs=FOLDER"):
        write(path)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
    write(path)
    assert path.stat().st_size > 200


def test_a_run_resumes_after_a_disk_was_full(quick, small_disk: Path, tmp_path: Path) -> None:
    config = quick()
    store = make_data(config).store  # on another disk
    filler = small_disk / "filler"
    filler.write_bytes(bytes(9_000_000))  # leaves space for one checkpoint of 1.8 MB but not two
    run = Run(small_disk / "run")
    with pytest.raises(InputError, match=r"^disk full: .*\.ckpt .*No space left on device.* 1\.\d MB"):
        train(config, run.path)
    assert not list(run.path.rglob("*.partial")) and not run.finished
    filler.unlink()
    train(config, run.path)
    train(config, tmp_path / "clean" / "run")
    assert differences(run_results(small_disk), run_results(tmp_path / "clean")) == [] and store.path.exists()


def test_a_store_too_large_for_the_disk_is_refused_at_once(quick, small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(11_000_000))
    data = make_data(quick(f"outputs={small_disk}"))
    with pytest.raises(InputError, match=r"^disk full: .*images\.npy needs \d\.\d MB, 1\.\d MB are free there"):
        _ = data.store
    assert [path.suffix for path in (small_disk / "stores").iterdir()] == [".lock"]
    filler.unlink()
    assert len(data.store.images) == len(data.store.labels)


def test_a_read_only_disk_is_reported_at_once(quick, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(SystemExit, match="2"):
        run_folder(None, f"{small_disk}/runs/new")
    err = capsys.readouterr().err
    assert err.startswith(f"error: {small_disk}/runs") and "Read-only file system" in err and err.count("\n") == 1
    with pytest.raises(InputError, match=r"Read-only file system.*outputs=FOLDER"):
        _ = make_data(quick(f"outputs={small_disk}")).store


def test_a_file_named_like_the_outputs_folder_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "outputs").touch()
    with pytest.raises(SystemExit, match="2"):
        run_folder(None, f"{tmp_path}/outputs/runs/new")
    assert (
        "outputs/runs cannot be written: Not a directory" in (err := capsys.readouterr().err) and err.count("\n") == 1
    )


def test_only_temporary_files_of_dead_processes_are_removed(quick, tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    for name in ("dead", "alive"):
        (stores / f".{name}.partial").mkdir(parents=True)
    with files.hold_lock(stores / ".alive.lock"):
        _ = make_data(quick(f"outputs={tmp_path}")).store
    assert [path.name for path in stores.glob(".*.partial")] == [".alive.partial"]


def test_the_error_for_a_broken_library_states_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (
        ("broken_a", 'raise ImportError("libgomp.so.1: cannot open")'),
        ("broken_b", "import nowhere"),
    ):
        (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"^--fast: libgomp.so.1: cannot open\.$"), require_extra("--fast", "fast"):
        importlib.import_module("broken_a")
    with (
        pytest.raises(InputError, match=r"^--fast: nowhere is not installed. .*\[fast\]"),
        require_extra("--fast", "fast"),
    ):
        importlib.import_module("broken_b")


@pytest.fixture
def train_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Return a function that runs the train command in an empty folder and returns its exit status."""
    handlers = {number: signal.getsignal(number) for number in STOPS}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def run(*options: str) -> int:
        monkeypatch.setattr(sys, "argv", ["train", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("option", "message"),
    (
        ("+max_epochs=7", "trainer.max_epochs"),
        ("logger=wanb", "wandb"),
        ("data.split.vlidation=3", "data.split.validation"),
        ("max_epochs=7", "trainer.max_epochs"),
        ("lr=1", "optim.optimizer.lr"),
        ("optim.lr=1", "optim.optimizer.lr"),
        ("modle=rotinv", "model"),
        ("optim=adan", "did you mean adam?"),
        ("+trainer.callbacks=[]", "trainer.callbacks"),
        ("+trainer.plugins=[]", "trainer.plugins"),
        ("+trainer.default_root_dir=/tmp", "trainer.default_root_dir"),
        ("+trainer.logger=wandb", "logger="),
        ("+trainer.max_epoch=3", "max_epoch"),
        ("trainer.accelerator=abacus", "abacus"),
        ("seed=-1", "seed=-1"),
        ("optim.optimizer.lr=fast", "optim.optimizer.lr"),
        ("optim.optimizer.momentum=0.9", "momentum"),
        ("+optim.groups.bias.momentum=0.9", "momentum"),
        ("+optim.groups.bias=0.9", "mapping"),
        ("data.batch_size=-5", "data.batch_size=-5"),
        ("data.batches_per_epoch=0", "data.batches_per_epoch=0"),
        ("patience=long", "patience"),
        ("data.split.validation=many", "validation"),
        ("model.net.dropuot=.3", "dropuot"),
        ("coverage=2", "coverage"),
        ("data=spectra", "sdss"),
        ("model=spectra_class data=simulated", "data=sdss_simulated"),
    ),
)
def test_a_wrong_option_gives_a_one_line_error_and_no_run(
    train_command: Callable[..., int], option: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The error comes before any work: no data are simulated either."""
    assert train_command("model=preliminary_cnn", *option.split()) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert not list(tmp_path.rglob("train.log")) and not list(tmp_path.rglob("stores/*"))


@pytest.mark.parametrize("option", ("-m seed=0,1 +max_epochs=7", "-m +max_epochs=7,8"))
def test_a_sweep_with_a_wrong_option_does_not_start(
    train_command: Callable[..., int], option: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train_command(*option.split()) == 2
    assert "trainer.max_epochs" in (err := capfd.readouterr().err) and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_missing_data_leave_no_run(train_command: Callable[..., int], tmp_path: Path) -> None:
    assert train_command("data=alerce", "data.path=none.pkl") == 2
    assert not list(tmp_path.rglob("train.log"))


@pytest.mark.parametrize("content", (b"", b"\x80\xff\x00garbage", b"[1, 2]", None), ids=str)
@pytest.mark.parametrize("name", ("config.yaml", "metrics.json", "history.jsonl", "predictions.parquet"))
def test_a_damaged_run_folder_gives_a_one_line_error(
    name: str, content: bytes | None, finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A `content` of None truncates the file to two thirds."""
    shutil.copytree(finished_run.path, run := tmp_path / "run")
    whole = (run / name).read_bytes()
    (run / name).write_bytes(whole[: len(whole) * 2 // 3] if content is None else content)
    for verb in (report, compare):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [verb.__name__, str(run)])
            try:
                verb.main()
            except SystemExit as ended:
                err = capsys.readouterr().err
                assert ended.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and name in err
            else:  # compare shows no curves; an empty history is valid
                assert name == "history.jsonl" and (verb is compare or content == b"")


def test_a_truncated_config_is_reported(finished_run: Run, tmp_path: Path) -> None:
    whole = (finished_run.path / "config.yaml").read_text()
    last = whole.index("\nmodel:")
    for end in range(0, last, 29):
        (tmp_path / "config.yaml").write_text(whole[:end])
        with pytest.raises(InputError, match=r"config\.yaml is damaged"):
            Run(tmp_path).config()


def test_an_impossible_output_folder_is_reported() -> None:
    with pytest.raises(InputError, match=r"/proc/nowhere.*--out"):
        Parts(Path("/proc/nowhere/out.parquet"), {})


def test_a_table_continues_after_a_disk_was_full(tmp_path: Path) -> None:
    out, rows = tmp_path / "out.parquet", {"candid": np.arange(64).astype(str)}
    with Parts(out, {}) as parts:
        parts.add(rows, [], 64)
        message = r"^disk full: .*000001\.parquet .*same command"
        with limit_file_size(200), pytest.raises(InputError, match=message):
            parts.add(rows, [], 64)
    with Parts(out, {}) as parts:
        assert parts.counts["read"] == 64 and not list(parts.folder.glob(".*"))


def test_a_waiting_process_locks_again_if_the_lock_file_is_removed(tmp_path: Path) -> None:
    lock = tmp_path / "out.partial" / "lock"
    waits, goes = threading.Event(), threading.Event()

    def wait() -> None:
        with files.hold_lock(lock, 10):
            waits.set()
            goes.wait(10)

    waiter = threading.Thread(target=wait)
    with files.hold_lock(lock):
        waiter.start()
        time.sleep(0.3)  # until it has opened the file and waits
        shutil.rmtree(lock.parent)
    assert waits.wait(10)
    try:
        with pytest.raises(files.BusyError), files.hold_lock(lock, 0):
            pass
    finally:
        goes.set()
        waiter.join()
