"""Run commands of the package in processes forked from a server that has already made the slow imports."""

import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning.fabric.utilities import rank_zero

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        *("alerce_early.experiments.schema", "alerce_early.training.trainer", "alerce_early.report.run_page"),
        *("alerce_early.serving.deployed", "alerce_early.data.readers.packets.stream", "sklearn.ensemble"),
    ]
)


class Command:
    """A running `python -m MODULE ARGUMENTS`, with most of the interface of `subprocess.Popen`.

    Parameters
    ----------
    module : str
        Module to run, or "-c" if the first argument is code.
    *arguments : object
        Arguments of the command, converted to str.
    cwd : Path, optional
        Working directory; default: the current one.
    env : mapping of str to str, optional
        Environment; default: the current one.
    before : str, optional
        Code to run in the process before the command.
    second : bool, optional
        Also fork the first `python -m` that the command itself starts.

    Attributes
    ----------
    files : list of Path
        Files that standard output and standard error are written to.
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        before: str = "",
        second: bool = False,
    ):
        self._folder = TemporaryDirectory()
        self.files = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        self.arguments = [module, *map(str, arguments)]
        where = str(cwd or Path.cwd()), dict(os.environ if env is None else env), self.files
        self.process = _SERVER.Process(target=_run, args=(self.arguments, *where, before, second))
        self.process.start()

    @property
    def pid(self) -> int:
        """Process id."""
        assert self.process.pid
        return self.process.pid

    @property
    def stdout(self) -> str:
        """Standard output so far."""
        return self.files[0].read_text() if self.files[0].exists() else ""

    @property
    def stderr(self) -> str:
        """Standard error so far."""
        return self.files[1].read_text() if self.files[1].exists() else ""

    def lines(self) -> Iterator[str]:
        """Yield the complete lines of standard output as they are written."""
        read = 0
        while True:
            ended = self.poll() is not None
            for line in self.stdout[read:].splitlines(keepends=True):
                if line.endswith("\n"):
                    read += len(line)
                    yield line
            if ended:
                return
            time.sleep(0.02)

    @property
    def returncode(self) -> int | None:
        """Exit status, or None while the command runs."""
        return self.process.exitcode

    def poll(self) -> int | None:
        """Return the exit status, or None while the command runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status; raise TimeoutExpired after `timeout` seconds."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.arguments, timeout or 0)
        return self.process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end and return standard output and standard error."""
        self.wait(timeout)
        return self.stdout, self.stderr

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        if self.poll() is None:
            self.kill()
        self.wait()


def run(module: str, *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Command:
    """Run a command to its end and return it."""
    command = Command(module, *arguments, cwd=cwd, env=env)
    command.wait()
    return command


def running(pid: int) -> bool:
    """Return True if a process exists and is not a zombie."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _run(arguments: list[str], folder: str, env: dict[str, str], files: list[Path], before: str, second: bool) -> None:
    """Become the command, in the forked process."""
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    if second:
        arguments, folder, env = _wait_for_second() or (arguments, folder, env)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0  # Lightning sets this at import, in the server
    sys.argv, sys.path[:0] = arguments, [folder]
    exec(before, {})
    if arguments[0] == "-c":
        exec(arguments.pop(1), {"__name__": "__main__"})
    else:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _wait_for_second() -> tuple[list[str], str, dict[str, str]] | None:
    """Fork; return None in the parent and, in the child, the command that the parent starts later."""
    ours, theirs = os.pipe()
    if child := os.fork():
        os.close(ours)
        _Second.waiting = [(child, theirs)]
        subprocess.Popen = _Second  # type: ignore[misc]
        return None
    os.close(theirs)
    with open(ours) as pipe:
        if not (content := pipe.read()):
            os._exit(0)  # the parent started no command
    arguments, folder, env = json.loads(content)
    return arguments, folder, env


class _Second(subprocess.Popen[Any]):
    """A `Popen` that hands its first `python -m` to the waiting fork."""

    waiting: list[tuple[int, int]]

    def _execute_child(self, args: Any, *options: Any) -> None:
        if not (self.waiting and list(args[:2]) == [sys.executable, "-m"]):
            super()._execute_child(args, *options)  # type: ignore[misc]
            return
        _, _, _, _, cwd, env, *_ = options
        self.pid, pipe = self.waiting.pop()
        self._child_created = True
        with open(pipe, "w") as file:
            json.dump((list(args[2:]), str(cwd or Path.cwd()), dict(os.environ if env is None else env)), file)
