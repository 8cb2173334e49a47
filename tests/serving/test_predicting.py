"""Tables of a network with equal probabilities: their rows, labels and pictures."""

import pickle
import resource
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alerce_early.artifacts import predictions
from alerce_early.data.readers import stamps_file
from alerce_early.data.readers.packets.fields import CUTOUTS
from alerce_early.data.records import TOO_LITTLE
from alerce_early.data.text import hash_objects
from alerce_early.errors import InputError
from alerce_early.predict import illustrate
from alerce_early.serving import inputs
from alerce_early.serving.classifier import Classifier
from alerce_early.serving.inputs import Shard
from alerce_early.serving.output import rejected_of
from alerce_early.serving.predict import predict
from alerce_early.simulation import packets
from tests.helpers.networks import constant, nothing_left, table_of
from tests.helpers.tiny import stamp


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    """A file of five rows, one of each class."""
    path = tmp_path / "stamps.pkl"
    path.write_bytes(pickle.dumps({"images": np.stack([stamp()] * 5), "labels": list(stamps_file.CLASSES)}))
    return path


def test_labels_of_all_classes_or_none(stamps: Path, tmp_path: Path) -> None:
    """With a network of SN and rest, only the SN would have labels."""
    table = table_of(constant("SN", "rest"), stamps, tmp_path / "two.parquet")
    assert table["label"].tolist() == [""] * 5
    table = table_of(constant(*stamps_file.CLASSES), stamps, tmp_path / "five.parquet")
    assert table["label"].tolist() == list(stamps_file.CLASSES)


@pytest.mark.parametrize("end", ("parquet", "csv"))
def test_rows_of_training_objects_are_marked(tmp_path: Path, end: str) -> None:
    ids = ["ZTF1", "ZTF2", "ZTF1", "ZTF3", "row4"]
    content = {"images": np.stack([stamp()] * 5), "labels": [*stamps_file.CLASSES], "oid": ids}
    (tmp_path / "stamps.pkl").write_bytes(pickle.dumps(content))
    network, out = constant(*stamps_file.CLASSES), tmp_path / f"out.{end}"
    facts = replace(network.members[0], trained_on=hash_objects(["ZTF1", "ZTF9", "row4"]))
    marked = Classifier([(facts, network._runs[0])], "torch")
    outcome = predict(marked, inputs.find([tmp_path / "stamps.pkl"], marked.spec), out)
    assert predictions.read(out)["trained"].tolist() == [True, False, True, False, False]
    assert any("2 of 5 classified rows" in note for note in outcome.notes())
    # older networks do not record their training objects
    assert "trained" not in table_of(network, tmp_path / "stamps.pkl", tmp_path / f"old.{end}")


def test_rows_without_a_finite_output_are_rejected(stamps: Path, tmp_path: Path) -> None:
    whole = constant(*stamps_file.CLASSES)
    facts, run = whole.members[0], whole._runs[0]

    def partly(stamps: np.ndarray, metadata: np.ndarray | None) -> dict[str, np.ndarray]:
        found = run(stamps, metadata)
        found["p_SN"][1], found["p_VS"][3] = np.nan, np.inf
        return found

    network, out = Classifier([(facts, partly)], "torch"), tmp_path / "out.parquet"
    assert table_of(network, stamps, out)["candid"].tolist() == [f"stamps.pkl:{i}" for i in (0, 2, 4)]
    assert [row.split(",")[1] for row in rejected_of(out).read_text().splitlines()] == [
        *("key", "stamps.pkl:1", "stamps.pkl:3"),
    ]
    found = network.predict(np.stack([stamp()] * 5))
    assert [bool(name) for name in found["predicted"]] == [True, False, True, False, True]
    assert np.isnan(found["q_AGN"][[1, 3]]).all()


def test_rows_that_did_not_reach_the_disk_are_not_duplicates(stamps: Path, tmp_path: Path) -> None:
    network, seen, out = constant("SN", "rest"), set[int](), tmp_path / "out.parquet"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(InputError, match=r"^disk full"):
            table_of(network, stamps, out, seen=seen)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(table_of(network, stamps, out, seen=seen)["candid"]) == 5
    again = predict(network, inputs.find([stamps], network.spec), tmp_path / "again.parquet", seen=seen)
    assert (again.classified, again.rejected) == (0, 5)


def test_a_rejected_alert_is_classified_when_it_comes_again(tmp_path: Path) -> None:
    """The first packet of this candid has too little data, so the second is not a duplicate."""
    ((whole, _),) = packets.alerts(1)
    hole = stamp(np.nan)[..., 0]
    hole[0, 0] = 1.0
    cutout = {"fileName": "", "stampData": packets.gzipped_fits(hole)}
    empty = dict.fromkeys(CUTOUTS.values(), cutout)
    for name, packet in (("a.avro", whole | empty), ("b.avro", whole), ("c.avro", whole)):
        (tmp_path / name).write_bytes(packets.encode(packet))
    network = constant("SN", "rest", min_share=0.25, survey="ZTF")
    found = predict(network, inputs.find([tmp_path], network.spec), tmp_path / "out.parquet", size=1)
    assert (found.classified, found.rejected) == (1, 2) and found.first and found.first.reason == TOO_LITTLE
    assert predictions.read(tmp_path / "out.parquet")["source"][0].endswith("b.avro")


