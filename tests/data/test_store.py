"""Stores: counts, fingerprints, and preparation after damage."""

import ast
import pickle
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alerce_early.data import cleaning, raw_files
from alerce_early.data.datamodule import AlertData
from alerce_early.data.readers.stamps_file import COLUMNS
from alerce_early.errors import InputError
from alerce_early.experiments.instantiate import make_data
from alerce_early.report import data_summary, pictures
from tests.helpers.command import run
from tests.helpers.tiny import stamp

LOWEST = np.finfo(np.float32).min
PACKAGE = Path(cleaning.__file__).parents[1]
# Files of `data` and `simulation` on which no store depends.
OTHER_CODE = {"augment", "datamodule", "sampling", "spec", "splits", "store"}


def raw() -> dict[str, Any]:
    """Return twelve stamps: one SN that is not square, one with NaN in a corner and one with NaN in the centre."""
    images = [stamp(i) + np.arange(63, dtype=np.float32)[:, None, None] for i in range(12)]
    images[1] = images[1][:, :50]
    images[1][0, 0] = np.nan  # 3 values in a stamp that is dropped
    images[2][:2, :2, 0] = np.nan  # 4 values far from the centre
    images[3][31, 31, 2] = np.nan  # 1 value in the crop
    labels = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 1, 1]
    return {"images": images, "labels": labels, "metadata": np.zeros((12, len(COLUMNS)))}


@pytest.fixture
def raw_file(tmp_path: Path) -> Path:
    path = tmp_path / "raw.pkl"
    path.write_bytes(pickle.dumps(raw()))
    return path


@pytest.fixture
def data(raw_file: Path, tmp_path: Path, composed) -> AlertData:
    return make_data(composed("data=alerce", "recipe=minmax", f"data.path={raw_file}", f"outputs={tmp_path}"))


def test_the_counts_of_the_course_report(data: AlertData) -> None:
    meta = data.store.meta
    assert (meta["images"], meta["labels"], meta["metadata"]) == (12, 12, 12)
    assert meta["raw_by_class"] == [2, 4, 2, 2, 2]
    assert meta["dropped_by_class"] == [0, 1, 0, 0, 0]
    assert meta["kept_by_class"] == [2, 3, 2, 2, 2]
    assert meta["nan_values"] == 8 and meta["odd_values"] == 0 and meta["kept_with_nan_after_crop"] == 1


def test_stamps_with_few_valid_central_pixels_are_dropped(tmp_path: Path, composed) -> None:
    content = raw()
    for i, nothing in ((4, np.nan), (5, np.inf), (6, LOWEST)):
        content["images"][i][:] = nothing
    content["images"][7][21:37, 21:42, 1] = np.nan  # 5 of 21 lines of the template are left, 23.8 %
    content["images"][8][21:36, 21:42, 1] = np.nan  # and 6 here, 28.6 %
    path = tmp_path / "raw.pkl"
    path.write_bytes(pickle.dumps(content))
    store = make_data(composed("data=alerce", "recipe=minmax", f"data.path={path}", f"outputs={tmp_path}")).store
    assert store.ids.tolist() == [f"row{i}" for i in (0, 2, 3, 8, 9, 10, 11)]
    assert len(store.images) == len(store.labels) == len(store.features) == 7
    assert np.allclose(store.images[4][:, :, 0], np.arange(21, 42) / 62)  # row 9 of the file
    meta = store.meta
    assert meta["lacking_by_class"] == [1, 1, 1, 0, 1] and meta["dropped_by_class"] == [0, 1, 0, 0, 0]
    assert meta["nan_values"] == 8 + 63 * 63 * 3 + 16 * 21 + 15 * 21 and meta["odd_values"] == 2 * 63 * 63 * 3
    assert meta["kept_with_nan_after_crop"] == 2
    less = composed("data=alerce", "recipe=minmax", f"data.path={path}", f"outputs={tmp_path}", "recipe.min_share=0.2")
    assert make_data(less).store.meta["lacking_by_class"] == [1, 1, 0, 0, 1]
    path.write_bytes(pickle.dumps(content | {"images": [stamp(np.nan) for _ in range(12)]}))
    with pytest.raises(InputError, match="central pixels"):
        _ = make_data(composed("data=alerce", "recipe=minmax", f"data.path={path}", f"outputs={tmp_path}")).store


def test_arrays_of_a_store_are_in_the_same_order(data: AlertData) -> None:
    store = data.store
    assert store.images.shape == (11, 3, 21, 21) and store.images.dtype == np.float32
    assert store.labels.tolist() == [0, 2, 3, 4, 0, 1, 2, 3, 4, 1, 1]
    assert store.ids.tolist() == [f"row{i}" for i in (0, *range(2, 12))]
    # row 4 of the file: lines rise by 1 from 4 to 66, so after min-max line 21 of 62 is 21/62
    assert np.allclose(store.images[3][:, :, 0], np.arange(21, 42) / 62)


