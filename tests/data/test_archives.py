"""Archives and folders of packets: every member is read or rejected."""

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from alerce_early.data import raw_files
from alerce_early.data.readers.packets import containers, stream
from alerce_early.data.records import CUT_SHORT, LOST_ROWS, Rejected
from alerce_early.simulation import packets as night
from tests.helpers.tiny import damage_row_group

GOOD = [packet for packet, _ in night.alerts(3, seed=0)]
WHOLE = night.encode(GOOD[1])


def archive(path: Path, members: dict[str, bytes], mode: Any = "w:gz") -> Path:
    with tarfile.open(path, mode) as out:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("ending", ("tar.gz", "tar"))
def test_a_truncated_archive_is_read_up_to_its_end(ending: str, tmp_path: Path) -> None:
    members = {f"{packet['candid']}.avro": night.encode(packet) for packet in GOOD}
    path = archive(tmp_path / f"night.{ending}", members, "w:gz" if ending == "tar.gz" else "w")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (chunk,) = stream.stream([path])
    assert chunk.keys.tolist() == [str(GOOD[0]["candid"])]
    (rejected,) = chunk.rejected
    assert rejected.source.startswith(str(path)) and chunk.read == 2
    path.write_bytes(b"no archive")
    (chunk,) = stream.stream([path])
    assert chunk.records is None and chunk.rejected[0].reason.startswith("archive cannot be read further")


def test_every_file_is_read_or_rejected(tmp_path: Path) -> None:
    """The first bytes decide, not the name, in folders and archives; only hidden files are skipped."""
    good = [night.encode(packet) for packet in GOOD]
    held = {"a.avro": good[0], "b.avro.gz": gzip.compress(good[1]), "C.AVRO": good[2], "d": WHOLE}
    inner = {"x": good[0], "../../y.avro": gzip.compress(good[1])}
    held |= {"e.tar": archive(tmp_path / "e.tar", inner, "w").read_bytes()}
    strange = {"bad.avro": b"x", "readme.txt": b"candid", "nothing": b"", "cut.avro.gz": held["b.avro.gz"][:9000]}
    folder = tmp_path / "night"
    folder.mkdir()
    for name, content in (held | strange | {".hidden.avro": good[0], "._a.avro": b"x"}).items():
        (folder / name).write_bytes(content)
    path = archive(tmp_path / "night.tar.gz", held | strange | {"._a.avro": b"x", "deep/.a.avro": b"x"})
    wanted = [str(GOOD[i]["candid"]) for i in (0, 1, 2, 1, 0, 1)]
    for given in (folder, path):
        (chunk,) = stream.stream([given])
        assert sorted(chunk.keys.tolist()) == sorted(wanted) and chunk.read == len(wanted) + len(strange)
        assert {Path(row.source).name for row in chunk.rejected} == set(strange)
        assert all("Avro" in row.reason or row.reason.startswith(CUT_SHORT) for row in chunk.rejected)
    chunk = stream.decode([gzip.compress(good[0]), held["e.tar"], b""])
    assert len(chunk.keys) == 3 and len(chunk.rejected) == 1
    assert sorted(tmp_path.iterdir()) == [tmp_path / "e.tar", folder, path]
    for _ in range(9):
        good[0] = gzip.compress(good[0])
    assert "archives" in stream.decode(good[:1]).rejected[0].reason


