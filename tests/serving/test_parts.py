"""Tables in parts: the output contains the rows of one command only, however often it was killed."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alerce_early.artifacts import predictions
from alerce_early.data.records import Rejected
from alerce_early.errors import InputError
from alerce_early.evaluation import tables
from alerce_early.serving.output import Parts, partial_of, rejected_of

ROWS = {"candid": np.array(["1", "2"]), "q_SN": np.array([0.25, 0.5])}
NONE = {name: column[:0] for name, column in ROWS.items()}
ASIDE = [Rejected("night.avro", "3", "cut short")]


def write(out: Path, table: tables.Table, rejected: list[Rejected]) -> None:
    with Parts(out, {}, overwrite=True) as parts:
        parts.add(table, rejected, len(table["candid"]) + len(rejected))
        parts.finish()


@pytest.mark.parametrize("end", predictions.EXTENSIONS)
def test_overwriting_replaces_the_table_and_its_rejected_rows(end: str, tmp_path: Path) -> None:
    out = tmp_path / f"night{end}"
    write(out, ROWS, [])
    assert out.exists() and not rejected_of(out).exists()
    write(out, NONE, ASIDE)
    assert not out.exists() and rejected_of(out).exists()
    write(out, ROWS, [])
    assert out.exists() and not rejected_of(out).exists()


@pytest.mark.parametrize("end", predictions.EXTENSIONS)
def test_an_empty_input_gives_an_empty_table(end: str, tmp_path: Path) -> None:
    out = tmp_path / f"night{end}"
    write(out, NONE, [])
    table = predictions.read(out)
    assert list(table) == list(ROWS) and not len(table["candid"])


def test_a_csv_and_a_parquet_of_one_name_have_own_rejected_rows(tmp_path: Path) -> None:
    write(tmp_path / "night.parquet", ROWS, ASIDE)
    write(tmp_path / "night.csv", ROWS, [])
    assert "cut short" in (tmp_path / "night.rejected.csv").read_text()
    write(tmp_path / "night.csv", ROWS, ASIDE)
    assert "cut short" in (tmp_path / "night.csv.rejected.csv").read_text()


def test_rejected_rows_without_their_part_are_discarded(tmp_path: Path) -> None:
    out = tmp_path / "night.parquet"
    with Parts(out, {}) as parts:
        parts.add(ROWS, [], 2)
    (parts.folder / "000001.rejected.csv").write_text("source,key,reason\nnight.avro,3,of before\n")
    with Parts(out, {}) as parts:
        parts.add(ROWS, [], 2)
        assert list(parts.reasons()) == []


def test_the_unfinished_output_of_another_command_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "night.parquet"
    with Parts(out, {"network": "a"}) as parts:
        parts.add(ROWS, [], 2)
    with pytest.raises(InputError, match=r"differs in network\. .*--out") as message:
        Parts(out, {"network": "b"})
    assert str(parts.folder) in str(message.value) and "--overwrite" not in str(message.value)  # which `serve` lacks
    with Parts(out, {"network": "b"}, overwrite=True) as parts:
        assert parts.counts["read"] == 0


Chunks = list[tuple[tables.Table, list[Rejected]]]
CHUNKS: Chunks = [
    ({"candid": np.array([f"{i}a", f"{i}b"]), "q_SN": np.array([0.25, i])}, ASIDE * (i % 2)) for i in range(4)
]


ALL_ASIDE = [(NONE, [Rejected("night.avro", f"{i}", "cut short")]) for i in range(4)]


def run_command(out: Path, chunks: Chunks = CHUNKS) -> None:
    """Continue after the rows that were read before, and finish, as `predict` does."""
    with Parts(out, {"network": "a"}) as parts:
        if not parts.finished:
            for rows, rejected in chunks[parts.counts["read"] :]:
                parts.add(rows, rejected, 1)
            parts.finish()


class Killed(BaseException):
    """Stands for SIGKILL: nothing that the process does afterwards reaches the disk."""


def killed_before(step: int, out: Path, chunks: Chunks) -> bool:
    """Run the command until it removes or renames a file for the nth time; return False if it finishes before."""
    left = [step]

    def dying(change: Any) -> Any:
        def changed(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return change(*arguments, **options)

        return changed

    with pytest.MonkeyPatch.context() as patch:
        for name in ("unlink", "replace", "rmdir"):
            patch.setattr(os, name, dying(getattr(os, name)))
        try:
            run_command(out, chunks)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("chunks", (CHUNKS, ALL_ASIDE), ids=("rows", "all set aside"))
@pytest.mark.parametrize("end", predictions.EXTENSIONS)
def test_a_command_killed_anywhere_resumes_to_the_same_table(end: str, chunks: Chunks, tmp_path: Path) -> None:
    run_command(clean := tmp_path / f"clean{end}", chunks)
    step = 0
    while killed_before(step, out := tmp_path / f"{step}{end}", chunks):
        run_command(out, chunks)
        assert out.exists() == clean.exists() and (not out.exists() or out.read_bytes() == clean.read_bytes()), step
        assert rejected_of(out).read_bytes() == rejected_of(clean).read_bytes(), step
        assert not partial_of(out).exists(), step
        step += 1
    assert step > 2 * len(chunks) + 4  # each part is written and removed, with a few steps before and after


@pytest.mark.parametrize("end", predictions.EXTENSIONS)
def test_a_table_records_the_command_that_made_it(end: str, tmp_path: Path) -> None:
    run_command(out := tmp_path / f"night{end}")
    with Parts(out, {"network": "a"}) as parts:
        assert parts.finished and parts.counts == {"read": 4, "rows": 8, "rejected": 2}
        assert list(parts.reasons()) == ASIDE * 2
    with pytest.raises(InputError, match="--overwrite"):
        Parts(out, {"network": "b"})
    with Parts(out, {"network": "a"}, overwrite=True) as parts:
        assert not parts.finished
    out.write_bytes(out.read_bytes()[:-9])  # changed by somebody else
    with pytest.raises(InputError, match="--overwrite"):
        Parts(out, {"network": "a"})
    assert predictions.origin_of(out).exists() == (end == ".csv")
