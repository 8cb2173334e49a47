"""Ray, Dask and Spark, run as in the README, give the same tables as `predict`."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

import alerce_early
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError
from alerce_early.serving import inputs
from alerce_early.serving.predict import predict
from alerce_early.simulation import packets as simulated_packets
from tests.helpers.networks import wait_for
from tests.helpers.tiny import CHECKOUT

FILES, ROWS = 3, 40
RAY = ("-m", "alerce_early.predict", "RUN", "archive/*.parquet", "--engine", "ray", "--out", "OUT")
page = (CHECKOUT / "alerce_early/serving/README.md").read_text()


def block(engine: str) -> str:
    """Return the code example of an engine."""
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if engine in code]
    return code


@pytest.fixture(scope="module")
def place(finished_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run and an archive that includes unusable rows."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "RUN").symlink_to(finished_run.path)
    (folder / "archive").mkdir()
    packets: list[dict[str, Any]] = [packet for packet, _ in simulated_packets.alerts(FILES * ROWS)]
    for packet in packets:
        del packet["prv_candidates"]
    packets[7]["cutoutScience"]["stampData"] = b"damaged"
    for i in range(FILES):
        rows = pyarrow.Table.from_pylist(packets[i * ROWS : (i + 1) * ROWS])
        parquet.write_table(rows, folder / "archive" / f"{i}.parquet")
    return folder


@pytest.fixture(scope="module")
def expected(place: Path) -> dict[str, list[Any]]:
    """Return the rows that `predict` classifies."""
    network = alerce_early.load(place / "RUN")
    predict(network, inputs.find([place / "archive"], network.spec), place / "expected.parquet")
    return rows_of([place / "expected.parquet"])


def rows_of(files: list[Path]) -> dict[str, list[Any]]:
    """Read the classified rows, sorted by candid, with the columns that all engines write."""
    rows = pyarrow.concat_tables([parquet.read_table(file).replace_schema_metadata(None) for file in files])
    if "rejected" in rows.column_names:
        assert len(rows) == FILES * ROWS
        rows = rows.filter(rows["rejected"].is_null())
    rows = rows.drop_columns([name for name in ("source", "label", "rejected") if name in rows.column_names])
    return rows.sort_by("candid").to_pydict()


def check(found: dict[str, list[Any]], expected: dict[str, list[Any]]) -> None:
    """Compare columns, probabilities up to rounding."""
    assert list(found) == list(expected) and FILES * ROWS / 2 < len(expected["candid"]) < FILES * ROWS
    for name, column in found.items():
        if isinstance(expected[name][0], str):
            assert column == expected[name]
        else:
            assert np.allclose(np.array(column, float), np.array(expected[name], float), atol=1e-6, equal_nan=True), (
                name
            )


def needs(engine: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test if the engine, or Java for Spark, is not installed."""
    missing = [name for name in (engine, "pandas") if not find_spec(name)]
    if engine == "pyspark" and not shutil.which("java"):
        missing.append("java")
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.mark.slow
@pytest.mark.parametrize("engine", [pytest.param(name, marks=needs(name)) for name in ("ray", "dask", "pyspark")])
def test_the_table_equals_that_of_predict(engine: str, place: Path, expected: dict[str, list[Any]]) -> None:
    shutil.rmtree(place / "OUT", ignore_errors=True)
    run(RAY if engine == "ray" else ("-c", block(engine)), place)
    check(rows_of(sorted((place / "OUT").glob("*.parquet"))), expected)


@needs("ray")
@pytest.mark.slow
def test_a_killed_ray_job_resumes(place: Path, expected: dict[str, list[Any]]) -> None:
    out = place / "OUT"
    shutil.rmtree(out, ignore_errors=True)
    begun = subprocess.Popen([sys.executable, *RAY], cwd=place, env=environment(), start_new_session=True)
    wait_for(lambda: any(out.glob("*.parquet")), 300)
    os.killpg(begun.pid, signal.SIGKILL)
    begun.wait()
    time.sleep(5)  # Ray stops the workers of a dead driver
    before = {file: file.stat().st_mtime_ns for file in out.glob("*.parquet")}
    run(RAY, place)
    check(rows_of(sorted(out.glob("*.parquet"))), expected)
    assert all(file.stat().st_mtime_ns == before[file] for file in before)  # finished files are not rewritten


@needs("ray")
def test_input_files_of_the_same_name_are_refused(place: Path, tmp_path: Path) -> None:
    """Both would be written to the same table."""
    from alerce_early.serving.cluster import classify_archive

    for night in ("a", "b"):
        (tmp_path / night).mkdir()
        shutil.copy(place / "archive" / "0.parquet", tmp_path / night)
    network, out = alerce_early.load(place / "RUN"), tmp_path / "OUT"
    with pytest.raises(InputError, match=f"--engine ray.*{out / '0.parquet'}"):
        classify_archive([str(place / "RUN")], None, "ZTF", inputs.find([tmp_path], network.spec), out)
    assert not out.exists()


def run(arguments: tuple[str, ...], place: Path) -> None:
    """Run Python in a folder."""
    done = subprocess.run([sys.executable, *arguments], cwd=place, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def environment() -> dict[str, str]:
    """Return the environment in which engines import this checkout."""
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "PYSPARK_PYTHON": sys.executable}
