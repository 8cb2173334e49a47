"""Files of archives, brokers and students: read as packets or stamps, or described in an error."""

import base64
import gzip
import io
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow
import pytest
from astropy.io import fits
from astropy.table import Table
from pyarrow import parquet

from alerce_early.data import raw_files
from alerce_early.data.readers import formats, stamps_file
from alerce_early.data.readers.packets import containers, exports, stream
from alerce_early.data.readers.packets.fields import CUTOUTS
from alerce_early.data.readers.packets.fits_cutout import image
from alerce_early.data.records import UNLABELLED
from alerce_early.errors import InputError, MissingExtraError
from alerce_early.serving import inputs
from alerce_early.simulation import packets as night
from tests.data import test_rubin as rubin
from tests.helpers.networks import constant
from tests.helpers.tiny import stamp

ZTF = [packet for packet, _ in night.alerts(3, seed=0)]
RUBIN = [rubin.packet(i) for i in range(3)]
EXTNAMES = {"cutoutDifference": "DIFFIM", "cutoutScience": "SCIENCE", "cutoutTemplate": "TEMPLATE"}
FINK = {"ra": "i:ra", "magpsf": "i:magpsf", "isdiffpos": "i:isdiffpos"}


def as_text(held: Any) -> Any:
    """Return a packet with base64 cutouts, as in JSON of services."""
    if isinstance(held, dict):
        return {name: as_text(value) for name, value in held.items()}
    if isinstance(held, list):
        return list(map(as_text, held))
    return base64.b64encode(held).decode() if isinstance(held, bytes) else held


