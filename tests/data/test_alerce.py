"""Every layout of the stamps file, and one clear error per mistake."""

import gzip
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alerce_early.data.readers import stamps_file
from alerce_early.data.records import UNLABELLED
from alerce_early.errors import InputError
from alerce_early.simulation import survey
from tests.helpers.tiny import stamp


def raw(**changes: Any) -> dict[str, Any]:
    """Return a valid raw dict of five stamps, one per class."""
    return {
        "images": [stamp(i) for i in range(5)],
        "labels": list(range(5)),
        "metadata": [[float(i)] * len(stamps_file.COLUMNS) for i in range(5)],
    } | changes


def read(content: Any, tmp_path: Path) -> stamps_file.Records:
    path = tmp_path / "stamps.pkl"
    path.write_bytes(pickle.dumps(content))
    return stamps_file.read(path)


@pytest.mark.parametrize("end", (".pkl.gz", ".npz", ".h5"))
def test_other_formats_give_the_same_records(end: str, tmp_path: Path) -> None:
    dense = raw(images=np.stack([stamp(i) for i in range(5)]), labels=["AGN", "SN", "VS", "asteroid", "bogus"])
    file = tmp_path / f"stamps{end}"
    if end == ".npz":
        np.savez_compressed(file, **dense)
    elif end == ".h5":
        with pytest.importorskip("h5py").File(file, "w") as held:
            held.update(dense)
    else:
        file.write_bytes(gzip.compress(pickle.dumps(dense)))
    found, wanted = stamps_file.read(file), read(dense, tmp_path)
    for name in ("images", "labels", "features", "ids"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=f"{file.name} is "):
        stamps_file.read(file)


def hdf5(file: Path, **changes: Any) -> Any:
    """Open an HDF5 file of five stamps, with some entries changed or omitted."""
    held = pytest.importorskip("h5py").File(file, "w")
    entries = raw(images=np.stack([stamp(i) for i in range(5)])) | changes
    held.update({name: value for name, value in entries.items() if value is not None})
    return held


@pytest.mark.parametrize("how", ("external link", "link to a link", "external storage", "virtual", "a whole part"))
def test_hdf5_files_cannot_read_other_files(how: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (other := tmp_path / "other").write_bytes(bytes(range(256)) * 1000)
    hdf5(tmp_path / "private.h5").close()
    shape = (5, 63, 63, 3)
    with hdf5(file := tmp_path / "stamps.h5", images=None) as held:
        if how == "external link":
            held["images"] = h5py.ExternalLink("private.h5", "images")
        elif how == "link to a link":
            held["elsewhere"], held["images"] = h5py.ExternalLink("private.h5", "images"), h5py.SoftLink("elsewhere")
        elif how == "external storage":
            held.create_dataset("images", shape, "f4", external=[(str(other), 0, h5py.h5f.UNLIMITED)])
        elif how == "virtual":
            layout = h5py.VirtualLayout(shape, "f4")
            layout[:] = h5py.VirtualSource(tmp_path / "private.h5", "images", shape)
            held.create_virtual_dataset("images", layout)
        else:
            held["Train"] = h5py.ExternalLink("private.h5", "/")
    with pytest.raises(InputError, match=r"stamps\.h5: .*(images|Train)"):
        stamps_file.read(file)


def test_small_files_that_declare_large_arrays_are_refused(tmp_path: Path) -> None:
    rows = 2000  # 95 MB of zeros
    entries = raw(images=np.zeros((rows, 63, 63, 3), "f4"), labels=np.zeros(rows, int), metadata=np.zeros((rows, 0)))
    np.savez_compressed(tmp_path / "stamps.npz", **entries)
    with hdf5(tmp_path / "stamps.h5", images=None, labels=entries["labels"], metadata=None) as held:
        held.create_dataset("images", (rows, 63, 63, 3), "f4", chunks=True)
    for file in (tmp_path / "stamps.npz", tmp_path / "stamps.h5"):
        assert file.stat().st_size < 1 << 20
        with pytest.raises(InputError, match=file.name):
            stamps_file.read(file)


def test_a_long_text_repeated_by_many_rows_is_refused(tmp_path: Path) -> None:
    with hdf5(file := tmp_path / "stamps.h5", oid=["x" * 1_000_000, *map(str, range(1, 300))]) as held:
        place = held["oid"].id.get_offset()
    content = bytearray(file.read_bytes())
    content[place : place + 300 * 16] = content[place : place + 16] * 300
    file.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"stamps\.h5.*oid"):
            stamps_file.read(file)
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