def test_pictures_are_drawn(data: AlertData) -> None:
    pictures.draw(data.store)
    for name in ("labels.png", "dropped.png", "examples.png"):
        assert (data.store.path / name).read_bytes().startswith(b"\x89PNG")


def test_features_are_clipped_and_missing_becomes_minus_one(tmp_path: Path, composed) -> None:
    content = raw()
    content["metadata"][:, COLUMNS.index("sgscore1")] = -999
    content["metadata"][:, COLUMNS.index("fwhm")] = np.nan
    content["metadata"][:, COLUMNS.index("ndethist")] = 5000
    path = tmp_path / "raw.pkl"
    path.write_bytes(pickle.dumps(content))
    store = make_data(composed("data=alerce", "recipe=minmax", f"data.path={path}", f"outputs={tmp_path}")).store
    columns = dict(zip(COLUMNS, store.features[0], strict=True))
    assert columns["sgscore1"] == -1 and columns["ndethist"] == 20 and columns["fwhm"] == -999


def test_cleaning_code_does_not_change_without_its_version() -> None:
    """Update the digest after a change of the code, and increase the version if stores may change.

    Comments, layout and docstrings are ignored.
    """
    digest = sha256()
    for file in sorted([*PACKAGE.glob("data/**/*.py"), *PACKAGE.glob("simulation/*.py")]):
        for node in ast.walk(ast.parse(file.read_text())) if file.stem not in OTHER_CODE else ():
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = ""  # a docstring, which `walk` visits later
            values = [value for _, value in ast.iter_fields(node) if not isinstance(value, list | ast.AST)]
            digest.update(repr((type(node).__name__, values)).encode())
    assert (cleaning.CLEANING_VERSION, digest.hexdigest()[:12]) == (3, "d32024dc8b67")


