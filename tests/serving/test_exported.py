"""Exported files: the predictions of their run, without torch, and clear errors for damaged files."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow
import pytest
import torch
from omegaconf import DictConfig

import alerce_early
from alerce_early.artifacts import predictions
from alerce_early.artifacts.run_folder import Run, checkpoint_of
from alerce_early.data.readers import hits, sdss
from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError
from alerce_early.evaluation import tables
from alerce_early.experiments.config import to_plain
from alerce_early.experiments.instantiate import make_task
from alerce_early.models.net import Net
from alerce_early.serving import arrow, export, inputs, runtimes
from alerce_early.serving.classifier import Classifier
from alerce_early.serving.deployed import Deployed
from alerce_early.serving.predict import predict
from alerce_early.simulation import packets
from tests.helpers.command import run as run_command
from tests.helpers.tiny import CHECKOUT, spec

Table = dict[str, np.ndarray]

# Not needed to predict with torch: configs, evaluation and reports.
SPARED = ("hydra", "openvino", "sklearn", "jinja2", "astropy")
# Also not needed to run an exported file: training, figures and compilation.
ALSO_SPARED = ("torchvision", "lightning", "scipy", "matplotlib", "tensorboard", "torch._dynamo")
PREDICT_WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in {absent}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
from alerce_early.predict import main
main()
"""


@pytest.fixture(scope="module")
def run(finished_run: Run) -> Path:
    """A run with metadata, calibration and sets."""
    return finished_run.path


@pytest.fixture(scope="module")
def file(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, exported by the command line."""
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    assert run_command("alerce_early.export", run, "--out", file).returncode == 0
    return file


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("night")
    for i, (packet, _) in enumerate(packets.alerts(20, seed=3)):
        (folder / f"{i:02}.avro").write_bytes(packets.encode(packet))
    return folder


def predict_without(absent: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `predict` in a process where these modules cannot be imported."""
    command = [sys.executable, "-c", PREDICT_WITHOUT.format(absent=absent), *arguments]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)


def assert_alike(one: Table, other: Table) -> None:
    assert list(one) == list(other)
    for name, column in one.items():
        if column.dtype.kind in "fi":
            assert np.allclose(column, other[name], rtol=0, atol=1e-5, equal_nan=True), name
        else:
            assert (column == other[name]).all(), name


def test_an_exported_file_gives_the_table_of_its_run(run: Path, file: Path, night: Path, tmp_path: Path) -> None:
    of_run, of_file = alerce_early.load(run), alerce_early.load(file)
    assert (of_file.runtime, of_file.model, of_file.spec) == ("onnx", of_run.model, of_run.spec)
    found = []
    for classifier in (of_run, of_file):
        out = tmp_path / f"{classifier.runtime}.parquet"
        predict(classifier, inputs.find([night], classifier.spec), out)
        found.append(predictions.read(out))
    assert_alike(*found)
    assert {"q_SN", "set", "imputed", "model"} <= set(found[1]) and len(found[1]["candid"]) > 15
    assert np.ptp(found[1]["p_SN"]) > 1e-4  # otherwise equal tables would prove nothing


def test_embeddings_are_the_last_hidden_layer_by_any_runtime(
    run: Path, file: Path, night: Path, tmp_path: Path
) -> None:
    """The output layer turns them into the probabilities of the table."""
    found = {}
    for name, source, runtime in (("torch", run, None), ("mixed", run, "bfloat16"), ("onnx", file, None)):
        classifier = alerce_early.load(source, runtime=runtime, embedding=True)
        predict(classifier, inputs.find([night], classifier.spec), tmp_path / f"{name}.parquet")
        found[name] = predictions.read(tmp_path / f"{name}.parquet")
    table = found["torch"]
    hidden, layer = table["embedding"].astype(float), Deployed.load(checkpoint_of(run)).task.net.layers[-1]
    assert table["embedding"].dtype == np.float16 and hidden.shape == (len(table["candid"]), layer.in_features)
    logits = hidden @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert tables.probabilities(table, classifier.classes) == pytest.approx(wanted, abs=2e-3)
    for name, allowed in (("onnx", 1e-3), ("mixed", 3e-2)):
        assert found[name]["embedding"] == pytest.approx(hidden, rel=allowed, abs=allowed * np.ptp(hidden))
    assert "embedding" not in alerce_early.load(file).predict(np.zeros((1, 63, 63, 3)), np.zeros((1, 2)))


def test_embeddings_of_rejected_alerts_are_null(file: Path) -> None:
    some = [dict(packet) for packet, _ in packets.alerts(3, seed=3)]
    some[1]["cutoutTemplate"] = None
    classifier = alerce_early.load(file, embedding=True)
    answers = arrow.classify_arrow(pyarrow.Table.from_pylist(some), classifier)
    assert answers.schema == arrow.prediction_schema(classifier)
    assert answers["embedding"].is_null().to_pylist() == [False, True, False]


