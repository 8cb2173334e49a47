"""What may be wrong with a packet, a file of them or an archive: told in one line, and the rest is read."""

import gzip
import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from astropy.io import fits

from alerce_early.data import alerts, avro, containers
from alerce_early.data.avro import CUTOUTS, Unreadable
from alerce_early.data.cutouts import LARGEST, image
from alerce_early.data.inflate import GZIP, NotWhole, inflate
from alerce_early.data.simulation import packets

Packet = dict[str, Any]
GOOD = [packet for packet, _ in packets.alerts(3, seed=0)]


def with_stamp(data: bytes | None) -> Packet:
    return GOOD[1] | {"cutoutTemplate": {"fileName": "a stamp", "stampData": data}}


def fits_of(pixels: np.ndarray, **header: Any) -> bytes:
    file = io.BytesIO()
    unit = fits.PrimaryHDU(pixels)
    unit.header.update(header)
    unit.writeto(file)
    return file.getvalue()


def written(packet: Packet, schema: Any = packets.SCHEMA, **options: Any) -> bytes:
    file = io.BytesIO()
    fastavro.writer(file, schema, [packet], **options)
    return file.getvalue()


def changed(change: Callable[[dict[str, Any]], None]) -> Any:
    """The schema of a packet after a change to its fields by name."""
    plain = {key: value for key, value in deepcopy(packets.SCHEMA).items() if not key.startswith("__")}
    change({field["name"]: field for field in plain["fields"]})
    plain["fields"] = [field for field in plain["fields"] if field["type"] is not None]
    return plain


def without(*names: str) -> Any:
    return changed(lambda fields: [fields[name].update(type=None) for name in names])


def header(schema: Any, codec: bytes = b"null") -> bytes:
    """An avro file's beginning, whatever the schema."""
    kinds = [{"name": "magic", "type": {"type": "fixed", "name": "m", "size": 4}}]
    kinds += [{"name": "meta", "type": {"type": "map", "values": "bytes"}}]
    kinds += [{"name": "sync", "type": {"type": "fixed", "name": "s", "size": 16}}]
    file = io.BytesIO()
    facts = {"avro.schema": json.dumps(schema).encode(), "avro.codec": codec}
    values = {"magic": containers.MAGIC, "meta": facts, "sync": bytes(16)}
    fastavro.schemaless_writer(file, fastavro.parse_schema({"type": "record", "name": "h", "fields": kinds}), values)
    return file.getvalue()


def block(count: int, data: bytes, size: int | None = None) -> bytes:
    file = io.BytesIO()
    for number in (count, len(data) if size is None else size):
        fastavro.schemaless_writer(file, fastavro.parse_schema("long"), number)
    return file.getvalue() + data + bytes(16)


WHOLE = packets.encode(GOOD[1])
STAMP = GOOD[1]["cutoutTemplate"]["stampData"]
FLIPPED = STAMP[:-6] + bytes([STAMP[-6] ^ 1]) + STAMP[-5:]
IMAGE = gzip.decompress(STAMP)
BLANK = gzip.compress(fits_of(np.full((63, 63), np.nan, np.float32)))
BOMB = gzip.compress(bytes(50 * LARGEST))
HUGE = IMAGE.replace(b"NAXIS1  =                   63", b"NAXIS1  =         999999999999")
NESTED = {"type": "record", "name": "self", "fields": [{"name": "objectId", "type": ["null", "self"]}]}
NULLS = changed(lambda fields: fields["prv_candidates"].update(type={"type": "array", "items": "null"}))
LIST = changed(lambda fields: fields["objectId"].update(type={"type": "array", "items": "string"}))

BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not an Avro file"),
    "text": (b"candid,label\n", "not an Avro file"),
    "header cut short": (WHOLE[:500], "Avro file is cut short"),
    "cut short": (WHOLE[:-5000], "Avro file is cut short"),
    "sync": (WHOLE[:-1] + bytes([WHOLE[-1] ^ 1]), "a block does not end where it says"),
    "no end of a number": (containers.MAGIC + b"\xff" * 30, "a number has no end"),
    "schema is no JSON": (WHOLE.replace(b'{"type":', b'{"type"|', 1).replace(b'{"type" :', b"{", 1), "Avro"),
    "another schema": (written({"x": 1}, {"type": "record", "name": "t", "fields": [{"name": "x", "type": "int"}]}),
                       "candid is missing"),
    "a strange type": (WHOLE.replace(b'"record"', b'"pecord"', 1), "Avro schema cannot be used"),
    "no record": (written(1, "int"), "Avro schema is not that of a packet: int instead of a record"),
    "no candidate": (written(GOOD[1], without("candidate")), "candidate is missing"),
    "no objectId": (written(GOOD[1], without("objectId")), "objectId is missing"),
    "no candid": (written(GOOD[1], without("candid")), "candid is missing"),
    "no template": (packets.encode(GOOD[1] | {"cutoutTemplate": None}), "cutoutTemplate is missing"),
    "no template field": (written(GOOD[1], without("cutoutTemplate")), "cutoutTemplate is missing"),
    "nothing but NaN": (packets.encode(GOOD[1] | {key: {"fileName": "", "stampData": BLANK} for key in CUTOUTS}),
                        "no cutout holds data"),
    "empty stamp": (packets.encode(with_stamp(b"")), "cutoutTemplate is missing"),
    "no gzip": (packets.encode(with_stamp(IMAGE)), "cutoutTemplate gzip is damaged"),
    "gzip cut short": (packets.encode(with_stamp(STAMP[:-100])), "cutoutTemplate gzip is cut short"),
    "checksum": (packets.encode(with_stamp(FLIPPED)), "cutoutTemplate gzip is damaged"),
    "bomb": (packets.encode(with_stamp(BOMB)), "cutoutTemplate gzip is more than 1,048,576 bytes"),
    "no FITS": (packets.encode(with_stamp(gzip.compress(b"stamp" * 4000))), "cutoutTemplate is no FITS image"),
    "FITS cut short": (packets.encode(with_stamp(gzip.compress(IMAGE[:9000]))), "FITS image is cut short"),
    "huge FITS": (packets.encode(with_stamp(gzip.compress(HUGE))), "declares too much: 999999999999 x 63 pixels"),
    "integers": (packets.encode(with_stamp(gzip.compress(fits_of(np.ones((63, 63), np.int16))))),
                 "FITS file holds no float32 image: int16"),
    "a cube": (packets.encode(with_stamp(gzip.compress(fits_of(np.ones((3, 63, 63), np.float32))))),
               "FITS file holds no float32 image: float32 of shape"),
    "no pixels": (packets.encode(with_stamp(gzip.compress(fits_of(None)))), "holds no float32 image: no image"),
    "misshaped": (packets.encode(with_stamp(packets.gzipped_fits(np.ones((63, 41))))),
                  "stamp is 63 x 41, wanted 63 x 63"),
    "isdiffpos": (packets.encode(GOOD[1] | {"candidate": GOOD[1]["candidate"] | {"isdiffpos": "maybe"}}),
                  "isdiffpos is neither t nor f: 'maybe'"),
    "codec": (written(GOOD[1], codec="bzip2"), "Avro codec is neither null nor deflate: 'bzip2'"),
    "deflate": (header(packets.SCHEMA, b"deflate") + block(1, b"nothing"), "Avro block is damaged"),
    "deflate bomb": (header(packets.SCHEMA, b"deflate")
                     + block(1, gzip.zlib.compress(bytes(containers.LARGEST_BLOCK + 1), wbits=-15)),  # type: ignore[attr-defined]
                     "Avro block is more than 16,777,216 bytes"),
    "record cut short": (header(packets.SCHEMA) + block(1, b"\x08abcd"), "Avro record cannot be decoded"),
    "many records": (header(packets.SCHEMA) + block(10**15, b"\x08abcd"), "block declares 1,000,000,000,000,000"),
    "many small records": (header(packets.SCHEMA) + block(20_000, bytes(640_000)), "block declares 20,000 records"),
    "negative": (header(packets.SCHEMA) + block(-3, b"\x08abcd"), "block declares -3 records"),
    "empty blocks": (header(packets.SCHEMA) + bytes(18 * 1000), "block declares 0 records in 0 bytes"),
    "empty entries": (containers.MAGIC + b"\x80\x80\x80\x80\x80\x01" + bytes(1 << 16),
                      "header holds more than 1,048,576 bytes"),
    "negative size": (header(packets.SCHEMA) + block(1, b"", -1), "block declares 1 records in -1 bytes"),
    "large block": (header(packets.SCHEMA) + block(1, b"", 1 << 60), "records in 1,152,921,504,606,846,976 bytes"),
    "contains itself": (header(NESTED) + block(1, b"\x02" * 10**6), "Avro schema contains itself"),
    "no bytes": (header(NULLS) + block(1, b"\x02" * 99), "Avro schema has a type of no bytes"),
    "a list": (header(LIST) + block(1, b"\x02" * 99), "Avro schema is not that of a packet: array instead of a field"),
    "control characters": (header({"type": "record", "name": "a", "fields": [{"name": "candid", "type": "\x1b[31m"}]})
                           + block(1, b"\x02" * 99), "Avro schema cannot be used: \\x1b[31m"),
    "deep": (header(json.loads('{"type":"array","items":' * 300 + '"int"' + "}" * 300)) + block(1, b"\x02" * 99),
             "Avro schema"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_packet_is_set_aside_and_the_rest_is_read(what: str, tmp_path: Path) -> None:
    content, reason = BAD[what]
    for name, data in (("a", packets.encode(GOOD[0])), ("b", content), ("c", packets.encode(GOOD[2]))):
        (tmp_path / f"{name}.avro").write_bytes(data)
    (chunk,) = alerts.stream([tmp_path])
    assert chunk.keys.tolist() == [str(GOOD[0]["candid"]), str(GOOD[2]["candid"])]
    (rejected,) = chunk.rejected
    assert chunk.read == 3 and rejected.source == str(tmp_path / "b.avro")
    assert reason in rejected.reason and rejected.reason.isprintable() and len(rejected.reason) <= 200
    assert rejected.key in ("", str(GOOD[1]["candid"]))


def test_a_block_that_breaks_in_the_middle(tmp_path: Path) -> None:
    """What stands before the damage is read; every record after it is counted, in every shard and after any skip."""
    encoded = []
    for packet in GOOD:
        file = io.BytesIO()
        fastavro.schemaless_writer(file, packets.SCHEMA, packet)
        encoded.append(file.getvalue())
    data = encoded[0] + b"\x08\xff\xff\xff\xff\xff\x7f" + encoded[2]
    (tmp_path / "a.avro").write_bytes(header(packets.SCHEMA) + block(3, data) + block(1, encoded[1]))
    (chunk,) = alerts.stream([tmp_path])
    assert chunk.keys.tolist() == [str(GOOD[0]["candid"]), str(GOOD[1]["candid"])]
    assert [packet.source[-2:] for packet in chunk.rejected] == ["#1", "#2"] and chunk.read == 4
    (rest,) = alerts.stream([tmp_path], skip=2)
    assert rest.keys.tolist() == chunk.keys.tolist()[1:] and rest.rejected == chunk.rejected[1:]


def test_a_message_that_declares_many_records() -> None:
    """What it costs is bounded by what it holds, not by what it declares."""
    many = header(packets.SCHEMA) + 5 * block(1000, b"\xff" * 32_000)
    tracemalloc.start()
    chunk = alerts.decode([packets.encode(GOOD[0]), many, WHOLE])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert chunk.keys.tolist() == [str(GOOD[0]["candid"]), str(GOOD[1]["candid"])]
    assert chunk.records is not None and np.array_equal(chunk.records.images[1, ..., 1], image(STAMP), equal_nan=True)
    assert len(chunk.rejected) == 5000 and chunk.read == 5002 and peak < 100 << 20


def archive(path: Path, members: dict[str, bytes], mode: Any = "w:gz") -> Path:
    with tarfile.open(path, mode) as out:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("ending", ("tar.gz", "tar"))
def test_an_archive_that_is_cut_short(ending: str, tmp_path: Path) -> None:
    members = {f"{packet['candid']}.avro": packets.encode(packet) for packet in GOOD}
    path = archive(tmp_path / f"night.{ending}", members, "w:gz" if ending == "tar.gz" else "w")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (chunk,) = alerts.stream([path])
    assert chunk.keys.tolist() == [str(GOOD[0]["candid"])]
    (rejected,) = chunk.rejected
    assert rejected.source.startswith(str(path)) and chunk.read == 2
    path.write_bytes(b"no archive")
    (chunk,) = alerts.stream([path])
    assert chunk.records is None and chunk.rejected[0].reason.startswith("archive cannot be read further")


def test_what_an_archive_may_hold_beside_packets(tmp_path: Path) -> None:
    good = packets.encode(GOOD[0])
    strange = {"../../outside.avro": good, "/root.avro": good, "._a.avro": b"x", "a.txt": b"x", "bad.avro": b"x"}
    path = archive(tmp_path / "night.tar.gz", strange)
    (chunk,) = alerts.stream([path])
    assert len(chunk.keys) == 2 and [packet.reason for packet in chunk.rejected] == ["not an Avro file"]
    assert list(tmp_path.iterdir()) == [path]
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as out:
        member = tarfile.TarInfo("a.avro")
        member.pax_headers = {"comment": "x" * (2 * containers.LARGEST_TEXT)}
        out.addfile(member)
    (chunk,) = alerts.stream([path])
    assert "header of 2," in chunk.rejected[0].reason


def member(name: str, size: int, data: bytes = b"", kind: bytes = tarfile.REGTYPE, /, **headers: str) -> bytes:
    """A member of an archive that says it has this many bytes, and those that it has."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.pax_headers = size, kind, headers
    blocks = -(-len(data) // tarfile.BLOCKSIZE)
    return info.tobuf(tarfile.PAX_FORMAT if headers else tarfile.GNU_FORMAT) + data.ljust(512 * blocks, b"\0")


def sparse(name: str, size: int, data: bytes, more: int) -> bytes:
    """GNU's own sparse member: a header with the size it stands for, blocks of its map, data."""
    header = bytearray(member(name, len(data), b"", tarfile.GNUTYPE_SPARSE))
    header[482], header[483:495] = more > 0, b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:512]) + 8 * 32)
    maps = b"".join(b"".ljust(504, b"0") + bytes([i < more - 1]) + bytes(7) for i in range(more))
    return bytes(header) + maps + data.ljust(-(-len(data) // 512) * 512, b"\0")


EMPTY = containers.MAGIC + b"\0"  # a header of no entries, then zeros: empty blocks without end
LOST = "archive cannot be read further: "
STRANGE: dict[str, tuple[bytes, str, bool]] = {
    "huge": (member("a.avro", 1 << 55), LOST + "member of 36,028,797,018,963,968 bytes", False),
    "huge and no packet": (member("a.txt", 1 << 55), LOST + "member of 36,028,797,018,963,968 bytes", False),
    "huge by an extended header": (member("a.avro", 0, size="9" * 30), LOST + "member of 999,999,999", False),
    "negative, extended": (member("a.avro", 0, size="-5000"), LOST + "member of -5,000 bytes", False),
    "sparse": (sparse("a.avro", 1 << 60, EMPTY, 0), "archive holds it as a sparse file", True),
    "sparse with a long map": (sparse("a.avro", 1 << 60, EMPTY, 9), "archive holds it as a sparse file", True),
    "sparse 0.0": (member("a.avro", 5, b"abcd\n", **{"GNU.sparse.size": "9"}), "holds it as a sparse file", True),
    "sparse 0.1": (member("a.avro", 5, b"abcd\n", **{"GNU.sparse.map": "abc"}), "holds it as a sparse file", True),
    "sparse 1.0": (member("a.avro", 600, b"9" * 600, **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
                   "holds it as a sparse file", True),
    "sparse nonsense": (member("a.avro", 5, b"abcd\n", **{"GNU.sparse.size": "x"}), LOST + "header cannot", False),
    "a chain of names": (member("././@LongLink", 2, b"a", tarfile.GNUTYPE_LONGNAME) * 2000, LOST + "header", False),
    "damaged header": (member("a.txt", 0)[:-200].ljust(512, b"x"), LOST + "header cannot be read", False),
}  # fmt: skip


@pytest.mark.parametrize("zipped", (False, True))
@pytest.mark.parametrize("what", STRANGE)
def test_a_strange_member_is_one_rejected_row(what: str, zipped: bool, tmp_path: Path) -> None:
    """What is before it is read, and so are what follows it, if that can be found, and the next file."""
    content, reason, goes_on = STRANGE[what]
    good = [packets.encode(packet) for packet in GOOD]
    night = member("x.avro", len(good[0]), good[0]) + content + member("y.avro", len(good[1]), good[1]) + bytes(1024)
    (tmp_path / "a.tar").write_bytes(gzip.compress(night, 1) if zipped else night)
    (tmp_path / "b.avro").write_bytes(good[2])
    (chunk,) = alerts.stream([tmp_path])
    assert chunk.keys.tolist() == [str(packet["candid"]) for packet in (GOOD if goes_on else [GOOD[0], GOOD[2]])]
    (rejected,) = chunk.rejected
    assert reason in rejected.reason and rejected.reason.isprintable()


def test_an_unreadable_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "a.avro").write_bytes(packets.encode(GOOD[0]))
    found = [*containers.find([tmp_path]), tmp_path / "gone.avro"]
    blocks = list(containers.blocks(found))
    assert [block.damage for block in blocks] == ["", "file cannot be read further: No such file or directory"]


def images() -> Iterator[tuple[str, bytes]]:
    pixels = np.random.default_rng(0).normal(0, 1e4, (63, 63)).astype(np.float32)
    pixels[:5, 7] = np.nan, np.inf, -np.inf, 0, -0.0
    yield "plain", fits_of(pixels)
    yield "not square", fits_of(pixels[:40])
    yield "double", fits_of(pixels.astype(np.float64))
    yield "many cards", fits_of(pixels, **{f"CARD{i}": i for i in range(80)})
    yield "scaled", fits_of(pixels, BSCALE=2.0, BZERO=-3.0)
    yield "free format", fits_of(pixels).replace(b"SIMPLE  =                    T", b"SIMPLE  =  T".ljust(30))


@pytest.mark.filterwarnings("ignore:.*SIMPLE card.*")
@pytest.mark.parametrize("content", [pytest.param(content, id=name) for name, content in images()])
def test_an_image_is_what_astropy_reads(content: bytes) -> None:
    with fits.open(io.BytesIO(content)) as units:
        wanted = units[0].data.astype("<f4")
    found = image(gzip.compress(content))
    assert found.dtype == np.float32 and found.shape == wanted.shape and found.tobytes() == wanted.tobytes()


def test_short_cut_and_long_way_read_the_same(tmp_path: Path) -> None:
    """The cutouts found from a record's end are those that decoding gives; where they cannot be, it is decoded."""
    (tmp_path / "a.avro").write_bytes(WHOLE)
    (found,) = containers.blocks([tmp_path / "a.avro"])
    stamps = avro._last_stamps(found.data)
    assert stamps == {name: {"stampData": GOOD[1][name]["stampData"]} for name in avro.CUTOUTS}
    # a gzip file's beginning within the history; something behind the last cutout
    decoy = deepcopy(GOOD[1])
    decoy["prv_candidates"][3]["programpi"] = (avro.ZIPPED * 3).decode("latin1")
    assert avro._last_stamps(found.data + b"\0") is None
    for packet, schema in ((decoy, packets.SCHEMA), (GOOD[1] | {"time": "now"}, with_field_after())):
        (tmp_path / "b.avro").write_bytes(written(packet, schema))
        (chunk,) = alerts.stream([tmp_path])
        assert chunk.records is not None and chunk.read == len(chunk.records) == 2
        assert np.array_equal(*chunk.records.images, equal_nan=True)
        assert np.array_equal(*chunk.records.features) and len(set(chunk.keys)) == 1


def with_field_after() -> Any:
    schema = changed(lambda fields: None)
    schema["fields"].append({"name": "time", "type": "string"})
    return schema


def test_never_more_bytes_than_asked_for() -> None:
    assert inflate(gzip.compress(b"x" * 100), GZIP, 100) == b"x" * 100
    with pytest.raises(NotWhole, match="more than 99 bytes"):
        inflate(gzip.compress(b"x" * 100), GZIP, 99)
    with pytest.raises(Unreadable, match="FITS header lacks"):
        image(gzip.compress(b"SIMPLE  =                    T".ljust(2880)))
