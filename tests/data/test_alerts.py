"""Streams of alert packets: contents, order, labels and worker processes."""

import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from omegaconf import DictConfig

from alerce_early import generate
from alerce_early.data import labels
from alerce_early.data.readers.packets import stream
from alerce_early.data.readers.stamps_file import CLASSES, COLUMNS
from alerce_early.data.records import UNLABELLED
from alerce_early.errors import InputError
from alerce_early.experiments.instantiate import make_data
from alerce_early.report import data_summary
from alerce_early.simulation import packets
from alerce_early.simulation.survey import simulate
from tests.helpers.command import running

N = 150  # more than two batches, so that processes are used
SEED = 7  # stamps 6 and 11 of 40, and 32 of 120, are truncated at the edge of a chip


@pytest.fixture(scope="module")
def night() -> list[dict[str, Any]]:
    """Return N packets of 40 scenes, all with different ids."""
    return [packet for packet, _ in packets.alerts(N, seed=SEED, pool_size=40)]


@pytest.fixture(scope="module")
def folder(night: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one Avro file per packet, in subfolders."""
    folder = tmp_path_factory.mktemp("night")
    for i, packet in enumerate(night):
        file = folder / f"field{i // 50}" / f"{packet['candid']}.avro"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(packets.encode(packet))
    return folder


def everything(*paths: Path | str, **options: Any) -> dict[str, Any]:
    """Return all chunks of a stream, concatenated."""
    chunks = list(stream.stream(paths, **options))
    records = [chunk.records for chunk in chunks if chunk.records is not None]
    joined = {name: np.concatenate([getattr(r, name) for r in records]) for name in ("images", "ids", "features")}
    joined["keys"] = np.concatenate([chunk.keys for chunk in chunks])
    joined["rejected"] = [(packet.key, packet.reason) for chunk in chunks for packet in chunk.rejected]
    return joined


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["rejected"] == other["rejected"] and all(
        np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f")
        for name in ("images", "ids", "features", "keys")
    )


def test_packets_contain_the_simulated_stamps_and_metadata(night: list[dict[str, Any]], folder: Path) -> None:
    survey = simulate(40, seed=SEED)
    rows = np.arange(N) % 40
    whole = np.array([survey["images"][row].shape == (63, 63, 3) for row in rows])
    read = everything(folder)
    assert read["images"].dtype == np.float32 and read["images"].shape == (whole.sum(), 63, 63, 3)
    wanted = np.stack([survey["images"][row] for row in rows[whole]])
    assert np.isnan(wanted).any() and np.array_equal(read["images"], wanted, equal_nan=True)
    assert read["features"] == pytest.approx(survey["metadata"][rows[whole]], abs=1e-9)
    kept = [packet for packet, there in zip(night, whole, strict=True) if there]
    assert read["keys"].tolist() == [str(packet["candid"]) for packet in kept]
    assert read["ids"].tolist() == [packet["objectId"] for packet in kept]
    assert len(set(read["ids"])) == len(kept) and 0 < len(read["rejected"]) == N - len(kept)
    assert all("63 x 63" in reason for _, reason in read["rejected"])


def test_missing_values_are_those_of_the_training_file(night: list[dict[str, Any]], tmp_path: Path) -> None:
    lacking = dict.fromkeys(("ra", "ndethist", "rb", "distnr", "isdiffpos")) | {"fwhm": float("nan")}
    packet = night[0] | {"candidate": night[0]["candidate"] | lacking}
    (tmp_path / "one.avro").write_bytes(packets.encode(packet))
    (row,) = everything(tmp_path)["features"]
    missing = {name for name, value in zip(COLUMNS, row, strict=True) if value == -999}
    derived = {"ecl_lat", "ecl_long", "gal_lat", "gal_long", "non_detections"}
    of_simulation = {name for name, value in night[0]["candidate"].items() if value == -999}
    assert missing == set(lacking) | derived | of_simulation


def test_every_container_gives_the_same_records(night: list[dict[str, Any]], folder: Path, tmp_path: Path) -> None:
    wanted = everything(folder)
    assert same(wanted, everything(f"{folder}/field*/*.avro"))
    assert same(wanted, everything(*(folder / f"field{i}" for i in range(3)), folder))  # each file once
    for codec, interval in (("null", 1), ("null", 1 << 19), ("deflate", 1 << 19)):
        with (tmp_path / "many.avro").open("wb") as file:
            fastavro.writer(file, packets.SCHEMA, night, codec=codec, sync_interval=interval)
        assert same(wanted, everything(tmp_path / "many.avro", size=37))
    quick = {"compresslevel": 1}
    for name, options in (("night.tar.gz", quick), ("night.tar", {}), ("night.tgz", quick)):
        mode: Any = "w:gz" if options else "w"
        with tarfile.open(tmp_path / name, mode, **options) as archive:
            for file in sorted(folder.rglob("*.avro")):
                archive.add(file, f"night/{file.name}")
        assert same(wanted, everything(tmp_path / name))
    os.rename(tmp_path / "night.tgz", tmp_path / "unzipped.tar")  # the content determines the format, not the name
    assert same(wanted, everything(tmp_path / "unzipped.tar"))
    assert not list(tmp_path.glob("*/"))


@pytest.mark.parametrize("workers", (0, 1, 3))
def test_chunks_shards_and_workers_do_not_change_the_records(
    night: list[dict[str, Any]], folder: Path, tmp_path: Path, workers: int
) -> None:
    with (tmp_path / "many.avro").open("wb") as file:
        fastavro.writer(file, packets.SCHEMA, night, sync_interval=1 << 18)
    wanted = everything(folder, workers=0)
    for path in (folder, tmp_path):
        chunks = list(stream.stream([path], size=70, workers=workers))
        assert [chunk.read for chunk in chunks] == [70, 70, 10]
        for chunk in chunks:
            assert chunk.records is not None and len(chunk.records) == len(chunk.keys) == len(chunk.sources)
            assert (chunk.records.labels == UNLABELLED).all()
        assert same(wanted, everything(path, size=70, workers=workers))
    shards = [everything(tmp_path, shard=(i, 4), size=20, workers=workers) for i in range(4)]
    numbers = [sorted([*map(int, shard["keys"]), *(int(key) for key, _ in shard["rejected"])]) for shard in shards]
    assert [[key - packets.FIRST for key in mine] for mine in numbers] == [list(range(i, N, 4)) for i in range(4)]
    for skip in (1, 20, 33):
        rest = everything(tmp_path, shard=(1, 4), skip=skip, workers=workers)
        assert sorted([*map(int, rest["keys"]), *(int(key) for key, _ in rest["rejected"])]) == numbers[1][skip:]
        where = np.flatnonzero(shards[1]["keys"] == rest["keys"][0])[0]
        assert np.array_equal(shards[1]["images"][where:], rest["images"], equal_nan=True)
    assert list(stream.stream([folder], skip=N, workers=workers)) == []


def test_invalid_inputs_and_options_raise_an_error(tmp_path: Path, folder: Path) -> None:
    for path, words in ((tmp_path, "No such file"), (tmp_path / "none.avro", "none.avro cannot be read")):
        with pytest.raises(InputError, match=words):
            stream.stream([folder, path])
    for options in ({"shard": (2, 2)}, {"size": 0}, {"skip": -1}):
        with pytest.raises(InputError, match="expected"):
            stream.stream([folder], **options)  # type: ignore[arg-type]
    with (tmp_path / "empty.avro").open("wb") as file:
        fastavro.writer(file, packets.SCHEMA, [])
    with pytest.raises(InputError, match="no alert packets"):
        list(stream.stream([tmp_path]))
    with pytest.raises(InputError, match=r"data\.path"):
        stream.read(None)
    (tmp_path / "empty.avro").write_bytes(b"")
    with pytest.raises(InputError, match=r"1 packets.*is empty"):
        stream.read(tmp_path)


def test_labels_are_read_from_a_csv(tmp_path: Path, composed: Callable[..., DictConfig]) -> None:
    _, table = packets.write(tmp_path / "night.tar.gz", 120, seed=SEED)
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["night.tar.gz", "night_labels.csv"]
    records = stream.read(tmp_path / "night.tar.gz", table)
    survey = simulate(120, seed=SEED)
    whole = [image.shape == (63, 63, 3) for image in survey["images"]]
    assert records.labels.tolist() == survey["labels"][whole].tolist()
    assert records.set_aside == {"stamp is incomplete, expected 63 x 63": 120 - len(records)}
    assert (stream.read(tmp_path / "night.tar.gz").labels == UNLABELLED).all()
    table.rename(tmp_path / "labels.csv")
    by_object = "ObjectId,class\n" + "".join(f"{name},sn\n" for name in records.ids[:3]) + f"{records.ids[3]},\n"
    (tmp_path / "other.csv").write_text(by_object)
    with pytest.raises(InputError, match="other"):  # read as an input file it is not a packet
        stream.read(tmp_path / "other.csv")
    read = stream.read(tmp_path)
    assert read.labels.tolist() == records.labels.tolist()  # from labels.csv in the folder
    (strange,) = read.set_aside.keys() - records.set_aside.keys()
    assert "table without stamps" in strange and read.set_aside == records.set_aside + Counter({strange: 1})
    (chunk,) = stream.stream([tmp_path])  # as predict does
    assert chunk.records is not None and chunk.records.labels.tolist() == records.labels.tolist()
    labels = stream.read(tmp_path, tmp_path / "other.csv").labels
    assert (labels[:3] == CLASSES.index("SN")).all() and (labels[3:] == UNLABELLED).all()
    for text, words in (
        ("a,b\n1,2\n", "candid"),
        ("candid,label\n1,comet\n", "unknown label comet"),
        ("", "candid"),
    ):
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(InputError, match=words):
            stream.read(tmp_path, tmp_path / "other.csv")
    store = make_data(composed("data=alerts", f"data.path={tmp_path}", f"outputs={tmp_path / 'out'}")).store
    assert store.images.shape[0] == len(records)
    assert "rejected by the reader: stamp is" in data_summary.format_summary(store.meta)
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(InputError, match=r"data\.labels"):
        _ = make_data(composed("data=alerts", f"data.path={tmp_path}", f"outputs={tmp_path / 'out'}")).labels


def test_matched_and_unmatched_labels_are_counted(
    tmp_path: Path, composed: Callable[..., DictConfig], caplog: pytest.LogCaptureFixture
) -> None:
    packets.write(tmp_path / "night.tar.gz", 40, seed=SEED)[1].unlink()
    keys = next(stream.stream([tmp_path])).keys.tolist()
    rows = [f"{keys[0]},AGN", f"{keys[1]},SN", f"{keys[2]},", ",VS", "5,VS"]
    (tmp_path / "labels.csv").write_text("\r\n".join(["candid,label", *rows]), encoding="utf-8-sig")
    with caplog.at_level("INFO", logger="alerce_early"):
        store = make_data(composed("data=alerts", f"data.path={tmp_path}", f"outputs={tmp_path / 'out'}")).store
    assert f"2 of 3 labels name a row by candid; {len(keys) - 2} of {len(keys)} rows have no label" in caplog.text
    found = {name.strip(): count for name, count, _ in data_summary.list_counts(store.meta)}
    assert (found["labels"], found["labels without a row"], found["read"]) == (2, 1, len(keys))
    assert found["images"] == found["kept"] == len(keys) and found["unlabelled"] == len(keys) - 2
    assert found["AGN"] == found["SN"] == 1


@pytest.mark.parametrize("name", ("1.09558e+18", "1095578115815010048.0"))
def test_ids_rounded_by_a_spreadsheet_are_refused_by_name(tmp_path: Path, name: str) -> None:
    packets.write(tmp_path / "night.tar.gz", 3, seed=SEED)[1].unlink()
    (tmp_path / "labels.csv").write_text(f"candid,label\n{name},SN\n{name},AGN\n")
    with pytest.raises(InputError, match=rf"labels\.csv: column candid holds {re.escape(name)}"):
        list(stream.stream([tmp_path]))
    (tmp_path / "labels.csv").write_text("candid,label\n5,SN\n")
    with pytest.raises(InputError, match=r"labels\.csv: no label.*candid"):
        stream.read(tmp_path)


BTS = "ZTFID,IAUID,RA,Dec,peakmag,type,redshift"
TNS = '"2024-01-01 00:00:00 - 23:59:59"\n"objid","name_prefix","name","type","internal_names"'


@pytest.mark.parametrize(
    ("header", "row"),
    (
        (BTS, "{id},SN2020a,00:00:00,+00:00:00,18.1,{label},0.03"),
        (TNS, '"7","SN","2020a","{label}","ATLAS-{id}, {id}"'),
        ('"ID","Name","Obj. Type","Disc. Internal Name"', '"7","SN 2020a","{label}","{id}"'),
        ("oid,otype", "{id},{label}"),
    ),
    ids=("BTS", "TNS by day", "TNS search", "SIMBAD"),
)
def test_tables_of_tns_bts_and_simbad_are_labels(tmp_path: Path, header: str, row: str) -> None:
    packets.write(tmp_path / "night.tar.gz", 12, seed=SEED)[1].unlink()
    ids = next(stream.stream([tmp_path])).records.ids  # type: ignore[union-attr]
    given = ("SN Ia", "SN Ia-SC", "AGN?", "EB*", "TDE", "-", "")
    rows = [row.format(id=name, label=label) for name, label in zip(ids, given, strict=False)]
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows, row.format(id="ZTF00stranger", label="CV")]) + "\n")
    records = stream.read(tmp_path)
    names = [*CLASSES, ""]
    assert [names[label] for label in records.labels][:7] == ["SN", "SN", "AGN", "VS", "", "", ""]
    assert records.classes == CLASSES and records.unmatched_labels == 1
    records = stream.read(tmp_path, classes=["SN", "SN Ia", "TDE"], labels_map={"EB*": "SN", "tde": None})
    assert records.labels[:7].tolist() == [1, 0, -1, 0, -1, -1, -1]


def test_class_names_are_unique_and_have_sources() -> None:
    columns = labels.read_csv(labels.CLASS_NAMES)
    sources = {source for cell in columns["source"] for source in cell.split("; ")}
    assert sources == {"TNS", "ZTF BTS", "SIMBAD", "VSX", "Gaia", "ALeRCE", "label"}
    plain = ["".join(name.lower().split()).replace("_", "").rstrip("?:") for name in columns["name"]]
    assert len(set(plain)) == len(plain) and {"AGN", "SN", "VS", "asteroid", "bogus"} <= set(columns["class"])
    kinds = {"SN Ia-made-up": "SN", "EA/RS": "VS", "DSCT|GDOR": "VS", "AGN|SN": None, "SN impostor": None, "?": ""}
    kinds |= dict.fromkeys(("Ia", "NA", "no", "M"))  # ambiguous: other catalogues use them otherwise
    assert {name: labels.find_class(name) for name in kinds} == kinds


def test_classes_are_given_or_taken_from_the_labels(tmp_path: Path, composed: Callable[..., DictConfig]) -> None:
    packets.write(tmp_path / "night.tar.gz", 12, seed=SEED)[1].unlink()
    keys = next(stream.stream([tmp_path])).keys.tolist()
    given = ("SN", "sn", "SN Ia", "satellite", "Satellite", "AGN?")
    rows = [f"{key},{label}" for key, label in zip(keys, given, strict=False)]
    (tmp_path / "labels.csv").write_text("\n".join(["candid,label", *rows]))
    records = stream.read(tmp_path, classes="labels")
    assert records.classes == ("AGN", "SN", "SN Ia", "Satellite")
    assert records.labels[:6].tolist() == [1, 1, 2, 3, 3, 0]
    records = stream.read(tmp_path, labels_map={"SATELLITE": "streak"})
    assert records.classes == (*CLASSES, "streak") and records.labels[:6].tolist() == [1, 1, 1, 5, 5, 0]
    (tmp_path / "labels.csv").write_text("\n".join(["candid,label", *rows, f"{keys[6]},UFO"]))
    with pytest.raises(InputError, match=r"UFO.*data\.labels_map.*data\.classes"):
        stream.read(tmp_path, classes=None, labels_map={"satellite": "bogus"})
    for options, key in (
        ({"classes": ["SN"]}, r"data\.classes"),
        ({"classes": "SN"}, r"data\.classes"),
        ({"classes": ["SN", "a|b"]}, r"a\|b"),
        ({"classes": ["SN", "AGN"], "labels_map": {"UFO": "satellite"}}, r"data\.labels_map"),
    ):
        with pytest.raises(InputError, match=key):
            stream.read(tmp_path, **options)  # type: ignore[arg-type]
    typed = """data.labels_map={SN Ia: SN, "AGN?": AGN, 'TDE (H)': null}"""
    assert composed("data=alerts", typed).data.labels_map == {"SN Ia": "SN", "AGN?": "AGN", "TDE (H)": None}


def test_generate_writes_a_night_and_refuses_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def command(*arguments: str) -> None:
        sys.argv = ["generate", *arguments, "--out", str(tmp_path / "night.tar.gz")]
        generate.main()

    command("--night", "12")
    assert capsys.readouterr().out.split() == [str(tmp_path / "night.tar.gz"), str(tmp_path / "night_labels.csv")]
    for arguments, words in (
        (("--night", "12"), "exists already"),
        ((), "RUN or --night"),
        (("run", "--night", "1"), "either"),
    ):
        with pytest.raises(SystemExit):
            command(*arguments)
        assert words in capsys.readouterr().err


def test_chunks_do_not_depend_on_the_batch_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = list(stream.stream([folder], size=40, workers=0))
    monkeypatch.setattr(stream, "MAX_BATCH_BYTES", 100_000)
    for one, other in zip(stream.stream([folder], size=40, workers=2), wanted, strict=True):
        assert one.keys.tolist() == other.keys.tolist() and one.rejected == other.rejected and one.read == other.read
        assert one.records is not None and other.records is not None
        assert np.array_equal(one.records.images, other.records.images, equal_nan=True)


KILLED = """
import signal, sys
from multiprocessing import active_children
signal.signal(signal.SIGTERM, signal.default_int_handler)
from alerce_early.data.readers.packets import stream
chunks = stream.stream(sys.argv[1:], size=20, workers=2)
next(chunks)
print(*(child.pid for child in active_children()), flush=True)
sys.stdin.read()
"""


def test_workers_end_with_a_killed_parent(folder: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert len(workers) == 2
    until = time.monotonic() + 300
    while any(running(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(running(pid) for pid in workers)


def test_workers_print_nothing_when_terminated(folder: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None and len(parent.stdout.readline().split()) == 2
    time.sleep(0.5)  # until the workers are idle
    os.killpg(parent.pid, signal.SIGTERM)
    _, message = parent.communicate(timeout=300)
    assert parent.returncode and message.count("Traceback") == 1 and "ForkProcess" not in message  # only the parent's


def test_a_killed_worker_raises_an_error(folder: Path) -> None:
    chunks = stream.stream([folder], size=10, workers=1)
    next(chunks)
    for child in active_children():
        os.kill(child.pid or 0, signal.SIGKILL)
    with pytest.raises(InputError, match="was killed"):
        list(chunks)