def member(name: str, size: int, data: bytes = b"", kind: bytes = tarfile.REGTYPE, /, **headers: str) -> bytes:
    """Return a tar member that declares `size` bytes, with the given data."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.pax_headers = size, kind, headers
    blocks = -(-len(data) // tarfile.BLOCKSIZE)
    return info.tobuf(tarfile.PAX_FORMAT if headers else tarfile.GNU_FORMAT) + data.ljust(512 * blocks, b"\0")


def sparse(name: str, size: int, data: bytes, more: int) -> bytes:
    """Return a GNU sparse member: a header with its apparent size, blocks of its map, data."""
    header = bytearray(member(name, len(data), b"", tarfile.GNUTYPE_SPARSE))
    header[482], header[483:495] = more > 0, b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:512]) + 8 * 32)
    maps = b"".join(b"".ljust(504, b"0") + bytes([i < more - 1]) + bytes(7) for i in range(more))
    return bytes(header) + maps + data.ljust(-(-len(data) // 512) * 512, b"\0")


EMPTY = raw_files.AVRO + b"\0"  # a header without entries, then endless empty blocks


LOST = "archive cannot be read further: "


STRANGE: dict[str, tuple[bytes, str, bool]] = {
    "huge": (member("a.avro", 1 << 55), LOST, False),
    "huge and no packet": (member("a.txt", 1 << 55), LOST, False),
    "huge by an extended header": (member("a.avro", 0, size="9" * 30), LOST, False),
    "negative, extended": (member("a.avro", 0, size="-5000"), LOST, False),
    "sparse": (sparse("a.avro", 1 << 60, EMPTY, 0), "a sparse or a special file", True),
    "sparse with a long map": (sparse("a.avro", 1 << 60, EMPTY, 9), "a sparse or a special file", True),
    "sparse 0.0": (member("a.avro", 5, b"abcd\n", **{"GNU.sparse.size": "9"}), "a sparse or a special file", True),
    "sparse 0.1": (member("a.avro", 5, b"abcd\n", **{"GNU.sparse.map": "0,4"}), "a sparse or a special file", True),
    "sparse 1.0": (member("a.avro", 600, b"1\n0\n4\n".ljust(512, b"\0") + b"abcd" * 22,
                          **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}), "a sparse or a special file", True),
    "sparse 1.0 without end": (member("a.avro", 600, b"9" * 600, **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
                               LOST, False),
    "sparse nonsense": (member("a.avro", 5, b"abcd\n", **{"GNU.sparse.size": "x"}), LOST, False),
    "a chain of names": (member("././@LongLink", 2, b"a", tarfile.GNUTYPE_LONGNAME) * 2000, LOST, False),
    "a long header": (member("a.txt", 0, comment="x" * 20_000_000), LOST, False),
    "a link": (member("a.avro", 0, b"", tarfile.SYMTYPE), "a sparse or a special file", True),
    "damaged header": (member("a.txt", 0)[:-200].ljust(512, b"x"), LOST, False),
}  # fmt: skip


@pytest.mark.parametrize("zipped", (False, True))
@pytest.mark.parametrize("what", STRANGE)
def test_an_unusual_member_is_one_rejected_row(what: str, zipped: bool, tmp_path: Path) -> None:
    """Members before it are read, as is the next file, and members after it if they can be found."""
    content, reason, goes_on = STRANGE[what]
    good = [night.encode(packet) for packet in GOOD]
    whole = member("x.avro", len(good[0]), good[0]) + content + member("y.avro", len(good[1]), good[1]) + bytes(1024)
    (tmp_path / "a.tar").write_bytes(gzip.compress(whole, 1) if zipped else whole)
    (tmp_path / "b.avro").write_bytes(good[2])
    (chunk,) = stream.stream([tmp_path])
    assert chunk.keys.tolist() == [str(packet["candid"]) for packet in (GOOD if goes_on else [GOOD[0], GOOD[2]])]
    assert 1 <= len(chunk.rejected) <= 2  # a huge member, and the rest of its archive
    assert reason in chunk.rejected[-1].reason and all(row.reason.isprintable() for row in chunk.rejected)


def test_an_unreadable_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.avro").write_bytes(night.encode(GOOD[0]))
    found = [*containers.find([tmp_path]), tmp_path / "gone.avro"]
    blocks = list(containers.read_blocks(found))
    assert [block.damage for block in blocks] == ["", "file cannot be read: No such file or directory"]


def test_parquet_gives_the_same_records_as_packets(tmp_path: Path) -> None:
    packets: list[Any] = [packet for packet, _ in night.alerts(150, seed=2)]
    packets[70]["cutoutScience"] = None
    (tmp_path / "avro").mkdir()
    for i, packet in enumerate(packets):
        if i != 70:
            (tmp_path / "avro" / f"{i:03}.avro").write_bytes(night.encode(packet))
    parquet.write_table(pyarrow.Table.from_pylist(packets), file := tmp_path / "night.parquet")
    (found,), (wanted,) = (list(stream.stream([path])) for path in (file, tmp_path / "avro"))
    lacking = Rejected(f"{file}#70", str(packets[70]["candid"]), "cutoutScience is missing")
    assert lacking in found.rejected
    same = [(row.key, row.reason) for row in found.rejected if row != lacking]
    assert same and same == [(row.key, row.reason) for row in wanted.rejected]
    assert found.keys.tolist() == wanted.keys.tolist() and found.read == 150
    assert found.records and wanted.records
    assert np.array_equal(found.records.images, wanted.records.images, equal_nan=True)
    assert np.array_equal(found.records.features, wanted.records.features)
    (part,) = stream.stream([file], shard=(1, 4), skip=3)
    mine = [str(packets[i]["candid"]) for i in range(13, 150, 4)]
    assert part.keys.tolist() == [key for key in mine if key in found.keys] and part.read == len(mine)
    file.write_bytes(file.read_bytes()[:-100])
    (cut,) = stream.stream([file])
    assert len(cut.rejected) == 1 and "cannot be read as alerts" in cut.rejected[0].reason
    parquet.write_table(pyarrow.table({"objectId": ["a"]}), file)
    (other,) = stream.stream([file])
    assert "no column candid, candidate" in other.rejected[0].reason


def test_a_damaged_row_group_loses_only_its_rows(tmp_path: Path) -> None:
    """All lost rows are counted, in every shard; the other row groups are read."""
    packets: list[Any] = [packet for packet, _ in night.alerts(150, seed=2, pool_size=10)]
    parquet.write_table(pyarrow.Table.from_pylist(packets), file := tmp_path / "night.parquet", row_group_size=50)
    (whole,) = stream.stream([file])
    damage_row_group(file, 1)
    (found,) = stream.stream([file])
    lost = [row for row in found.rejected if row not in whole.rejected]
    assert found.read == 150 and {row.source for row in lost} == {f"{file}#{i}" for i in range(50, 100)}
    assert all(row.reason.startswith(LOST_ROWS) for row in lost)
    kept = {str(packets[i]["candid"]) for i in (*range(50), *range(100, 150))}
    assert found.keys.tolist() == [key for key in whole.keys if key in kept]
    parts = [chunk for i in range(3) for chunk in stream.stream([file], shard=(i, 3))]
    assert sum(part.read for part in parts) == 150
    assert sorted(key for part in parts for key in part.keys) == sorted(found.keys)


def test_columns_in_folder_names_are_read(tmp_path: Path) -> None:
    packets: list[Any] = [packet for packet, _ in night.alerts(6, seed=2, pool_size=6)]
    table = pyarrow.Table.from_pylist([{**packet, "prv_candidates": None} for packet in packets])
    parquet.write_table(table, file := tmp_path / "night.parquet")
    parquet.write_to_dataset(table, tmp_path / "hive", partition_cols=["objectId"])
    (wanted,), (found,) = (list(stream.stream([path])) for path in (file, tmp_path / "hive"))
    assert wanted.records and found.records and len(found.keys) == len(wanted.keys) == 6
    assert dict(zip(found.keys, found.records.ids, strict=True)) == dict(
        zip(wanted.keys, wanted.records.ids, strict=True)
    )