def test_networks_without_embeddings_name_the_option(
    run: Path, file: Path, night: Path, quick: Callable[..., DictConfig], tmp_path: Path
) -> None:
    task = make_task(quick(), spec(classes=("a", "b"), raw_shape=(3, 63, 63)))
    task.net = OneLayer(task.spec)
    assert Deployed(task, embedding=True).width == 0
    older = onnx.load(file)
    assert older.graph.output.pop().name == "embedding"
    del older.metadata_props[-1]  # its seal
    content = older.SerializeToString()
    (tmp_path / "older.onnx").write_bytes(content + runtimes.seal(content))
    assert alerce_early.load(tmp_path / "older.onnx").classes
    for options in ((tmp_path / "older.onnx", "--out", "a.parquet"), (run, "--out", "a.csv")):
        done = run_command("alerce_early.predict", options[0], night, "--embedding", *options[1:], cwd=tmp_path)
        assert done.returncode == 2 and "--embedding" in done.stderr and len(done.stderr.splitlines()) == 1


class OneLayer(Net):
    """A network without a hidden layer."""

    def __init__(self, spec: DataSpec):
        super().__init__(spec)
        self.layer = torch.nn.Linear(3 * 21 * 21, len(spec.classes))

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.layer(batch["image"].flatten(1))


def test_an_exported_file_classifies_without_torch(run: Path, file: Path, night: Path, tmp_path: Path) -> None:
    absent = ("torch", "omegaconf", "onnx", "onnxscript", "pandas", *SPARED, *ALSO_SPARED)
    done = predict_without(absent, str(file), str(night), "--out", str(tmp_path / "alone.csv"))
    assert done.returncode == 0, done.stderr
    classifier = alerce_early.load(run)
    predict(classifier, inputs.find([night], classifier.spec), tmp_path / "run.csv")
    alone, wanted = predictions.read(tmp_path / "alone.csv"), predictions.read(tmp_path / "run.csv")
    assert alone["candid"].tolist() == wanted["candid"].tolist() and alone["set"].tolist() == wanted["set"].tolist()
    assert alone["q_SN"] == pytest.approx(wanted["q_SN"], abs=1e-5)
    done = predict_without(absent, "--help")
    assert done.returncode == 0 and "--runtime" in done.stdout


def test_predicting_with_torch_imports_nothing_for_evaluation(run: Path, night: Path, tmp_path: Path) -> None:
    """The libraries for evaluation and figures would take 0.1 GiB."""
    code = f"import sys; from alerce_early.predict import main; main(); print(*(set({SPARED}) & sys.modules.keys()))"
    command = [sys.executable, "-c", code, str(run), str(night), "--out", str(tmp_path / "out.csv")]
    done = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[1:] == [""]


