"""Load networks and classify arrays, as notebooks and brokers do."""

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import alerce_early
from alerce_early.artifacts.run_folder import Run
from alerce_early.errors import InputError
from alerce_early.serving.classifier import Classifier
from alerce_early.serving.runtimes import Facts
from alerce_early.simulation import packets
from tests.helpers.tiny import CHECKOUT, spec


@pytest.fixture(scope="module")
def runs(finished_run: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run with metadata, and a copy of its checkpoint with other weights."""
    checkpoint = torch.load(finished_run.best, weights_only=True)
    checkpoint["state_dict"] = {name: 1.1 * weights for name, weights in checkpoint["state_dict"].items()}
    torch.save(checkpoint, other := tmp_path_factory.mktemp("other") / "other.ckpt")
    return [finished_run.path, other]


def test_lists_arrays_and_named_columns_give_the_same_table(runs: list[Path]) -> None:
    classifier = alerce_early.load(runs[0])
    assert classifier.classes == ("AGN", "SN", "VS", "asteroid", "bogus") and classifier.features == (
        "fwhm",
        "ndethist",
    )
    stamps = np.random.default_rng(0).normal(size=(40, 63, 63, 3))
    stamps[3, 20:40, 20:40] = np.nan
    stamps[4] = np.nan
    metadata = np.full((40, 2), 2.0)
    metadata[5] = (np.nan, -999)
    table = classifier.predict(stamps, metadata)
    listed = classifier.predict(list(stamps), {"ndethist": metadata[:, 1], "fwhm": metadata[:, 0], "more": metadata})
    assert all(np.array_equal(c, listed[name], equal_nan=c.dtype.kind == "f") for name, c in table.items())
    assert np.flatnonzero(table["predicted"] == "").tolist() == [3, 4]  # row 3 has 18 % of its central pixels
    q = np.stack([table[f"q_{name}"] for name in classifier.classes], 1)
    assert q.sum(1) == pytest.approx([1] * 3 + [np.nan] * 2 + [1] * 35, abs=1e-5, nan_ok=True)
    assert table["imputed"].tolist() == [0] * 5 + [2] + [0] * 34
    alone = classifier.predict(stamps[7:8], metadata[7:8])
    assert alone["q_SN"][0] == pytest.approx(table["q_SN"][7], abs=1e-6)
    nothing = classifier.predict([])
    assert list(nothing) == list(table) and all(len(column) == 0 for column in nothing.values())


def test_an_ensemble_averages_probabilities(runs: list[Path]) -> None:
    stamps, metadata = np.random.default_rng(1).normal(size=(9, 63, 63, 3)), np.ones((9, 2))
    one, two, both = (alerce_early.load(*some).predict(stamps, metadata) for some in (runs[:1], runs[1:], runs))
    assert both["q_SN"] == pytest.approx((one["q_SN"] + two["q_SN"]) / 2, abs=1e-6)
    assert both["p_VS"] == pytest.approx((one["p_VS"] + two["p_VS"]) / 2, abs=1e-6)
    assert both["model"][0] == f"{one['model'][0]}+{two['model'][0]}" and "set" not in both


def test_metadata_in_a_data_frame_are_matched_by_name(runs: list[Path]) -> None:
    pandas = pytest.importorskip("pandas")
    classifier, stamps = alerce_early.load(runs[0]), np.random.default_rng(2).normal(size=(2, 63, 63, 3))
    metadata = np.array([[2.0, 15.0], [8.0, 1.0]])
    frame = pandas.DataFrame({"more": ["a", "b"], "ndethist": metadata[:, 1], "fwhm": metadata[:, 0]})
    found, wanted = classifier.predict(stamps, frame), classifier.predict(stamps, metadata)
    assert all((found[name] == wanted[name]).all() for name in wanted)
    assert (classifier.predict(stamps, frame[["ndethist", "fwhm"]])["p_SN"] == wanted["p_SN"]).all()


def test_metadata_beyond_float32_count_as_missing(runs: list[Path]) -> None:
    stamps = np.random.default_rng(3).normal(size=(2, 63, 63, 3))
    table = alerce_early.load(runs[0]).predict(stamps[[0, 0]], [[1e39, 2.0], [-999.0, 2.0]])
    assert table["imputed"].tolist() == [1, 1] and table["p_SN"][0] == table["p_SN"][1]


OUTPUTS = (("p_QSO", "p_BAL"), ("predicted",), ("predicted", "confidence"))


@pytest.mark.parametrize(("one", "other"), itertools.permutations(OUTPUTS, 2), ids=str)
def test_an_ensemble_of_different_tasks_is_refused(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    facts = spec(kind="spectra", classes=("QSO", "BAL"), shape=(1, 40), raw_shape=(2, 40))
    members = [(Facts("0" * 12, facts, columns), lambda stamps, metadata: {}) for columns in (one, other)]
    with pytest.raises(InputError, match=r"^--ensemble: .*outputs: [^()]*predicted"):
        Classifier(members, "torch")


STAMPS = np.zeros((2, 63, 63, 3))


@pytest.mark.parametrize(
    ("stamps", "metadata", "message"),
    (
        ([STAMPS[0], STAMPS[0, :50]], np.ones((2, 2)), r"stamp 1: .*\(50, 63, 3\)"),
        (np.zeros((2, 3, 63, 63)), np.ones((2, 2)), "stamp 0: "),
        (STAMPS, None, r"metadata: .*\(2, 2\): fwhm, ndethist"),
        (STAMPS, np.ones((2, 3)), r"metadata: .*\(2, 3\)"),
        (STAMPS, {"fwhm": [1, 2]}, "metadata: .*ndethist.* 2 columns"),
        (STAMPS, [[1, 2], [3]], "^metadata: rows "),
        (STAMPS, [["a", "b"], ["c", "d"]], "^metadata: rows "),
        (STAMPS, {"fwhm": [1, 2], "ndethist": [1]}, r"metadata: ndethist .*\(1,\).*\(2,\)"),
        (STAMPS, {"fwhm": ["a", "b"], "ndethist": [1, 2]}, "^metadata: values of fwhm "),
        (np.float32(3), np.ones((2, 2)), "^stamps: "),
        ([[[1], [2, 3]]], np.ones((1, 2)), "^stamps: "),
        ([STAMPS[0].astype(object), np.full((63, 63, 3), "x", object)], np.ones((2, 2)), "^stamps: "),
    ),
)
def test_stamps_or_metadata_that_do_not_fit_are_named(
    runs: list[Path], stamps: Any, metadata: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        alerce_early.load(runs[0]).predict(stamps, metadata)


def test_a_path_that_is_not_a_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.ckpt").write_text("no checkpoint")
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "file.ckpt"):
        with pytest.raises(InputError):
            alerce_early.load(path)


def test_the_python_example_of_the_readme(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(
        r"```python\n(import alerce_early\n.*?)```",
        (CHECKOUT / "alerce_early/serving/README.md").read_text(),
        re.DOTALL,
    )
    messages = [packets.encode(packet) for packet, _ in packets.alerts(6, seed=2)]
    consumer = [[*messages[:3], b"no packet"], messages[3:]]
    exec(block.replace('"RUN"', repr(str(runs[0]))), {"consumer": consumer})
    message = capsys.readouterr().out
    assert "Avro container" in message and message.count("SN") >= 1


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import alerce_early, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT).returncode == 0


def test_predict_does_not_import_lightning_or_hydra() -> None:
    """Importing Lightning and Hydra takes 0.2 GiB and several seconds."""
    code = "import alerce_early.predict, sys; print([m for m in ('lightning', 'hydra') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_repr_describes_the_network(runs: list[Path]) -> None:
    one, both = repr(alerce_early.load(runs[0], runtime="bfloat16")), repr(alerce_early.load(*runs))
    assert "stamps (63, 63, 3)" in one and "AGN, SN, VS, asteroid, bogus" in one and "by bfloat16" in one
    assert all(name in one for name in alerce_early.load(runs[0]).features) and "mean of 2 networks" in both