def test_stamps_that_were_normalised_before_are_rejected(tmp_path: Path) -> None:
    """Only if the recipe would treat raw stamps differently: as rows of a file, or as an error for arrays."""
    raw = np.random.default_rng(0).normal((200, 100, 0), 20, (3, 63, 63, 3)).astype(np.float32)
    raw[1] /= np.sqrt(np.square(raw[1]).sum((0, 1)))
    raw[2] = (raw[2] - raw[2].min((0, 1))) / np.ptp(raw[2], (0, 1))
    (tmp_path / "stamps.pkl").write_bytes(pickle.dumps({"images": raw, "labels": [0, 0, 0]}))
    for step, kept in (("SkySigma", [0]), ("UnitNorm", [0, 1]), ("MinMax", [0, 1, 2])):
        network = constant("SN", "rest", recipe=({"_target_": f"alerce_early.data.recipe.{step}"},))
        out = tmp_path / f"{step}.parquet"
        assert table_of(network, tmp_path / "stamps.pkl", out)["candid"].tolist() == [f"stamps.pkl:{i}" for i in kept]
        rejected = rejected_of(out).read_text().splitlines()[1:] if len(kept) < 3 else []
        assert len(rejected) == 3 - len(kept) and all("recipe=" in row for row in rejected)
        assert network.predict(raw[kept])["predicted"].all()
        if rejected:
            with pytest.raises(InputError, match="recipe="):
                network.predict(raw)


@pytest.mark.parametrize("size", (1, 4, 99))
def test_chunks_of_files_contain_each_row_once(size: int, tmp_path: Path) -> None:
    """For any shards and any starting row, with a damaged file and stamps of another shape."""
    for number, n in enumerate((5, 0, 3, 7)):
        images = [stamp()] * n + [stamp(height=40)]
        content = pickle.dumps({"images": images, "oid": [f"ZTF{number}{i}" for i in range(n + 1)]})
        (tmp_path / f"{number}.pkl").write_bytes(content if n else b"nonsense")
    spec = constant("SN", "rest").spec
    source = inputs.find([tmp_path], spec)

    def rows(shard: tuple[int, int] = (0, 1), skip: int = 0) -> list[tuple[str, str]]:
        chunks = list(source.chunks(size, shard, skip))
        assert all(chunk.read == len(chunk.keys) + len(chunk.rejected) <= size for chunk in chunks)
        known = [(key, str(one)) for c in chunks if c.records for key, one in zip(c.keys, c.records.ids, strict=True)]
        return known + [(row.key, row.reason) for chunk in chunks for row in chunk.rejected]

    whole = rows()
    wanted = {(f"{file}.pkl:{i}", f"ZTF{file}{i}") for file, n in ((0, 5), (2, 3), (3, 7)) for i in range(n)}
    assert wanted < set(whole) and len(whole) == len(set(whole)) == 15 + 3 + 1
    for n in (2, 4, 7):  # fewer shards than files, as many, and more
        assert sorted(row for i in range(n) for row in rows((i, n))) == sorted(whole)
        assert all(set(rows((1, n), skip)) <= set(rows((1, n))) for skip in (1, 4))
        assert len(rows((1, n), 1)) == len(rows((1, n))) - 1


def gallery(network: Classifier, stamps: Path, out: Path, shard: Shard) -> None:
    given = Namespace(out=out, shard=shard, gallery=out.with_name("surest.png"), html=None)
    illustrate(given, network.classes, inputs.find([stamps], network.spec), "")


@pytest.mark.parametrize("end", predictions.EXTENSIONS)
def test_a_shard_without_rows_gives_an_empty_table(end: str, stamps: Path, tmp_path: Path) -> None:
    network = constant("SN", "rest")
    table = table_of(network, stamps, tmp_path / f"7{end}", shard=(7, 20))
    assert list(table) == list(table_of(network, stamps, tmp_path / f"0{end}", shard=(0, 20)))
    assert not any(len(column) for column in table.values())
    with pytest.raises(InputError, match=rf"^--gallery: .*7{end} "):
        gallery(network, stamps, tmp_path / f"7{end}", (7, 20))


def test_a_gallery_of_classes_that_look_like_numbers(stamps: Path, tmp_path: Path) -> None:
    network = constant("0", "1")
    table_of(network, stamps, tmp_path / "out.csv")
    gallery(network, stamps, tmp_path / "out.csv", (0, 1))
    assert (tmp_path / "surest.png").stat().st_size > 1_000


def test_a_file_removed_before_it_is_read_is_named(stamps: Path, tmp_path: Path) -> None:
    network = constant("SN", "rest")
    source = inputs.find([stamps], network.spec)
    stamps.unlink()
    with pytest.raises(InputError, match=r"stamps.pkl cannot be read: No such file"):
        predict(network, source, tmp_path / "out.parquet")
    assert nothing_left(tmp_path)
