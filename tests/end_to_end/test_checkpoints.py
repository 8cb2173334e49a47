"""Golden checkpoints of each format give the same outputs; damaged and hostile ones are refused with a clear error."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import alerce_early
from alerce_early.artifacts import checkpoints
from alerce_early.construct import RENAMED, construct, find
from alerce_early.errors import InputError
from alerce_early.models.rotinv import DeepHiTS
from alerce_early.serving.deployed import Deployed
from alerce_early.tasks import restore
from alerce_early.tasks.classify import ClassifyTask
from tests.end_to_end.kills import differences
from tests.make_golden import outputs

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("format*/*.ckpt"))
CLASSIFY = next(path for path in GOLDEN if path.stem == "classify")


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_golden_checkpoint_alone_reproduces_its_outputs(path: Path) -> None:
    with np.load(path.with_suffix(".npz")) as held:
        golden = {name: held[name] for name in held.files}
    found = outputs(path, golden.pop("raw"))
    assert set(found) == set(golden)
    for name, column in found.items():
        if column.dtype.kind == "f":
            # other processors and versions of torch sum in another order
            assert np.allclose(column, golden[name], rtol=1e-4, atol=1e-5, equal_nan=True), name
        else:
            assert (column == golden[name]).all(), name


def test_a_checkpoint_contains_everything_prediction_needs() -> None:
    held = torch.load(CLASSIFY, weights_only=True)
    assert held["format"] == checkpoints.FORMAT
    assert held["calibration"] and held["conformal"] and held["hyper_parameters"]["spec"]["recipe"]
    with np.load(CLASSIFY.with_suffix(".npz")) as golden:
        assert {"p_SN", "q_SN", "set"} <= set(golden.files)


def changed(path: Path, **changes: Any) -> Path:
    """Write a copy of a golden checkpoint with some entries replaced."""
    torch.save(torch.load(CLASSIFY, weights_only=True) | changes, path)
    return path


def hyper(**changes: Any) -> dict[str, Any]:
    """Return the hyper-parameters of a golden checkpoint with some entries replaced."""
    held = torch.load(CLASSIFY, weights_only=True)
    return {**held["hyper_parameters"], **changes}


@pytest.mark.parametrize("other", (None, 0, checkpoints.FORMAT + 1, "new"))
def test_another_format_is_refused(other: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"format {other}\b.*\b{checkpoints.FORMAT}\b"):
        checkpoints.read(changed(tmp_path / "a.ckpt", format=other))


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    """A flip without effect is in bytes that are not read, such as timestamps of the zip archive or padding."""
    whole, path, refused = CLASSIFY.read_bytes(), tmp_path / "a.ckpt", 0
    places = range(0, len(whole), 211)
    wanted = checkpoints.read(CLASSIFY)
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 64
        path.write_bytes(damaged)
        try:
            assert differences(wanted, checkpoints.read(path)) == [], place
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > len(places) / 3


@pytest.mark.parametrize("value", (np.nan, np.inf))
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    weights = torch.load(CLASSIFY, weights_only=True)["state_dict"]
    name = list(weights)[-1]
    weights[name].view(-1)[-1] = value
    with pytest.raises(InputError, match=rf"a\.ckpt.*{name}.*not finite"):
        alerce_early.load(changed(tmp_path / "a.ckpt", state_dict=weights))


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        ({"task": "os.system"}, "_target_ 'os.system'"),
        ({"task": "alerce_early.models.rotinv.RotInv"}, "RotInv"),
        ({"task": 7}, "_target_|'int'"),
        ({"state_dict": {}}, "Missing key"),
        ({"state_dict": None}, "no network config or no weights|NoneType"),
        ({"hyper_parameters": []}, "must be a mapping|list"),
        (
            {"hyper_parameters": hyper(net={"_target_": "subprocess.Popen", "args": "true"})},
            r"a\.ckpt: _target_ 'subprocess",
        ),
        (
            {"hyper_parameters": hyper(net={**hyper()["net"], "layers": ["flatten", "dense 7"]})},
            "size mismatch|Missing key",
        ),
        (
            {"hyper_parameters": hyper(net={"_target_": "alerce_early.models.spectra_lines.SpectraLines"})},
            "SpectraLines",
        ),
    ),
)
def test_an_inconsistent_checkpoint_gives_a_one_line_error(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as error:
        restore.task(changed(tmp_path / "a.ckpt", **changes))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


SETS = {name: [0.5] * 5 for name in ("set", "set_marginal")}


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        ({"calibration": {"scale": 1.0}}, "calibration"),
        ({"calibration": {"temperature": [1.0]}}, "calibration"),
        ({"calibration": {"temperature": 1.0, 1: 2}}, "'<' not supported"),
        ({"trained_on": ["ZTF1"]}, "trained_on"),
        ({"calibration": "abc"}, "calibration"),
        ({"conformal": {"coverage": 0.9}}, "conformal"),
        ({"conformal": {"coverage": 0.9, "thresholds": {"set": [0.5] * 5}}}, "conformal"),
        ({"conformal": {"coverage": 0.9, "thresholds": SETS | {"set": [0.5] * 4}}}, "conformal"),
    ),
)
def test_an_invalid_calibration_gives_a_one_line_error(changes: dict, message: str, tmp_path: Path) -> None:
    path = changed(tmp_path / "a.ckpt", **changes)
    with pytest.raises(InputError, match=rf"^{path}: .*{message}") as error:
        Deployed.load(path)
    assert "\n" not in str(error.value)


def test_a_checkpoint_without_the_shape_of_raw_stamps_is_refused(tmp_path: Path) -> None:
    incomplete = hyper()["spec"] | {"raw_shape": ()}
    with pytest.raises(InputError, match="raw_shape"):
        alerce_early.load(changed(tmp_path / "a.ckpt", hyper_parameters=hyper(spec=incomplete)))


@pytest.mark.parametrize("former", RENAMED)
def test_former_names_of_classes_and_functions_are_found(former: str) -> None:
    name = former if former.endswith(".read") else f"{former}.{'DeepHiTS' if 'models' in former else 'read'}"
    assert callable(find(name))


def test_a_checkpoint_with_a_former_network_name_opens(tmp_path: Path) -> None:
    former = {"_target_": "alerce_early.models.deep_hits.DeepHiTS"}
    weights = ClassifyTask(**hyper(net={"_target_": "alerce_early.models.rotinv.DeepHiTS"})).state_dict()
    path = changed(tmp_path / "a.ckpt", hyper_parameters=hyper(net=former), state_dict=weights)
    assert isinstance(restore.task(path).net, DeepHiTS)


def test_types_and_length_of_a_tuple_argument_are_checked() -> None:
    def named(pair: tuple[int, str]) -> tuple[int, str]:
        return pair

    assert construct(named, pair=[1, "a"]) == [1, "a"]
    for pair in ([1, 2], [1], [1, "a", "b"], []):
        with pytest.raises(InputError, match="named: pair="):
            construct(named, pair=pair)


@pytest.mark.parametrize(
    "call",
    ((bytearray, (10**11,)), (torch.Tensor, (10**11,)), (eval, ("1",)), (print, ("x",))),
    ids=lambda c: str(c[0]),
)
def test_a_pickle_that_calls_other_functions_is_refused(call: tuple, tmp_path: Path) -> None:
    class Calls:
        def __reduce__(self) -> tuple:
            return call

    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(OrderedDict(a=Calls()), protocol=2))
        archive.writestr("a/version", "3\n")
    with pytest.raises(InputError, match=rf"a\.ckpt.*\.{call[0].__name__}'"):
        checkpoints.read(path)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    whole = CLASSIFY.read_bytes()
    path = tmp_path / "a.ckpt"
    for content in (b"", b"id,label\n", whole[:100], whole[:-100], whole[:3000] + whole[3100:], pickle.dumps({"a": 1})):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.ckpt"):
            restore.task(path)
    with pytest.raises(InputError, match=r"none\.ckpt"):
        checkpoints.read(tmp_path / "none.ckpt")
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"a\.ckpt.*not a checkpoint"):
        checkpoints.read(path)
    with zipfile.ZipFile(CLASSIFY) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as squeezed:
        for entry in stored.namelist():
            squeezed.writestr(entry, stored.read(entry))
    with pytest.raises(InputError, match="compressed"):
        checkpoints.read(path)


def test_a_storage_larger_than_its_bytes_is_refused(tmp_path: Path) -> None:
    """Torch trusts the size in the pickle and would read memory past the end of the storage."""
    path = tmp_path / "a.ckpt"
    torch.save({"hyper_parameters": {}, "state_dict": {"w": torch.zeros(258)}}, tmp_path / "small.ckpt")
    with zipfile.ZipFile(tmp_path / "small.ckpt") as stored, zipfile.ZipFile(path, "w") as forged:
        for entry in stored.infolist():
            content = stored.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert content.count(b"M\x02\x01") == 2
                content = content.replace(b"M\x02\x01", b"J\xff\xff\xff\x00")
            forged.writestr(entry.filename, content)
    with pytest.raises(InputError, match="damaged"):
        checkpoints.read(path)