def fink(packet: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a Fink table: prefixed columns, cutouts as lists of lists with NaN."""
    row = {"i:objectId": packet["objectId"], "i:candid": packet["candid"], "v:classification": "Unknown"}
    row |= {flat: packet["candidate"][name] for name, flat in FINK.items()}
    return row | {f"b:{name}_stampData": image(packet[name]["stampData"]).tolist() for name in CUTOUTS.values()}


def fits_of(packet: dict[str, Any], names: dict[str, str], tables: bool = False) -> bytes:
    """Return a FITS file of three images; ALeRCE's client omits EXTNAME, Rubin's archive adds tables."""
    units: list[Any] = [fits.PrimaryHDU()] if names else []
    for field in names or CUTOUTS.values():
        held = packet[field]["stampData"] if isinstance(packet[field], dict) else packet[field]
        with fits.open(io.BytesIO(gzip.decompress(held) if held.startswith(raw_files.GZIP) else held)) as cutout:
            kind = fits.ImageHDU if units else fits.PrimaryHDU
            units.append(kind(cutout[0].data, cutout[0].header))
        if names:
            units[-1].name = names[field]
    if tables:
        rows = [{"diaSourceId": 7, "band": "y", "ra": 1.0}, packet["diaSource"] | {"earlier": None}]
        columns = {name: [row[name] for row in rows] for name in ("diaSourceId", "band", "ra")}
        columns |= {"diaObjectId": [9, packet["diaSource"]["diaObjectId"]], "trigger": [False, True]}
        units += [fits.BinTableHDU(Table(columns), name="DIASOURCE"), fits.BinTableHDU(Table(), name="MPCORBIT")]
    file = io.BytesIO()
    fits.HDUList(units).writeto(file)
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


KINDS: dict[str, Callable[[], dict[str, bytes]]] = {
    "JSON of a list": lambda: {"night.JSON": json.dumps(as_text(ZTF), indent=1).encode()},
    "JSON, one per line, gzipped": lambda: {
        "night.jsonl.gz": gzip.compress("\n".join(json.dumps(one) for one in as_text(ZTF)).encode())
    },
    "Fink's JSON": lambda: {"fink.json": b"\xef\xbb\xbf" + json.dumps(list(map(fink, ZTF))).encode()},
    "pandas' columns": lambda: {
        "a.json": json.dumps(
            {name: {str(i): fink(one)[name] for i, one in enumerate(ZTF)} for name in fink(ZTF[0])}
        ).encode()
    },
    "a list under a name": lambda: {"a.json": json.dumps({"schema": {}, "data": list(map(fink, ZTF))}).encode()},
    "Fink's Parquet": lambda: {"fink.parquet": as_parquet(list(map(fink, ZTF)))},
    "zip": lambda: {"night.zip": zipped({f"../a/{i}": night.encode(one) for i, one in enumerate(ZTF)})},
    "zip of Fink's rows": lambda: {
        "night.ZIP": zipped({f"{i}.json": json.dumps(fink(one)).encode() for i, one in enumerate(ZTF)})
    },
    "FITS of ALeRCE's client": lambda: {f"{one['candid']}.fits": fits_of(one, {}) for one in ZTF},
    "FITS by EXTNAME": lambda: {
        f"{one['objectId']}_{one['candid']}.FITS.gz": gzip.compress(
            fits_of(one, {"cutoutTemplate": "template", "cutoutDifference": "DIFF", "cutoutScience": "Science"})
        )
        for one in ZTF
    },
    "JSON of Rubin's archive": lambda: {f"{i}.json": json.dumps(as_text(one)).encode() for i, one in enumerate(RUBIN)},
    "FITS of Rubin's archive": lambda: {
        f"{i}.fits": fits_of(one, EXTNAMES, tables=True) for i, one in enumerate(RUBIN)
    },
    "FITS of Rubin's cutouts": lambda: {
        f"{one['diaSource']['diaSourceId']}.fits": fits_of(one, EXTNAMES) for one in RUBIN
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_exports_give_the_same_records_as_packets(kind: str, tmp_path: Path) -> None:
    """Stamps and ids are the same, for prediction and training, from a file or a folder."""
    survey, packets = ("Rubin", RUBIN) if "Rubin" in kind else ("ZTF", ZTF)
    encoded = [rubin.container(one) if survey == "Rubin" else night.encode(one) for one in packets]
    wanted = stream.decode(encoded)
    for name, content in KINDS[kind]().items():
        (tmp_path / name).write_bytes(content)
    spec = constant("AGN", "SN", survey=survey).spec
    chunks = list(inputs.find([tmp_path], spec).chunks(2, survey=survey))
    assert sum(chunk.read for chunk in chunks) == 3 and not any(chunk.rejected for chunk in chunks)
    found = np.concatenate([chunk.records.images for chunk in chunks if chunk.records])
    keys = [key for chunk in chunks for key in chunk.keys]
    assert sorted(keys) == sorted(wanted.keys)
    assert wanted.records is not None
    rows = [wanted.keys.tolist().index(key) for key in keys]
    assert np.array_equal(found, np.asarray(wanted.records.images)[rows], equal_nan=True)
    label = f"{'diaSourceId' if survey == 'Rubin' else 'candid'},label\n{keys[1]},SN\n"
    (tmp_path / "labels.csv").write_text(label)
    records = stream.read(tmp_path, survey=survey)
    assert records.survey == survey and records.labels.tolist() == [UNLABELLED, 1, UNLABELLED]
    if "FITS of Rubin's archive" in kind:
        assert records.ids.tolist() == wanted.records.ids.tolist() and records.features[0, 0] == 150.5
    if kind.startswith("Fink"):
        column = records.feature_names.index("magpsf")
        assert np.array_equal(records.features[:, column], wanted.records.features[:, column])


def test_fits_files_without_astropy_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An install without torch may lack astropy, which ordinary packets do not need."""
    (tmp_path / "stamps.fits").write_bytes(fits_of(ZTF[0], {}))
    fits.PrimaryHDU(np.ones((4, 4), "i2")).writeto(tmp_path / "whole.fits")  # whole numbers are read by astropy
    monkeypatch.setitem(sys.modules, "astropy.io", None)
    with pytest.raises(MissingExtraError, match="alerts"):
        list(stream.stream([tmp_path / "stamps.fits"], workers=0))
    with pytest.raises(MissingExtraError, match="alerts") as raised:
        image((tmp_path / "whole.fits").read_bytes())
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)  # as a worker process sends it
    assert next(stream.stream([night.write(tmp_path / "night.tar.gz", 3)[0]], workers=0)).records


