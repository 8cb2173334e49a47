"""Untrusted files: bugs found by fuzzing, decompression bombs, and fixed mutations for each reader."""

import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pyarrow import parquet

import alerce_early
from alerce_early import compare, construct, explain, generate
from alerce_early.artifacts import predictions
from alerce_early.artifacts.run_folder import Run
from alerce_early.data import text as names
from alerce_early.data.readers import hits, sdss, stamps_file
from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError
from alerce_early.report import __main__ as report
from alerce_early.report import foreign_table
from alerce_early.serving import inputs
from tests.end_to_end.fuzz import TARGETS, Trial, mutate

QUICK = settings(max_examples=40, derandomize=True, deadline=None, database=None)
QUICK = settings(QUICK, suppress_health_check=[HealthCheck.function_scoped_fixture])
MUTATIONS = 120


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_mutated_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    trial, rng = Trial(name, tmp_path), np.random.default_rng(3)
    seeds = trial.seeds()
    for seed in seeds:
        trial(seed)
    assert trial.accepted == len(seeds)  # mutations of an invalid file would test little
    for _ in range(MUTATIONS):
        trial(mutate(seeds[rng.integers(len(seeds))], rng))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
ARRAYS = st.builds(
    lambda shape, dtype: np.zeros(shape, dtype),
    st.lists(st.integers(0, 4), max_size=4),
    st.sampled_from(["f2", ">f8", "i1", "u8", "?", "c8", "U3", "S2", "O"]),
)


@pytest.mark.parametrize(
    ("read", "keys"),
    (
        (stamps_file.from_raw, ("images", "labels", "metadata", "oid", "Train")),
        (hits.from_raw, ("temp_images", "sci_images", "diff_images", "SNR_images", "labels", "ID")),
        (sdss.from_raw, ("spectra", "class", "z", "z_conf", "id")),
    ),
)
@pytest.mark.filterwarnings("ignore")
def test_readers_refuse_entries_of_any_type_with_a_clear_error(read: Callable, keys: tuple[str, ...]) -> None:
    @QUICK
    @given(st.fixed_dictionaries({}, optional=dict.fromkeys(keys, PLAIN | ARRAYS)))
    def reads(raw: dict[str, Any]) -> None:
        try:
            read(raw, "a test")
        except InputError as error:
            assert str(error).isprintable()

    reads()


@QUICK
@given(st.lists(st.text(max_size=8) | st.integers() | st.none() | st.floats(), max_size=5))
def test_names_are_one_printable_line_and_not_a_formula(given: list[Any]) -> None:
    try:
        found = names.check_names(given, "ids", "a test").tolist()
    except InputError as error:
        assert str(error).isprintable()
    else:
        assert all(name.isprintable() and "$" not in name and not name.startswith(("=", "@")) for name in found)


@pytest.mark.parametrize(
    "name", ("=cmd|'/C calc'!A0", "@SUM(1)", "+1+cmd|'x'", "-2+3+cmd()", "a\nb", "\u202egnp", "$\\x$")
)
def test_ids_with_formulas_or_control_characters_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="oid"):
        stamps_file.from_raw({"images": np.zeros((1, 3, 3, 3)), "labels": [0], "oid": [name]}, "a test")
    parquet.write_table(
        pyarrow.table({"id": [name], "label": ["a"], "p_a": [1.0], "p_b": [0.0]}), tmp_path / "t.parquet"
    )
    with pytest.raises(InputError, match="ids"):
        foreign_table.read(tmp_path / "t.parquet")


def test_ordinary_ids_are_kept() -> None:
    given = ["ZTF18abc", "-12.5+33.1", "M 31", "train/row0", "νέφος", 7]
    assert names.check_names(given, "ids", "a test").tolist() == [*given[:-1], "7"]


def test_file_names_that_are_not_utf_8_stay_distinct(tmp_path: Path) -> None:
    spec = DataSpec("stamps", (3, 9, 9), ("a",), (), (), (), (), 0, 1, "", "", (3, 9, 9), stamps_file.CHANNELS)
    for name in (b"caf\xe9.pkl", b"caf\xe8.pkl", b"\xe9/caf\xe9.pkl", b"bad\xff.pkl", b"a\xe9.avro", b"b\xe9.tar"):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps({"images": np.zeros((2, 9, 9, 3), "f4")}) if b"caf" in name else b"x")
    chunks = list(inputs.find(tmp_path.rglob("*.pkl"), spec).chunks(99))
    keys, sources = (np.concatenate([getattr(chunk, what) for chunk in chunks]) for what in ("keys", "sources"))
    assert len(keys) == len(set(keys.tolist())) == 6 and len(set(sources.tolist())) == 3
    packets = inputs.find([*tmp_path.rglob("*.avro"), *tmp_path.rglob("*.tar")], spec).chunks(99)
    rejected = [row for chunk in (*chunks, *packets) for row in chunk.rejected]
    assert len(rejected) == 3 and all(row.source.isprintable() and row.reason.isprintable() for row in rejected)
    assert "".join([*keys, *sources]).encode()  # as when a table is written


# --- decompression bombs: small files that expand to huge ones --------------------------------------------------


def test_table_bombs_are_refused(tmp_path: Path) -> None:
    rows = 20_000_000
    same = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(rows, "i4")), pyarrow.array(["x" * 900]))
    parquet.write_table(pyarrow.table({"id": same}), tmp_path / "rows.parquet")
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.zeros(4_000_000, "f2")), 100)
    parquet.write_table(pyarrow.table({"embedding": lists}), tmp_path / "lists.parquet")
    (tmp_path / "columns.csv").write_bytes(b"," * 200_000 + b"\n")
    (tmp_path / "long.csv").write_bytes(b"id,label,p_a,p_b\n" + b"x" * 100_000 + b",a,1,0\n" + b"y,b,0,1\n" * 5000)
    parquets = (("parquet", "rows.parquet"), ("parquet", "lists.parquet"))
    for target, name in (*parquets, ("csv", "columns.csv"), ("csv", "long.csv")):
        with pytest.raises(InputError, match=name):
            TARGETS[target][2](tmp_path / name)