def test_unused_entries_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "stamps.npz", **raw(images=np.stack(raw()["images"])), notes=np.array([None]))
    with hdf5(tmp_path / "stamps.h5", oid=[f"ZTF{i}" for i in range(5)]) as held:
        held["notes"] = pytest.importorskip("h5py").ExternalLink("private.h5", "/")
    assert len(stamps_file.read(tmp_path / "stamps.npz")) == 5
    assert stamps_file.read(tmp_path / "stamps.h5").ids.tolist() == [f"ZTF{i}" for i in range(5)]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_duplicate_entry_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images"):
        read(raw() | {"Images": raw()["images"]}, tmp_path)
    with pytest.raises(InputError, match="labels"):
        read({"Train": raw() | {"LABELS": [0] * 5}}, tmp_path)
    np.savez(file := tmp_path / "stamps.npz", **raw(images=np.stack(raw()["images"])))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("labels.npy", archive.read("labels.npy"))
    with pytest.raises(InputError, match="labels"):
        stamps_file.read(file)


def test_npz_of_several_shapes_is_refused(tmp_path: Path) -> None:
    images = np.array([*[stamp(i) for i in range(4)], stamp(4, 50, 63)], dtype=object)
    np.savez(tmp_path / "stamps.npz", **raw(images=images))
    with pytest.raises(InputError, match=r"stamps\.npz.*pickled list"):
        stamps_file.read(tmp_path / "stamps.npz")


def test_a_pandas_table_is_refused_with_code_to_convert_it(tmp_path: Path) -> None:
    (file := tmp_path / "table.pkl").write_bytes(b"cpandas.core.frame\nDataFrame\n(tR.")
    with pytest.raises(InputError, match=r"pandas table.*raw\['metadata'\].to_numpy\(\)"):
        stamps_file.read(file)


LAYOUTS = {
    "as published": {},
    "dense": {"images": np.stack([stamp(i) for i in range(5)])},
    "object array": {"images": np.array([*[stamp(i) for i in range(4)], stamp(4, 50, 63)], dtype=object)},
    "float64": {"images": [stamp(i).astype(np.float64) for i in range(5)]},
    "big-endian": {"images": [stamp(i).astype(">f4") for i in range(5)]},
    "class names": {"labels": ["AGN", "SN", "VS", "asteroid", "bogus"]},
    "label array": {"labels": np.arange(5, dtype=np.int8)},
    "float labels": {"labels": np.arange(5.0)},
    "metadata array": {"metadata": np.arange(5.0)[:, None].repeat(26, 1)},
}


