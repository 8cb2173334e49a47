"""Damaged packets and files: each is rejected with a one-line reason, and the rest is read."""

import bz2
import gzip
import io
import json
import lzma
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow
import pytest
from astropy.io import fits

from alerce_early.data import raw_files
from alerce_early.data.readers.packets import containers, stream, ztf
from alerce_early.data.readers.packets.compression import inflate
from alerce_early.data.readers.packets.fields import CUTOUTS as FIELDS
from alerce_early.data.readers.packets.fits_cutout import MAX_CUTOUT_BYTES, image
from alerce_early.data.readers.stamps_file import COLUMNS
from alerce_early.data.records import UnreadableError
from alerce_early.simulation import packets as night

Packet = dict[str, Any]
GOOD = [packet for packet, _ in night.alerts(3, seed=0)]


def with_stamp(data: bytes | None) -> Packet:
    return GOOD[1] | {"cutoutTemplate": {"fileName": "a stamp", "stampData": data}}


def fits_of(pixels: np.ndarray, **header: Any) -> bytes:
    file = io.BytesIO()
    unit = fits.PrimaryHDU(pixels)
    unit.header.update(header)
    unit.writeto(file)
    return file.getvalue()


def written(packet: Packet, schema: Any = night.SCHEMA, **options: Any) -> bytes:
    file = io.BytesIO()
    fastavro.writer(file, schema, [packet], **options)
    return file.getvalue()


def changed(change: Callable[[dict[str, Any]], None]) -> Any:
    """Return the schema of a packet after a change to its fields by name."""
    plain = {key: value for key, value in deepcopy(night.SCHEMA).items() if not key.startswith("__")}
    change({field["name"]: field for field in plain["fields"]})
    plain["fields"] = [field for field in plain["fields"] if field["type"] is not None]
    return plain


def without(*names: str) -> Any:
    return changed(lambda fields: [fields[name].update(type=None) for name in names])


def header(schema: Any, codec: bytes = b"null") -> bytes:
    """Return the start of an Avro file with any schema."""
    kinds = [{"name": "magic", "type": {"type": "fixed", "name": "m", "size": 4}}]
    kinds += [{"name": "meta", "type": {"type": "map", "values": "bytes"}}]
    kinds += [{"name": "sync", "type": {"type": "fixed", "name": "s", "size": 16}}]
    file = io.BytesIO()
    facts = {"avro.schema": json.dumps(schema).encode(), "avro.codec": codec}
    values = {"magic": raw_files.AVRO, "meta": facts, "sync": bytes(16)}
    fastavro.schemaless_writer(file, fastavro.parse_schema({"type": "record", "name": "h", "fields": kinds}), values)
    return file.getvalue()


def block(count: int, data: bytes, size: int | None = None) -> bytes:
    file = io.BytesIO()
    for number in (count, len(data) if size is None else size):
        fastavro.schemaless_writer(file, fastavro.parse_schema("long"), number)
    return file.getvalue() + data + bytes(16)


WHOLE = night.encode(GOOD[1])
STAMP = GOOD[1]["cutoutTemplate"]["stampData"]
FLIPPED = STAMP[:-6] + bytes([STAMP[-6] ^ 1]) + STAMP[-5:]
IMAGE = gzip.decompress(STAMP)
BLANK = gzip.compress(fits_of(np.full((63, 63), np.nan, np.float32)))
BOMB = gzip.compress(bytes(50 * MAX_CUTOUT_BYTES))
HUGE = IMAGE.replace(b"NAXIS1  =                   63", b"NAXIS1  =         999999999999")
NESTED = {"type": "record", "name": "self", "fields": [{"name": "objectId", "type": ["null", "self"]}]}
PARSED = {"type": "record", "name": "a", "fields": [{"name": "objectId", "type": "hidden"}], "__fastavro_parsed": True}
PARSED |= {"__named_schemas": {"hidden": NESTED | {"name": "hidden", "fields": [{"name": "x", "type": "hidden"}]}}}
NULLS = changed(lambda fields: fields["prv_candidates"].update(type={"type": "array", "items": "null"}))
LIST = changed(lambda fields: fields["objectId"].update(type={"type": "array", "items": "string"}))

SQUEEZED: dict[str, Callable[[bytes], bytes]] = {
    "bzip2": bz2.compress,
    "xz": lambda content: lzma.compress(content, preset=0),
    "zstandard": lambda content: pyarrow.compress(content, codec="zstd", asbytes=True),
}

BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"candid,label\n", "Avro container"),
    "header cut short": (WHOLE[:500], "Avro file is cut short"),
    "cut short": (WHOLE[:-5000], "Avro file is cut short"),
    "sync": (WHOLE[:-1] + bytes([WHOLE[-1] ^ 1]), "a block does not end"),
    "no end of a number": (raw_files.AVRO + b"\xff" * 30, "Avro file is"),
    "schema is no JSON": (WHOLE.replace(b'{"type":', b'{"type"|', 1).replace(b'{"type" :', b"{", 1), "Avro"),
    "another schema": (written({"x": 1}, {"type": "record", "name": "t", "fields": [{"name": "x", "type": "int"}]}),
                       "candid is missing"),
    "a strange type": (WHOLE.replace(b'"record"', b'"pecord"', 1), "Avro schema cannot be used"),
    "no record": (written(1, "int"), "int instead of a record"),
    "no candidate": (written(GOOD[1], without("candidate")), "candidate is missing"),
    "no objectId": (written(GOOD[1], without("objectId")), "objectId is missing"),
    "no candid": (written(GOOD[1], without("candid")), "candid is missing"),
    "no template": (night.encode(GOOD[1] | {"cutoutTemplate": None}), "cutoutTemplate is missing"),
    "no template field": (written(GOOD[1], without("cutoutTemplate")), "cutoutTemplate is missing"),
    "nothing but NaN": (night.encode(GOOD[1] | {key: {"fileName": "", "stampData": BLANK} for key in FIELDS.values()}),
                        "no cutout"),
    "empty stamp": (night.encode(with_stamp(b"")), "cutoutTemplate is missing"),
    "gzip cut short": (night.encode(with_stamp(STAMP[:-100])), "cutoutTemplate gzip is cut short"),
    "checksum": (night.encode(with_stamp(FLIPPED)), "cutoutTemplate gzip is damaged"),
    "bomb": (night.encode(with_stamp(BOMB)), "cutoutTemplate gzip is more than 1,048,576 bytes"),
    "no FITS": (night.encode(with_stamp(gzip.compress(b"stamp" * 4000))), "cutoutTemplate is text"),
    "FITS cut short": (night.encode(with_stamp(gzip.compress(IMAGE[:9000]))), "FITS image is cut short"),
    "huge FITS": (night.encode(with_stamp(gzip.compress(HUGE))), "declares too much: 999999999999 x 63 pixels"),
    "integers": (night.encode(with_stamp(gzip.compress(fits_of(np.ones((63, 63), np.int16))))),
                 "image: int16"),
    "a cube": (night.encode(with_stamp(gzip.compress(fits_of(np.ones((3, 63, 63), np.float32))))),
               "image: float32 of shape"),
    "no pixels": (night.encode(with_stamp(gzip.compress(fits_of(None)))), "image: no image"),
    "misshaped": (night.encode(with_stamp(night.gzipped_fits(np.ones((63, 41))))),
                  "stamp is 63 x 41, expected 63 x 63"),
    "isdiffpos": (night.encode(GOOD[1] | {"candidate": GOOD[1]["candidate"] | {"isdiffpos": "maybe"}}),
                  "isdiffpos is neither t nor f: 'maybe'"),
    "JPEG": (night.encode(with_stamp(b"\xff\xd8\xff\xe0" + bytes(99))), "is a JPEG picture, expected FITS"),
    "Confluent": (b"\0\0\0\x03\x84" + WHOLE[800:], "is a Confluent wire message without its schema (number 900)"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4\n", "git lfs pull fetches the file"),
    "codec": (header(night.SCHEMA, b"lzo") + block(1, b"nothing"), "unknown codec 'lzo'"),
    "deflate": (header(night.SCHEMA, b"deflate") + block(1, b"nothing"), "Avro block is damaged"),
    "deflate bomb": (header(night.SCHEMA, b"deflate")
                     + block(1, zlib.compress(bytes(containers.MAX_BLOCK_BYTES + 1), wbits=-15)),
                     "Avro block is more than 67,108,864 bytes"),
    "record cut short": (header(night.SCHEMA) + block(1, b"\x08abcd"), "Avro record cannot be decoded"),
    "many records": (header(night.SCHEMA) + block(10**15, b"\x08abcd"), "block declares 1,000,000,000,000,000"),
    "many small records": (header(night.SCHEMA) + block(20_000, bytes(640_000)), "block declares 20,000 records"),
    "negative": (header(night.SCHEMA) + block(-3, b"\x08abcd"), "block declares -3 records"),
    "empty blocks": (header(night.SCHEMA) + bytes(18 * 1000), "block declares 0 records in 0 bytes"),
    "empty entries": (raw_files.AVRO + b"\x80\x80\x80\x80\x80\x01" + bytes(1 << 16), "Avro file is"),
    "snappy bomb": (header(night.SCHEMA, b"snappy") + block(1, b"\xff\xff\xff\xff\x0f" + bytes(9)),
                    "Avro block is more than 67,108,864 bytes"),
    **{f"{codec} bomb": (header(night.SCHEMA, codec.encode())
                         + block(1, squeeze(bytes(containers.MAX_BLOCK_BYTES + 1))),
                         "Avro block is more than 67,108,864 bytes")
       for codec, squeeze in SQUEEZED.items()},
    **{f"{codec} damaged": (header(night.SCHEMA, codec.encode()) + block(1, b"nothing"), "Avro block is")
       for codec in ("snappy", *SQUEEZED)},
    "negative size": (header(night.SCHEMA) + block(1, b"", -1), "block declares 1 records in -1 bytes"),
    "large block": (header(night.SCHEMA) + block(1, b"", 1 << 60), "records in 1,152,921,504,606,846,976 bytes"),
    "contains itself": (header(NESTED) + block(1, b"\x02" * 10**6), "Avro schema contains itself"),
    "as if parsed": (header(PARSED) + block(1, b"\x02" * 10**6), "Avro schema cannot be used: hidden"),
    "no bytes": (header(NULLS) + block(1, b"\x02" * 99), "zero bytes"),
    "a list": (header(LIST) + block(1, b"\x02" * 99), "array instead of a field"),
    "control characters": (header({"type": "record", "name": "a", "fields": [{"name": "candid", "type": "\x1b[31m"}]})
                           + block(1, b"\x02" * 99), "Avro schema cannot be used: \\x1b[31m"),
    "deep": (header(json.loads('{"type":"array","items":' * 300 + '"int"' + "}" * 300)) + block(1, b"\x02" * 99),
             "Avro schema"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_packet_is_rejected_and_the_rest_is_read(what: str, tmp_path: Path) -> None:
    content, reason = BAD[what]
    for name, data in (
        ("a", night.encode(GOOD[0])),
        ("b", content),
        ("c", night.encode(GOOD[2])),
    ):
        (tmp_path / f"{name}.avro").write_bytes(data)
    (chunk,) = stream.stream([tmp_path])
    assert chunk.keys.tolist() == [str(GOOD[0]["candid"]), str(GOOD[2]["candid"])]
    (rejected,) = chunk.rejected
    assert chunk.read == 3 and rejected.source == str(tmp_path / "b.avro")
    assert reason in rejected.reason and rejected.reason.isprintable() and len(rejected.reason) <= 200
    assert rejected.key in ("", str(GOOD[1]["candid"]))


def test_records_after_damage_in_a_block_are_rejected(tmp_path: Path) -> None:
    """Records before the damage are read; those after it are counted, in every shard and after any skip."""
    encoded = []
    for packet in GOOD:
        file = io.BytesIO()
        fastavro.schemaless_writer(file, night.SCHEMA, packet)
        encoded.append(file.getvalue())
    data = encoded[0] + b"\x08\xff\xff\xff\xff\xff\x7f" + encoded[2]
    (tmp_path / "a.avro").write_bytes(header(night.SCHEMA) + block(3, data) + block(1, encoded[1]))
    (chunk,) = stream.stream([tmp_path])
    assert chunk.keys.tolist() == [str(GOOD[0]["candid"]), str(GOOD[1]["candid"])]
    assert [packet.source[-2:] for packet in chunk.rejected] == ["#1", "#2"] and chunk.read == 4
    (rest,) = stream.stream([tmp_path], skip=2)
    assert rest.keys.tolist() == chunk.keys.tolist()[1:] and rest.rejected == chunk.rejected[1:]


def test_memory_is_bounded_by_size_not_by_declared_records() -> None:
    """Five blocks declare 1000 records each in 32 kB."""
    many = header(night.SCHEMA) + 5 * block(1000, b"\xff" * 32_000)
    tracemalloc.start()
    chunk = stream.decode([night.encode(GOOD[0]), many, WHOLE])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert chunk.keys.tolist() == [str(GOOD[0]["candid"]), str(GOOD[1]["candid"])]
    assert chunk.records is not None and np.array_equal(chunk.records.images[1, ..., 1], image(STAMP), equal_nan=True)
    assert len(chunk.rejected) == 5000 and chunk.read == 5002 and peak < 100 << 20


@pytest.mark.parametrize("codec", ("null", "deflate", "snappy", "zstandard", "bzip2", "xz"))
def test_every_codec_gives_the_same(codec: str) -> None:
    """Blocks are compressed here, because fastavro needs further packages for some codecs."""
    (plain,) = containers.iter_blocks(io.BytesIO(WHOLE), "a")
    squeeze = {
        **SQUEEZED,
        "null": bytes,
        "deflate": lambda content: zlib.compress(content, wbits=-15),
        "snappy": lambda content: (
            pyarrow.compress(content, codec="snappy", asbytes=True) + zlib.crc32(content).to_bytes(4, "big")
        ),
    }
    packed = squeeze[codec](plain.data)
    chunk = stream.decode([header(night.SCHEMA, codec.encode()) + block(1, packed), WHOLE])
    assert chunk.records is not None and np.array_equal(*chunk.records.images, equal_nan=True) and not chunk.rejected
    assert np.array_equal(*chunk.records.features) and len(set(chunk.keys)) == 1


def test_every_encoding_of_cutouts_and_isdiffpos_is_read() -> None:
    extension = io.BytesIO()
    (pixels,) = (unit.data for unit in fits.open(io.BytesIO(IMAGE)))
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(pixels)]).writeto(extension)
    half = len(IMAGE) // 2
    forms = [STAMP, IMAGE, gzip.compress(IMAGE[:half]) + gzip.compress(IMAGE[half:]), extension.getvalue()]
    forms += [gzip.compress(extension.getvalue()), STAMP + bytes(10)]
    chunk = stream.decode([night.encode(with_stamp(form)) for form in forms])
    assert len(chunk.keys) == len(forms) and chunk.records is not None
    assert all(np.array_equal(image, chunk.records.images[0], equal_nan=True) for image in chunk.records.images)

    as_bytes = changed(lambda fields: [fields[name].update(type=["null", "bytes"]) for name in FIELDS.values()])
    bare = GOOD[1] | {name: GOOD[1][name]["stampData"] for name in FIELDS.values()}
    again = stream.decode([written(bare, as_bytes), WHOLE])
    assert again.records is not None and np.array_equal(*again.records.images, equal_nan=True)

    def candidate(kind: str) -> Any:
        schema = changed(lambda fields: None)
        (of,) = (field["type"] for field in schema["fields"] if field["name"] == "candidate")
        next(field for field in of["fields"] if field["name"] == "isdiffpos")["type"] = kind
        return schema

    for kind, values in (("string", ("t", "1", "true", "f", "0", "False")), ("int", (1, 1, 1, 0, 0, 0)),
                         ("boolean", (True, True, True, False, False, False))):  # fmt: skip
        rows = [GOOD[1] | {"candidate": GOOD[1]["candidate"] | {"isdiffpos": value}} for value in values]
        chunk = stream.decode([written(row, candidate(kind)) for row in rows])
        assert chunk.records is not None
        assert chunk.records.features[:, COLUMNS.index("isdiffpos")].tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("source", "place"),
    (
        ((1500.0, 1500.0), (slice(0, 63), slice(0, 63))),
        ((12.91, 1340.0), (slice(19, 63), slice(0, 63))),  # these four from real alerts
        ((3055.17, 1107.98), (slice(0, 57), slice(0, 63))),
        ((75.65, 3049.4), (slice(0, 63), slice(0, 55))),
        ((2999.3, 3059.9), (slice(0, 63), slice(0, 44))),
        ((12.91, 20.2), (slice(19, 63), slice(12, 63))),
    ),
)
def test_cutouts_at_the_edge_of_a_chip_are_padded_with_nan(
    source: tuple[float, float], place: tuple[slice, slice]
) -> None:
    whole = np.arange(63 * 63, dtype=np.float32).reshape(63, 63)
    cutout = {"stampData": night.gzipped_fits(whole[place])}
    position = dict(zip(("ypos", "xpos"), source, strict=True))
    record = GOOD[1] | dict.fromkeys(FIELDS.values(), cutout) | {"candidate": GOOD[1]["candidate"] | position}
    _, _, stamps = ztf.read(record, tuple(FIELDS), pad_edges=True)
    assert np.array_equal(stamps[0][place], whole[place])
    assert np.isnan(stamps).sum() == 3 * (63 * 63 - whole[place].size)
    elsewhere = record | {"candidate": record["candidate"] | {"xpos": source[1] + 100, "ypos": source[0] + 100}}
    lost = record | {"candidate": record["candidate"] | {"xpos": None, "ypos": None}}
    for odd, pad in ((record, False), (elsewhere, True), (lost, True)):
        if whole[place].shape != whole.shape:
            with pytest.raises(UnreadableError, match="63 x 63"):
                ztf.read(odd, tuple(FIELDS), pad_edges=pad)


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
def test_images_equal_those_of_astropy(content: bytes) -> None:
    with fits.open(io.BytesIO(content)) as units:
        wanted = units[0].data.astype("<f4")
    found = image(gzip.compress(content))
    assert found.dtype == np.float32 and found.shape == wanted.shape and found.tobytes() == wanted.tobytes()


def test_decompression_stops_at_the_limit() -> None:
    assert inflate(gzip.compress(b"x" * 100), "gzip", 100, "cutout") == b"x" * 100
    with pytest.raises(UnreadableError, match="more than 99 bytes"):
        inflate(gzip.compress(b"x" * 100), "gzip", 99, "cutout")
    with pytest.raises(UnreadableError, match="FITS header lacks"):
        image(gzip.compress(b"SIMPLE  =                    T".ljust(2880)))
