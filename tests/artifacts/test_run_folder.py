"""What a run folder keeps of the code that made it."""

import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from alerce_early.artifacts.run_folder import Run, describe_code


def test_the_code_of_a_checkout_is_kept_with_what_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert describe_code(tmp_path) == ("", "")
    monkeypatch.setattr(describe_code, "__defaults__", (tmp_path,))  # the checkout that the package is of

    def begun(name: str) -> tuple[str, str | None]:
        """What a new run folder says of the commit, and its code.diff."""
        (run := Run(tmp_path / name)).begin(OmegaConf.create({"seed": 0}))
        diff = run.path / "code.diff"
        return run.read_json("versions.json")["commit"], diff.read_text() if diff.exists() else None

    assert begun("installed") == ("", None)
    (package := tmp_path / "alerce_early").mkdir()
    (package / "old.py").write_text("a = 1\n")

    def git(*words: str) -> str:
        name = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *name, *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD").strip()
    assert describe_code(tmp_path) == (commit, "") and begun("clean") == (commit, None)
    (package / "old.py").write_text("a = 2\n")
    (package / "new.py").write_text("b = 3\n")
    (tmp_path / "notes.txt").write_text("c = 4\n")
    diff = describe_code(tmp_path)[1]
    assert "\n+a = 2" in diff and "\n+b = 3" in diff and "c = 4" not in diff
    assert begun("changed") == (f"{commit}, with the changes of code.diff", diff)
    git("checkout", "--", ".")
    (undo := tmp_path / "code.diff").write_text(diff)
    (package / "new.py").unlink()
    git("apply", str(undo))
    assert (package / "old.py").read_text() == "a = 2\n" and (package / "new.py").read_text() == "b = 3\n"