TEXT = "x" * 1_000_000


@pytest.mark.parametrize("kind", (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()), ids=str)
def test_a_repeated_long_text_is_refused(kind: pyarrow.DataType, tmp_path: Path) -> None:
    """Encoded as a dictionary, it takes few bytes in the file and much memory when decoded."""
    rows = pyarrow.table({"id": pyarrow.array([TEXT] * 50, kind)})
    parquet.write_table(rows, tmp_path / "long.parquet", compression="zstd")
    assert (tmp_path / "long.parquet").stat().st_size < 1000
    with pytest.raises(InputError, match=r"column id .*1,000,000 bytes"):
        predictions.read(tmp_path / "long.parquet")


def test_text_columns_of_any_arrow_type_are_read(tmp_path: Path) -> None:
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        parquet.write_table(pyarrow.table({"id": pyarrow.array(["a", "b", "a"], kind)}), tmp_path / "t.parquet")
        assert predictions.read(tmp_path / "t.parquet")["id"].tolist() == ["a", "b", "a"]
    parquet.write_table(pyarrow.table({"id": [b"a"]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"column id .*binary"):
        predictions.read(tmp_path / "t.parquet")


# --- configs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ("os.system", "subprocess.Popen", "alerce_early.data.store.shutil", "alerce_early", "")
)
def test_only_functions_of_this_package_may_be_readers(target: str) -> None:
    with pytest.raises(InputError, match="_target_"):
        construct.function(target)


def test_a_config_cannot_run_other_functions(composed: Callable, tmp_path: Path) -> None:
    from alerce_early.experiments.instantiate import make_data

    config = composed("data=simulated", f"outputs={tmp_path}")
    config.data.source = {"_target_": "os.system", "command": f"touch {tmp_path / 'canary'}"}
    with pytest.raises(InputError, match=r"_target_ 'os\.system'"):
        _ = make_data(config).store
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("value", ("${oc.env:CANARY}", "\\${oc.env:CANARY}", '"\\x24{run_folder:null,canary}"'))
def test_interpolations_in_the_config_of_a_run_are_refused(
    value: str, finished_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished_run.path, run := tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("name: preliminary_cnn", f"name: {value}"))
    assert f"name: {value}" in (run / "config.yaml").read_text()
    monkeypatch.setenv("CANARY", "a secret")
    monkeypatch.chdir(tmp_path)
    for verb, *options in ((report,), (compare,), (explain, "--id", "ZTF18abc"), (generate, "--out", "stamps.pkl")):
        monkeypatch.setattr(sys, "argv", [verb.__name__, str(run), *options])
        with pytest.raises(SystemExit) as ended:
            verb.main()
        out, err = capsys.readouterr()
        assert ended.value.code == 2 and err.count("\n") == 1 and "config.yaml" in err and "a secret" not in out + err
    with pytest.raises(InputError, match=r"config\.yaml"):
        alerce_early.run(f"resume={run}")
    assert not (tmp_path / "canary").exists()
    assert not any("a secret" in file.read_text() for file in run.rglob("*.html"))


OUTSIDE = {
    "a folder above": {"name": ".."},
    "a folder anywhere": {"version": "/canary"},
    "a folder by a variable": {"sub_dir": "$HOME"},
    "a database anywhere": {"_target_": "lightning.pytorch.loggers.MLFlowLogger", "tracking_uri": "sqlite:///canary"},
}


@pytest.mark.parametrize("options", OUTSIDE.values(), ids=OUTSIDE)
def test_a_resumed_run_logs_only_into_its_folder(options: dict[str, str], finished_run: Run, tmp_path: Path) -> None:
    shutil.copytree(finished_run.path, (cut := Run(tmp_path / "runs" / "run")).path)
    (cut.path / "metrics.json").unlink()
    config = cut.config()
    config.logger = {"own": {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", **options}}
    OmegaConf.save(config, cut.config_file)
    assert cut.cut
    with pytest.raises(InputError, match="logger="):
        alerce_early.run(f"resume={cut.path}")
    assert [file.name for file in cut.path.parent.iterdir()] == ["run"]
    assert alerce_early.run(f"resume={cut.path}", "logger=csv").finished
    assert (cut.path / "metrics.csv").exists() and [file.name for file in cut.path.parent.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        (["data.batch_size=abc"], "batch_size=abc"),
        (["data.batch_size=[1]"], "batch_size"),
        (["seed={a: 1}"], "seed"),
        (["data.groups=abc"], "groups=abc"),
        (["augment.margin=wide"], "margin=wide"),
    ),
)
def test_the_error_for_a_value_of_another_type_names_its_key(
    changes: list[str], message: str, composed: Callable, tmp_path: Path
) -> None:
    from alerce_early.experiments.instantiate import make_data

    with pytest.raises(InputError, match=message):
        make_data(composed(f"outputs={tmp_path}", *changes))


@pytest.mark.parametrize("target", ("subprocess.Popen", "os.system", "torch.optim.Nothing", "torch.nn.Linear", ""))
def test_only_optimisers_of_torch_are_accepted(target: str) -> None:
    import torch

    with pytest.raises(InputError, match="_target_"):
        construct.library_class(target, torch.optim.Optimizer)