def test_stamps_without_metadata_need_a_network_of_images(tmp_path: Path) -> None:
    """Alerts are named by their files; equal names in different folders are different alerts."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "stamps.fits").write_bytes(fits_of(ZTF[0], {}))
    images = constant("AGN", "SN", survey="ZTF").spec
    (chunk,) = inputs.find([tmp_path], images).chunks(9, survey="ZTF")
    assert chunk.keys.tolist() == [f"{tmp_path.name}/{folder}/stamps.fits" for folder in "ab"] and chunk.records
    assert chunk.records.ids.tolist() == ["stamps", "stamps"]
    columns = constant("AGN", "SN", survey="ZTF", features=("rb",), feature_mean=(0.0,), feature_std=(1.0,)).spec
    (chunk,) = inputs.find([tmp_path], columns).chunks(9, survey="ZTF")
    assert chunk.records is None and len(chunk.rejected) == 2 and "features=none" in chunk.rejected[0].reason


def bomb() -> bytes:
    return zipped({f"{i}.json": bytes(1 << 25) for i in range(3)})


def without(name: str) -> bytes:
    return json.dumps([as_text(ZTF[0]), {key: value for key, value in as_text(ZTF[1]).items() if key != name}]).encode()


BAD: dict[str, tuple[bytes, int, str]] = {  # by name: content, number of readable alerts, a word of the reason
    "bomb.zip": (bomb(), 0, "declare"),
    "cut.json": (json.dumps(as_text(ZTF)).encode()[:-900], 2, "cut short"),
    "no end.json": (json.dumps(as_text(ZTF)).encode()[:-1], 3, "cut short"),
    "two.json": (without("cutoutTemplate"), 1, "cutoutTemplate"),
    "no text.json": (json.dumps(as_text(ZTF[0]) | {"cutoutScience": "%%%"}).encode(), 0, "cutoutScience"),
    "digits.json": (json.dumps(fink(ZTF[0]) | {"i:candid": "9" * 5000, "i:ra": 10**400}).encode(), 0, "candid"),
    "huge.json": (json.dumps(fink(ZTF[0]) | {"i:ra": 10**400}).encode(), 0, "too large"),
    "float.json": (json.dumps(fink(ZTF[0]) | {"i:candid": 1.5e18}).encode(), 0, "candid"),
    "other.json": (b'{"a": 1, "b": [{}]}', 0, "objectId"),
    "mixed.zip": (zipped({"a.avro": night.encode(ZTF[0]), "b.csv": b"ra,dec\n1,2\n"}), 1, "columns ra, dec"),
    "half.zip": (zipped({"a.avro": night.encode(ZTF[0])})[:900], 0, "cut short|zip"),
    "two.fits": (fits_of(ZTF[0], {"cutoutScience": "SCIENCE", "cutoutTemplate": "TEMPLATE"}), 0, "two images of 63"),
    "twice.fits": (fits_of(ZTF[0], dict.fromkeys(CUTOUTS.values(), "SCIENCE")), 0, "three images"),
    "cut.fits": (fits_of(ZTF[0], {})[:20000], 0, "FITS"),
    "table.parquet": (as_parquet([{"i:objectId": "ZTF1", "i:magpsf": 2.0}]), 0, "columns i:objectId"),
    "floats.parquet": (as_parquet([fink(ZTF[0]) | {"i:candid": 1.5e18}]), 0, "i:candid"),
    "arrays.npz": (pickle.dumps({"images": []}), 0, "data=alerce"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_rejected_row_and_the_rest_is_read(name: str, tmp_path: Path) -> None:
    content, sound, word = BAD[name]
    (tmp_path / name).write_bytes(content)
    (chunk,) = stream.stream([tmp_path])
    assert len(chunk.keys) == sound and len(chunk.rejected) == 1 == chunk.read - sound
    for row in chunk.rejected:
        assert row.reason.isprintable() and any(one in row.reason for one in word.split("|")), row.reason


def test_json_is_read_record_by_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts and lists may exceed the read buffer; a record that is too large is rejected."""
    texts = [{"a": '}"{\\' * n, "b": {"c": [n] * n}} for n in (1, 30_000, 3, 400_000)]
    for written in (json.dumps(texts), "\n".join(map(json.dumps, texts)), json.dumps(texts[3], indent=3)):
        found = [json.loads(one) for one in exports.split_json(io.BytesIO(written.encode()))]
        assert found == (texts if len(found) == 4 else texts[3:])
    monkeypatch.setattr(exports, "MAX_RECORD_BYTES", 1 << 20)
    blocks = list(containers.iter_blocks(io.BytesIO(json.dumps(texts).encode()), "a.json"))
    assert [bool(block.damage) for block in blocks] == [False, False, False, True]