def test_the_fingerprint_depends_on_file_recipe_margin_and_version(
    raw_file: Path, tmp_path: Path, composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name(*overrides: str) -> str:
        return make_data(
            composed("data=alerce", "recipe=minmax", f"data.path={raw_file}", f"outputs={tmp_path}", *overrides)
        ).store.path.name

    first = name()
    assert name() == first
    assert len({first, name("recipe=crop_minmax"), name("recipe.size=31"), name("augment=rotations")}) == 4
    with monkeypatch.context() as patched:
        patched.setattr(cleaning, "CLEANING_VERSION", cleaning.CLEANING_VERSION + 1)
        assert name() != first
    content = raw()
    content["labels"][0] = 1
    raw_file.write_bytes(pickle.dumps(content))
    assert name() != first


def test_opening_a_store_does_not_read_the_raw_file(data: AlertData, composed, raw_file: Path, monkeypatch) -> None:
    path = data.store.path

    def fails(*_: object) -> None:
        raise AssertionError("the raw file was unpickled again")

    monkeypatch.setattr("alerce_early.data.readers.array_files.load_pickle", fails)
    again = make_data(
        composed("data=alerce", "recipe=minmax", f"data.path={raw_file}", f"outputs={path.parent.parent}")
    )
    assert again.store.path == path and len(again.store.images) == 11


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


DAMAGES = {
    "images.npy": cut,
    "labels.npy": cut,
    "meta.json": cut,
    "features.npy": lambda file: file.write_bytes(b""),
    "ids.npy": Path.unlink,
    "examples.npz": Path.unlink,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_store_is_prepared_again_with_a_warning(
    data: AlertData, raw_file: Path, tmp_path: Path, composed, name: str, caplog
) -> None:
    file = data.store.path / name
    whole = file.read_bytes()
    DAMAGES[name](file)
    again = make_data(composed("data=alerce", "recipe=minmax", f"data.path={raw_file}", f"outputs={tmp_path}")).store
    assert again.path == data.store.path and file.read_bytes() == whole and len(again.images) == len(again.ids) == 11
    assert [name in record.message for record in caplog.records] == [True]
    _ = make_data(composed("data=alerce", "recipe=minmax", f"data.path={raw_file}", f"outputs={tmp_path}")).store
    assert len(caplog.records) == 1


@pytest.mark.parametrize("names", (["a.avro"], ["a.avro", "b.avro"]))
def test_a_folder_of_packets_is_not_a_stamps_file(names: list[str], tmp_path: Path, composed) -> None:
    (folder := tmp_path / "night").mkdir()
    for name in names:
        (folder / name).write_bytes(raw_files.AVRO)
    with pytest.raises(InputError, match=r"Avro container.*data=alerts"):
        _ = make_data(composed("data=alerce", "recipe=minmax", f"data.path={folder}", f"outputs={tmp_path}/out")).store


def test_the_home_folder_is_expanded(raw_file: Path, tmp_path: Path, composed, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(raw_file.parent))
    quoted = composed("data=alerce", "recipe=minmax", f"data.path='~/{raw_file.name}'", f"outputs={tmp_path}")
    assert len(make_data(quoted).store.images) == 11
    home = ("data=alerce", f"data.path=~/{raw_file.name}", f"outputs={tmp_path}/outputs")
    done = run("alerce_early.prepare", *home, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_columns_of_data_without_metadata_are_an_error(raw_file: Path, tmp_path: Path, composed) -> None:
    raw_file.write_bytes(pickle.dumps(raw() | {"metadata": None}))
    with pytest.raises(InputError, match=r"no metadata.*features=none"):
        _ = make_data(
            composed(
                "data=alerce", "recipe=minmax", f"data.path={raw_file}", f"outputs={tmp_path}", "features=published"
            )
        ).spec


def test_unlabelled_packets_are_an_error_that_names_data_labels(real_data: Path, tmp_path: Path, composed) -> None:
    packet = next((real_data / "alerts").glob("*.avro"))
    with pytest.raises(InputError, match=r"label.*data\.labels="):
        _ = make_data(composed("data=alerts", f"data.path={packet}", f"outputs={tmp_path}")).labels


def test_an_empty_class_is_named(tmp_path: Path, composed) -> None:
    content = raw()
    content["labels"] = [0 if label == 1 else label for label in content["labels"]]
    path = tmp_path / "raw.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=r"class SN has no row left after cleaning.*groups"):
        _ = make_data(composed("data=alerce", "recipe=minmax", f"data.path={path}", f"outputs={tmp_path}")).labels


def test_classes_can_be_grouped_and_left_out(raw_file: Path, tmp_path: Path, composed) -> None:
    groups = "data.groups={SN:[SN],rest:[AGN,VS]}"
    data = make_data(composed("data=alerce", "recipe=minmax", f"data.path={raw_file}", f"outputs={tmp_path}", groups))
    assert data.classes == ("SN", "rest")
    assert data.labels.tolist() == [1, 1, -1, -1, 1, 0, 1, -1, -1, 0, 0]
    assert data.left_out == {"asteroid": 2, "bogus": 2}
    assert "asteroid 2" in data_summary.format_parts({}, data.left_out)
    with pytest.raises(InputError, match=r"data\.groups.*comet"):
        groups = "data.groups={SN:[SN],rest:[comet]}"
        _ = make_data(
            composed("data=alerce", "recipe=minmax", f"data.path={raw_file}", f"outputs={tmp_path}", groups)
        ).labels


def test_a_file_without_square_stamps_is_an_error(tmp_path: Path, composed) -> None:
    path = tmp_path / "raw.pkl"
    path.write_bytes(pickle.dumps(raw() | {"images": [stamp(i, 63, 50) for i in range(12)]}))
    with pytest.raises(InputError, match=r"square.*\(63, 50, 3\)"):
        _ = make_data(composed("data=alerce", "recipe=minmax", f"data.path={path}", f"outputs={tmp_path}")).store


def test_a_missing_file_is_an_error(tmp_path: Path, composed) -> None:
    data = make_data(composed("data=alerce", "recipe=minmax", f"data.path={tmp_path}/none.pkl", f"outputs={tmp_path}"))
    with pytest.raises(InputError, match=r"none\.pkl cannot be read: No such file.*data\.path=FILE"):
        _ = data.store


def test_counts_of_the_real_stamps(real_data: Path, tmp_path: Path, composed) -> None:
    meta = make_data(
        composed("data=alerce", "recipe=minmax", f"data.path={real_data}/ztf_public_stamps.pkl", f"outputs={tmp_path}")
    ).store.meta
    assert meta["kept_by_class"] == [60, 77, 108, 200, 47]
    assert meta["lacking_by_class"] == [0] * 5
    assert meta["nan_values"] == 67_883 and meta["odd_values"] == 2_992


STEP = "from alerce_early.data.recipe import NanToZero\n\n\nclass MyStep(NanToZero):\n    pass\n"
READER = "from alerce_early.data.readers import stamps_file\n\n\ndef read(path):\n    return stamps_file.read(path)\n"


@pytest.mark.parametrize(
    ("own", "options"),
    (
        (STEP, ("recipe.steps=[{_target_: own_code.MyStep}]",)),
        (READER, ("data.source._target_=own_code.read",)),
    ),
    ids=("step", "reader"),
)
def test_a_store_is_prepared_again_when_user_code_changes(
    own: str, options: tuple[str, ...], raw_file: Path, tmp_path: Path, composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_code", raising=False)
    code = tmp_path / "own_code.py"
    code.write_text(own)
    options = ("data=alerce", "recipe=minmax", *options, f"data.path={raw_file}", f"outputs={tmp_path}")
    first = make_data(composed(*options)).store
    code.write_text(f"{own}# changed\n")
    assert make_data(composed(*options)).store.path != first.path