def test_onnx_needs_an_exported_file_and_its_extra(run: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--runtime onnx: .*alerce_early\.export"):
        alerce_early.load(run, runtime="onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"onnxruntime.*\[export\]"):
        alerce_early.load(file)


def test_an_ensemble_mixes_files_and_runs(run: Path, file: Path) -> None:
    stamps, metadata = np.random.default_rng(0).normal(size=(5, 63, 63, 3)), np.ones((5, 2))
    both = alerce_early.load(file, run)
    assert both.runtime == "onnx+float32" and both.model.count("+") == 1
    alone = alerce_early.load(run).predict(stamps, metadata)
    assert both.predict(stamps, metadata)["q_SN"] == pytest.approx(alone["q_SN"], abs=1e-5)


@pytest.mark.parametrize(
    ("overrides", "facts"),
    (
        (("model=hits_shallow", "recipe=minmax"), {"channels": hits.CHANNELS[:3], "classes": ("bogus", "real")}),
        (("model=spectra_redshift", "recipe=spectra"), {"channels": sdss.CHANNELS, "classes": sdss.CLASSES}),
    ),
    ids=("HiTS", "spectra"),
)
def test_hits_and_spectra_networks_can_be_exported(
    overrides: tuple[str, ...], facts: dict[str, Any], composed: Callable[..., DictConfig], tmp_path: Path
) -> None:
    spectra = "recipe=spectra" in overrides
    shapes: dict[str, Any] = {"shape": (3, 21, 21), "raw_shape": (3, 63, 63)}
    if spectra:
        shapes = {"shape": (1, 443), "raw_shape": (2, 443), "kind": "spectra"}
    config = composed(*overrides)
    torch.manual_seed(0)
    net = Deployed(make_task(config, spec(recipe=tuple(to_plain(config.recipe.steps)), **shapes, **facts)))
    (tmp_path / "model.onnx").write_bytes(export.content_of(net)[0])
    classifier = alerce_early.load(tmp_path / "model.onnx")
    of_run = Classifier([(net.facts, runtimes.eager(net))], "torch")
    assert classifier.classes == (() if spectra else ("bogus", "real"))
    rows = np.random.default_rng(0).uniform(1, 2, size=(4, *classifier.shape))
    assert_alike(classifier.predict(rows), of_run.predict(rows))
    assert inputs.endings(classifier.spec)


def changed(file: Path, out: Path, **texts: Any) -> Path:
    """Write the file with other metadata, without any that is None; the graph stays."""
    model = onnx.load(file)
    message = {entry.key: entry.value for entry in model.metadata_props if entry.key != "sha256"}
    message |= {name: text if isinstance(text, str) else json.dumps(text) for name, text in texts.items()}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {name: text for name, text in message.items() if text != "null"})
    content = model.SerializeToString()
    out.write_bytes(content + runtimes.seal(content))
    return out


REDSHIFT = {"columns": ["predicted", "confidence"], "conformal": " null", "calibration": " null"}
SETS = {name: [0.5] * 5 for name in ("set", "set_marginal")}


@pytest.mark.parametrize(
    ("texts", "message"),
    (
        ({"format_version": None}, "no model metadata"),
        ({"format_version": "2"}, "format 2"),
        ({"spec": None}, "invalid model metadata"),
        ({"spec": "{"}, "invalid model metadata"),
        ({"spec": "[" * 100_000}, "invalid model metadata"),
        ({"spec": []}, "invalid model metadata"),
        ({"columns": [1, 2]}, "Facts: columns="),
        ({"columns": ["predicted", "=cmd()"]}, "columns include '=cmd"),
        ({"columns": ["p_SN"]}, "invalid model metadata"),
        ({"calibration": {"scale": [1.0]}}, "calibration"),
        (REDSHIFT, "its table is float32 .1, 10., expected 2 columns"),
        ({"conformal": {"coverage": 0.9, "thresholds": SETS | {"set": [0.5] * 4}}}, "conformal"),
        ({"conformal": [1]}, "Facts: conformal="),
    ),
)
def test_invalid_metadata_are_refused(texts: dict[str, Any], message: str, file: Path, tmp_path: Path) -> None:
    other = changed(file, tmp_path / "other.onnx", **texts)
    with pytest.raises(InputError, match=rf"^{other}: .*{message}"):
        alerce_early.load(other)


@pytest.mark.parametrize(
    ("values", "message"),
    (
        ({"raw_shape": "abc"}, "DataSpec: raw_shape=abc"),
        ({"raw_shape": [3, -63, 63]}, "raw_shape"),
        ({"raw_shape": [3, 1 << 40, 1 << 40]}, "raw_shape"),
        ({"raw_shape": [3, 21, 21]}, "onnxruntime cannot run it"),
        ({"features": ["fwhm"]}, "onnxruntime cannot run it"),
        ({"stranger": 1}, "invalid model metadata"),
    ),
)
def test_an_invalid_spec_is_refused(values: dict[str, Any], message: str, file: Path, tmp_path: Path) -> None:
    right = alerce_early.load(file).spec.plain()
    other = changed(file, tmp_path / "other.onnx", spec=right | values)
    with pytest.raises(InputError, match=message):
        alerce_early.load(other)


def test_a_flipped_bit_is_detected(file: Path, tmp_path: Path) -> None:
    """Most bytes of the file are weights, which onnxruntime does not check."""
    content, other = file.read_bytes(), tmp_path / "other.onnx"
    for place in np.linspace(0, len(content) - 1, 20).astype(int):
        damaged = bytearray(content)
        damaged[place] ^= 64
        other.write_bytes(damaged)
        with pytest.raises(InputError, match=r"damaged|format|metadata"):
            alerce_early.load(other)
    unsealed = onnx.load(file)
    (entry,) = [entry for entry in unsealed.metadata_props if entry.key == "sha256"]
    unsealed.metadata_props.remove(entry)
    other.write_bytes(unsealed.SerializeToString())
    with pytest.raises(InputError, match="sha256"):
        alerce_early.load(other)


def test_damaged_missing_and_other_files_are_refused(file: Path, tmp_path: Path) -> None:
    content, other = file.read_bytes(), tmp_path / "other.onnx"
    for damaged in (b"", b"no network", content[: len(content) // 2], content[:-1000]):
        other.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"^{other}"):
            alerce_early.load(other)
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(InputError):
            alerce_early.load(path)
    with pytest.raises(InputError, match=r"model\.pt2.*torch\.export\.load"):
        alerce_early.load(tmp_path / "model.pt2")
    with pytest.raises(InputError, match=r"--runtime openvino: .*model\.onnx"):
        alerce_early.load(file, runtime="openvino")