def test_npy_files_get_labels_from_a_csv(tmp_path: Path) -> None:
    """Channels first or last, labels row by row in a CSV; a single stamp; an ambiguous shape."""
    images = np.stack([stamp(i) for i in range(5)])
    (tmp_path / "train_triplets.csv").write_text("objectId,type\nA,SN Ia\nB,AGN\nC,\nA,SN II\nD,CV\n")
    for held in (images, np.moveaxis(images, 3, 1)):
        np.save(tmp_path / "train_triplets.npy", held)
        records = stamps_file.read(tmp_path / "train_triplets.npy")
        assert np.array_equal(records.images, images, equal_nan=True)
        assert records.labels.tolist() == [1, 0, UNLABELLED, 1, 2] and records.ids.tolist() == [*"ABCAD"]
    (tmp_path / "other.csv").write_text("label\nSN\n")
    with pytest.raises(InputError, match=r"data\.labels"):
        stamps_file.read(tmp_path / "train_triplets.npy", labels_path=tmp_path / "other.csv")
    np.save(tmp_path / "one.npy", images[0])
    with pytest.raises(InputError, match=r"data\.labels"):
        stamps_file.read(tmp_path / "one.npy")
    spec = constant("AGN", "SN", survey="ZTF").spec
    (chunk,) = inputs.find([tmp_path / "one.npy"], spec).chunks(9)
    assert chunk.keys.tolist() == ["one.npy:0"] and chunk.records and chunk.records.labels.tolist() == [UNLABELLED]
    np.save(tmp_path / "small.npy", images[:, :3, :, :])
    (chunk,) = inputs.find([tmp_path / "small.npy"], spec).chunks(9)
    assert "3 x 63 x 3" in chunk.rejected[0].reason and chunk.records is None
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (chunk,) = inputs.find([tmp_path / "objects.npy"], spec).chunks(9)
    assert chunk.read == len(chunk.rejected) == 1 and "objects" in chunk.rejected[0].reason