@pytest.mark.parametrize("changes", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_read_alike(tmp_path: Path, changes: dict[str, Any]) -> None:
    records = read(raw(**changes), tmp_path)
    assert len(records) == 5 and records.labels.tolist() == [0, 1, 2, 3, 4]
    assert [float(image[20, 20, 1]) for image in records.images] == [0, 1, 2, 3, 4]
    assert records.features.tolist() == [[float(i)] * 26 for i in range(5)]
    assert records.feature_names == stamps_file.COLUMNS


@pytest.mark.parametrize("rename", (str.title, str.upper, str.lower))
def test_names_are_case_insensitive(tmp_path: Path, rename: Any) -> None:
    assert len(read({rename(key): value for key, value in raw().items()}, tmp_path)) == 5


def test_metadata_are_optional(tmp_path: Path) -> None:
    for content in (raw(metadata=None), {key: raw()[key] for key in ("images", "labels")}):
        assert read(content, tmp_path).features.shape == (5, 0)


def test_the_published_columns_are_recognised(tmp_path: Path) -> None:
    names = read(raw(metadata=np.zeros((5, 23))), tmp_path).feature_names
    assert len(names) == 23 and not {"rb", "distnr", "magnr"} & set(names)


@pytest.mark.parametrize("key", ("oid", "object_ids", "OID"))
def test_object_ids_are_kept_and_default_to_one_per_row(tmp_path: Path, key: str) -> None:
    assert read(raw(**{key: ["a", "a", "b", "c", "d"]}), tmp_path).ids.tolist() == ["a", "a", "b", "c", "d"]
    assert len(set(read(raw(), tmp_path).ids)) == 5


def test_a_file_can_define_its_classes(tmp_path: Path) -> None:
    """Of all its splits together and of a test file; numeric labels index the given classes."""
    parts = {
        "Train": raw(labels=["AGN", "SN Ia", "satellite", b"VS", "SN"]),
        "Test": raw(labels=["asteroid", "Satellite", "", "TDE", "AGN?"]),
    }
    path = tmp_path / "parts.pkl"
    path.write_bytes(pickle.dumps(parts))
    records = stamps_file.read(path, classes="labels")
    assert records.classes == ("AGN", "SN", "VS", "asteroid", "SN Ia", "Satellite", "TDE")
    assert records.labels.tolist() == [0, 4, 5, 2, 1, 3, 5, UNLABELLED, 6, 0]
    six = ["satellite", "AGN", "SN", "VS", "asteroid", "bogus"]
    one = tmp_path / "one.pkl"
    one.write_bytes(pickle.dumps(raw(labels=[0, 5, 3, 1, -1])))
    records = stamps_file.read(path, test_path=one, classes=six, labels_map={"tde": "bogus"})
    assert records.labels.tolist() == [1, 2, 0, 3, 2, 4, 0, UNLABELLED, 5, 1, 0, 5, 3, 1, UNLABELLED]
    assert stamps_file.to_raw(np.zeros((2, 3, 3, 3)), ["SN", "satellite"], ["a", "b"])["labels"] == ["SN", "satellite"]


def test_a_row_may_have_no_label(tmp_path: Path) -> None:
    assert read(raw(labels=[0, -1, 2, -1, 4]), tmp_path).labels.tolist() == [0, UNLABELLED, 2, UNLABELLED, 4]


def test_a_file_can_define_its_split(tmp_path: Path) -> None:
    part = {"images": raw()["images"], "labels": raw()["labels"], "features": np.zeros((5, 26))}
    records = read({"Train": part, "Validation": part, "Test": part}, tmp_path)
    assert records.part is not None
    assert records.part.tolist() == ["train"] * 5 + ["validation"] * 5 + ["test"] * 5
    assert len(set(records.ids)) == 15  # rows of different splits are different objects


ERRORS: dict[str, tuple[Any, str]] = {
    "lengths": (raw(labels=[0, 1]), r"labels.*\(2,\).*\(5,\)"),
    "metadata length": (raw(metadata=np.zeros((4, 26))), "5 images, 5 labels, 4 metadata"),
    "unknown number": (raw(labels=[0, 1, 2, 3, 7]), "label 7"),
    "negative label": (raw(labels=[0, 1, 2, 3, -2]), "label -2"),
    "half a label": (raw(labels=[0, 1, 2, 3, 0.5]), "label 0.5"),
    "unknown name": (raw(labels=["AGN", "SN", "VS", "comet", "bogus"]), "label comet"),
    "no labels": ({"images": [stamp()]}, "no labels"),
    "no images": ({"labels": [1]}, "no images"),
    "no rows": (raw(images=[], labels=[], metadata=[]), "holds no rows"),
    "a list": ([1, 2], "a list"),
    "not arrays": (raw(images=["a"] * 5), "images.*str"),
    "text pixels": (raw(images=[np.full((63, 63, 3), "a")] * 5), "images.*<U1"),
    "columns": (raw(metadata=np.zeros((5, 24))), r"metadata.*\(5, 24\)"),
    "ids of NaN": (raw(oid=[float("nan")] * 5), "oid.*NaN"),
    "ragged metadata": (raw(metadata=[[0.0] * 26] * 4 + [[0.0]]), "metadata differ"),
}


@pytest.mark.parametrize(("content", "message"), ERRORS.values(), ids=ERRORS)
def test_an_invalid_file_raises_one_clear_error(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(content, tmp_path)


def test_a_missing_path_names_the_flag() -> None:
    with pytest.raises(InputError, match=r"data\.path=FILE.*ALERCE_STAMPS=FILE"):
        stamps_file.read(None)


def test_the_real_file_is_read(real_data: Path) -> None:
    records = stamps_file.read(real_data / "ztf_public_stamps.pkl")
    assert np.bincount(records.labels).tolist() == [60, 77, 110, 201, 48]
    assert len(set(records.ids)) == 446


def test_a_second_file_is_the_test_split(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "test.pkl"
    path.write_bytes(pickle.dumps(raw()))
    records = stamps_file.read(request.getfixturevalue("stamps_file"), test_path=path)
    assert records.part is not None and set(records.part[:-5]) == {"train"} and set(records.part[-5:]) == {"test"}
    assert records.labels[-5:].tolist() == [0, 1, 2, 3, 4]


def test_simulated_training_with_a_real_test_split(real_data: Path) -> None:
    records = survey.read(n=50, test_path=real_data / "ztf_public_stamps.pkl")
    assert len(records) == 546 and (records.part == "test").sum() == 496
