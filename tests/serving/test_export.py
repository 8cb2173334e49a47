"""Exported files agree with the checkpoint: every recipe, any batch size, invalid stamps, without this package."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from omegaconf import DictConfig

from alerce_early import export
from alerce_early.artifacts import checkpoints
from alerce_early.artifacts.run_folder import Run
from alerce_early.data.readers.stamps_file import CLASSES, COLUMNS
from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError
from alerce_early.experiments.config import to_plain
from alerce_early.experiments.instantiate import make_task
from alerce_early.serving import export as exporting
from alerce_early.serving.deployed import Deployed
from tests.helpers.tiny import spec

Composed = Callable[..., DictConfig]


def deployed(composed: Composed, *overrides: str, kind: str = "stamps") -> Deployed:
    """Make an untrained, calibrated network of these options, with all metadata if its model uses any."""
    config = composed(*overrides)
    steps = to_plain(config.recipe.steps)
    raw = (2, 443) if kind == "spectra" else (3, 63, 63)
    channels = {"joint": 4, "two_scales": 8, "l2": 6}.get(str(overrides[0]).partition("=")[2], raw[0])
    names = COLUMNS if "features=all" in overrides else ()
    shape = (1, 443) if kind == "spectra" else (channels, 21, 21)
    facts = spec(names, kind=kind, shape=shape, classes=CLASSES, recipe=tuple(steps), raw_shape=raw)
    torch.manual_seed(0)
    fitted = {"temperature": 1.5, "kept": None}
    return Deployed(make_task(config, facts), fitted if kind == "stamps" else None)


def session(content: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "overrides",
    [
        ("recipe=minmax", "model=rotinv"),
        ("recipe=joint", "model=preliminary_cnn"),
        ("recipe=two_scales", "model=stamp_classifier", "features=all"),
        ("recipe=crop_minmax", "model=preliminary_cnn"),
        ("recipe=l2", "model=preliminary_cnn"),
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_onnx_agrees_with_the_checkpoint(overrides: tuple[str, ...], composed: Composed) -> None:
    net = deployed(composed, *overrides)
    content, different = exporting.content_of(net)
    assert different <= exporting.TOLERANCE
    run = session(content)
    for n in (1, 7):
        rows = {name: rows[:n] for name, rows in exporting.edge_cases(net, n=7, seed=3).items()}
        with torch.no_grad():
            wanted = net(*map(torch.from_numpy, rows.values())).numpy()
        probabilities, table = run.run(["probabilities", "table"], rows)
        assert probabilities.shape == (n, 5) and table.shape == (n, 10)
        assert np.abs(probabilities - wanted).max() < 1e-5
        assert np.abs(probabilities.sum(1) - 1).max() < 1e-5
    message = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    assert message["model_id"] == net.model_id and message["licence"] == "MIT" and message["format_version"] == "1"
    assert json.loads(message["classes"]) == list(CLASSES)
    assert json.loads(message["features"]) == list(net.features)
    assert json.loads(message["columns"]) == list(net.columns)
    assert DataSpec.from_plain(json.loads(message["spec"])) == net.spec


def test_a_redshift_network_exports_a_table_without_probabilities(composed: Composed) -> None:
    net = deployed(composed, "model=spectra_redshift", "recipe=spectra", kind="spectra")
    run = session(exporting.content_of(net)[0])
    assert [output.name for output in run.get_outputs()] == ["table"]
    rows = exporting.edge_cases(net)
    found = run.run(None, rows)[0]
    assert np.isfinite(found[:16]).all()  # this recipe keeps NaN and infinite fluxes that have a weight
    wanted = net(torch.from_numpy(rows["stamps"])).detach().numpy()
    assert np.allclose(found, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_an_exported_checkpoint_has_only_float16_weights(composed: Composed, tmp_path: Path) -> None:
    net = deployed(composed, "recipe=minmax", "model=rotinv")
    content, different = exporting.content_of(net, "checkpoint")
    path = tmp_path / "small.ckpt"
    path.write_bytes(content)
    assert {weight.dtype for weight in checkpoints.read(path)["state_dict"].values()} == {torch.float16}
    assert len(content) < 2.2 * sum(weight.numel() for weight in net.parameters())
    rows = {name: torch.from_numpy(rows) for name, rows in exporting.edge_cases(net, seed=3).items()}
    lost = (Deployed.load(path)(**rows) - net(**rows)).abs().nan_to_num().max()
    assert 0 < lost < 10 * different


def test_edge_cases_of_spectra_are_resolved_by_float32(composed: Composed) -> None:
    """A spectrum whose scatter is far below its mean becomes rounding noise, which differs between runtimes."""
    net = deployed(composed, "model=spectra_redshift", "recipe=spectra", kind="spectra")
    rows = torch.from_numpy(exporting.edge_cases(net)["stamps"][:16])
    lost = (net.task.recipe(rows).double() - net.task.recipe(rows.double())).abs().max()
    assert float(lost) < exporting.TOLERANCE


def test_a_torch_program_runs_without_the_package(composed: Composed, tmp_path: Path) -> None:
    net = deployed(composed, "recipe=joint", "model=preliminary_cnn")
    file = tmp_path / "model.pt2"
    file.write_bytes(exporting.content_of(net, "torch")[0])
    rows = exporting.edge_cases(net, n=3)["stamps"]
    np.save(tmp_path / "rows.npy", rows)
    code = (
        "import sys, json, torch, numpy; files = {'facts.json': ''}; "
        "net = torch.export.load(sys.argv[1], extra_files=files).module(); "
        "numpy.save(sys.argv[3], net(torch.from_numpy(numpy.load(sys.argv[2])))[0].numpy()); "
        "assert not any(name.startswith('alerce_early') for name in sys.modules); "
        "print(json.loads(files['facts.json'])['model_id'])"
    )
    out = tmp_path / "out.npy"
    done = subprocess.run(
        [sys.executable, "-c", code, str(file), str(tmp_path / "rows.npy"), str(out)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == net.model_id
    assert np.abs(np.load(out) - net(torch.from_numpy(rows)).numpy()).max() < 1e-5


def test_a_file_that_disagrees_is_refused(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    net = deployed(composed, "recipe=minmax", "model=preliminary_cnn")
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match=r"--format torch: .*differ"):
        exporting.content_of(net, "torch")


@pytest.mark.parametrize(("name", "form"), [("model.bin", "onnx"), ("model.pt2", "onnx"), ("model.onnx", "torch")])
def test_a_name_without_the_extension_of_its_format_is_refused(
    name: str, form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["export", "RUN", "--out", name, "--format", form])
    with pytest.raises(SystemExit, match="2"):
        export.main()
    expected = f"{export.ENDS[form]} for --format {form}"
    err = capsys.readouterr().err
    assert err.startswith(f"error: --out {name}: ") and expected in err and err.count("\n") == 1


def test_an_existing_file_is_replaced_only_with_overwrite(
    finished_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.pt2"
    asked = ["export", str(finished_run.path), "--out", str(out), "--format", "torch"]
    monkeypatch.setattr(sys, "argv", asked)
    export.main()
    written = out.read_bytes()
    with pytest.raises(SystemExit, match="2"):
        export.main()
    assert "--overwrite" in capsys.readouterr().err and out.read_bytes() == written
    monkeypatch.setattr(sys, "argv", [*asked, "--overwrite"])
    export.main()
    assert out.stat().st_size
    monkeypatch.setattr(sys, "argv", [*asked, "--out", str(out / "model.pt2")])
    with pytest.raises(SystemExit, match="2"):
        export.main()
    assert (err := capsys.readouterr().err).endswith("Choose another place with --out.\n") and err.count("\n") == 1