def test_arrays_under_other_names(tmp_path: Path) -> None:
    """Names are given with `data.columns` and `--columns`, also for MultimodalUniverse's files by sky region."""
    h5py = pytest.importorskip("h5py")
    images, names = np.stack([stamp(i) for i in range(5)]), np.array(["AGN", "SN", "VS", "SN", "bogus"])
    np.savez(tmp_path / "a.npz", X=np.moveaxis(images, 3, 1), y=[0, 1, 2, 1, 4], who=np.arange(5))
    columns = {"images": "x", "labels": "y", "ids": "WHO"}
    numbered: dict[Any, str] = {i: name for i, name in enumerate(["AGN", "SN", "VS", "asteroid", "bogus"])}
    found = stamps_file.read(tmp_path / "a.npz", columns=columns, labels_map=numbered)
    assert found.labels.tolist() == [0, 1, 2, 1, 4] and found.ids.tolist() == [*"01234"]
    assert np.array_equal(found.images, images, equal_nan=True)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"columns": columns}, "labels_map"),
        ({"columns": {"images": "Z"}}, r"data\.columns\.images=Z"),
        ({"columns": {"pictures": "X"}}, r"data\.columns"),
    )
    for options, word in wrong:
        with pytest.raises(InputError, match=word):
            stamps_file.read(tmp_path / "a.npz", **options)
    spec = constant("AGN", "SN", survey="ZTF").spec
    (chunk,) = inputs.find([tmp_path / "a.npz"], spec).chunks(9)
    assert "--columns" in chunk.rejected[0].reason and "X 5 x 3 x 63 x 63" in chunk.rejected[0].reason
    (chunk,) = inputs.find([tmp_path / "a.npz"], spec, columns={"images": "X"}).chunks(9)
    assert chunk.records and np.array_equal(chunk.records.images, images, equal_nan=True)
    with pytest.raises(InputError, match="--columns"):
        (tmp_path / "a.avro").write_bytes(night.encode(ZTF[0]))
        inputs.find([tmp_path / "a.avro"], spec, columns={"images": "X"})

    for part, rows in enumerate((slice(0, 2), slice(2, 5))):
        (tmp_path / f"sky/healpix=000{part}").mkdir(parents=True)
        with h5py.File(tmp_path / f"sky/healpix=000{part}/001-of-001.hdf5", "w") as file:
            file["image_triplet"], file["object_id"] = images[rows], np.arange(5)[rows]
            file["OBJECT_ID_"] = np.array([f"ZTF{i // 2}" for i in range(5)][rows], "S")
            file["type"] = names[rows].astype("S")
    found = stamps_file.read(tmp_path / "sky", columns={"labels": "type"})
    assert np.array_equal(np.stack(list(found.images)), images, equal_nan=True) and found.part is None
    assert found.labels.tolist() == [0, 1, 2, 1, 4] and found.ids.tolist() == ["ZTF0", "ZTF0", "ZTF1", "ZTF1", "ZTF2"]


def test_a_file_that_no_network_reads_is_described(tmp_path: Path) -> None:
    spec = constant("AGN", "SN", survey="ZTF").spec
    held = {
        "a.csv": (b"objectId,ra\nZTF1,2\n", "table without stamps"),
        "b.parquet": (as_parquet([{"objectId": "ZTF1"}]), "columns objectId"),
        "c.png": (b"\x89PNG\r\n", "PNG"),
        "d.txt": (b"some words", "text"),
    }
    for name, (content, words) in held.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=words) as caught:
            inputs.find([tmp_path / name], spec)
        assert str(caught.value).startswith(f"{tmp_path / name} is ") and "\n" not in str(caught.value)
    (tmp_path / "night.zip").write_bytes(zipped({str(i): night.encode(one) for i, one in enumerate(ZTF)}))
    spectra = constant("STAR", "QSO", channels=("flux", "ivar"), kind="spectra", survey="").spec
    with pytest.raises(InputError, match="a zip of 3 packets"):
        inputs.find([tmp_path / "night.zip"], spectra)
    assert formats.look(tmp_path / "nothing")[0] is formats.OTHER


def test_every_real_file_is_read_or_rejected(real_data: Path) -> None:
    """Every input row is classified or rejected; fastavro counts the records of containers."""
    spec = {survey: constant("AGN", "SN", survey=survey).spec for survey in ("ZTF", "Rubin")}
    files = [file for file in real_data.rglob("*") if file.is_file() and "spectra" not in file.parts]
    read = 0
    for file in files:
        survey = "Rubin" if "rubin" in str(file.relative_to(real_data)) else "ZTF"
        try:
            chunks = list(inputs.find([file], spec[survey]).chunks(200, survey=survey))
        except InputError as error:
            assert file.suffix in (".csv", "", ".md", ".txt"), error
            continue
        given = sum(chunk.read for chunk in chunks)
        assert given == sum(len(chunk.keys) + len(chunk.rejected) for chunk in chunks) > 0
        read += sum(len(chunk.keys) for chunk in chunks)
        if file.parent.name == "alerts":
            with file.open("rb") as content:
                assert given == sum(block.num_records for block in fastavro.block_reader(content))
        if "cases" in file.parts:
            assert not any(chunk.rejected for chunk in chunks)
    assert read > 100
