"""Rubin packets: stamps centred on the source, every container and encoding, and damaged packets."""

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow
import pytest
from astropy.io import fits
from pyarrow import parquet

from alerce_early.data.readers.packets import rubin, stream
from alerce_early.data.readers.packets.fits_cutout import PSF, image
from alerce_early.data.readers.packets.schemas import Schemas
from alerce_early.data.records import MISSING
from alerce_early.errors import InputError
from alerce_early.simulation import packets as night
from tests.data.test_packets import fits_of

FLOATS = ("snr", "psfFlux", "psfFluxErr", "apFlux", "extendedness", "reliability", "trailLength")
PAST = {"type": "record", "name": "past", "fields": [
    {"name": "id", "type": "long"}, {"name": "flux", "type": ["null", "float", "double"]},
    {"name": "seen", "type": {"type": "boolean"}}, {"name": "band", "type": ["null", "string"]}]}  # fmt: skip
SOURCE = {"type": "record", "name": "diaSource", "fields": [
    *({"name": name, "type": ["null", "long"]} for name in ("diaSourceId", "diaObjectId", "ssObjectId", "visit")),
    *({"name": name, "type": "double"} for name in ("midpointMjdTai", "ra", "dec")),
    *({"name": name, "type": ["null", "float"]} for name in FLOATS),
    {"name": "band", "type": ["null", "string"]}, {"name": "earlier", "type": ["null", PAST]}]}  # fmt: skip
CUTOUTS = {name: f"cutout{name.capitalize()}" for name in ("science", "template", "difference")}
SCHEMA: dict[str, Any] = {"type": "record", "name": "alert", "namespace": "survey.v9_0", "fields": [
    {"name": "diaSource", "type": SOURCE},
    {"name": "prvDiaSources", "type": ["null", {"type": "array", "items": "past"}]},
    {"name": "prvDiaForcedSources", "type": {"type": "array", "items": ["past", "null"]}},
    {"name": "target", "type": ["null", "string"]},
    *({"name": name, "type": ["null", "bytes"]} for name in CUTOUTS.values())]}  # fmt: skip
RNG = np.random.default_rng(0)


def cutout(side: int = 30, at: tuple[float, float] | None = None, value: float = 0.0, **header: Any) -> bytes:
    """Return a cutout as the survey writes it, with the source at pixel (x, y), counted from 1."""
    pixels = RNG.normal(value, 50, (side, side)).astype(np.float32)
    pixels[0, 0] = np.nan
    first = fits.PrimaryHDU(pixels)
    x, y = at or ((side + 1) / 2, (side + 1) / 2)
    first.header.update({"CRPIX1": x, "CRPIX2": y, "BUNIT": "nJy"} | header)
    variance = fits.ImageHDU(RNG.uniform(100, 200, (side, side)).astype(np.float32), name="UNCERT")
    variance.data[1, 1] = 0
    file = io.BytesIO()
    fits.HDUList([first, variance, fits.ImageHDU(RNG.random((41, 43)), name="PSFIMAGE")]).writeto(file)
    return file.getvalue()


def packet(number: int, side: int = 30, at: tuple[float, float] | None = None, **changes: Any) -> dict[str, Any]:
    source = {"diaSourceId": 10**17 + number, "diaObjectId": 3 * 10**17 + number, "ssObjectId": 0, "visit": None}
    source |= {"midpointMjdTai": 61000.25, "ra": 150.5, "dec": -2.25, **dict.fromkeys(FLOATS, 1.5)}
    source |= {"reliability": None, "band": "r", "earlier": None}
    past = [
        {"id": i * 10**i, "flux": [None, 2.5][i % 2], "seen": i > 2, "band": [None, "g", "", "y" * 63][i % 4]}
        for i in range(9)
    ]
    held = {"prvDiaSources": past, "prvDiaForcedSources": [*past[:2], None], "target": "a field"}
    stamps = {name: cutout(side, at) for name in CUTOUTS.values()}
    return {"diaSource": source | changes.pop("diaSource", {}), **held, **stamps, **changes}


def container(*packets: Mapping[str, Any], schema: Any = SCHEMA) -> bytes:
    file = io.BytesIO()
    fastavro.writer(file, json.loads(json.dumps(schema)), packets)
    return file.getvalue()


def read_by_astropy(packet: Mapping[str, Any], channels: Any = CUTOUTS) -> np.ndarray:
    """Return the stamps (63, 63, C) of a packet, copied pixel by pixel around the source in its header."""
    stamps = np.full((rubin.SIDE, rubin.SIDE, len(channels)), np.nan, np.float32)
    for channel, name in enumerate(channels):
        content = packet[CUTOUTS["difference" if name == "SNR" else name]]
        content = content["stampData"] if isinstance(content, dict) else content
        with warnings.catch_warnings(), fits.open(io.BytesIO(content)) as units:
            warnings.simplefilter("ignore")
            pixels, header = units[0].data, units[0].header
            if name == "SNR":
                with np.errstate(divide="ignore"):
                    pixels = pixels / np.sqrt(np.where(units[1].data > 0, units[1].data, np.nan))
            top, left = (31 - int(np.floor(header[key] - 0.5)) for key in ("CRPIX2", "CRPIX1"))
            for (y, x), value in np.ndenumerate(pixels):
                if 0 <= y + top < rubin.SIDE and 0 <= x + left < rubin.SIDE:
                    stamps[y + top, x + left, channel] = value
    return stamps


def test_stamps_are_centred_on_the_source() -> None:
    """For cutouts of every size, with the source a fraction of a pixel off the centre."""
    shapes = [(30, (15.04, 15.96)), (30, (15.5, 15.49)), (31, (16.4, 15.6)), (63, (32.0, 32.3)), (64, (32.2, 32.9))]
    packets = [packet(i, side, at) for i, (side, at) in enumerate([*shapes, (93, (46.6, 47.4)), (62, (31.1, 31.2))])]
    chunk = stream.decode([container(one) for one in packets])
    assert chunk.records is not None and not chunk.rejected and chunk.records.survey == "Rubin"
    for found, one in zip(chunk.records.images, packets, strict=True):
        assert np.array_equal(found, read_by_astropy(one), equal_nan=True)
    assert chunk.keys.tolist() == [str(one["diaSource"]["diaSourceId"]) for one in packets]

    channels = ("difference", "SNR")
    chunk = stream.decode([container(one) for one in packets], channels=channels)
    assert chunk.records is not None and chunk.records.channels == channels
    for found, one in zip(chunk.records.images, packets, strict=True):
        np.testing.assert_allclose(found, read_by_astropy(one, channels), rtol=1e-6)

    source = np.zeros((30, 30), np.float32)
    source[14, 15] = -7  # row 15 and column 16 in FITS
    bright = fits_of(source, CRPIX1=15.8, CRPIX2=15.2)
    chunk = stream.decode([container(packet(1, **dict.fromkeys(CUTOUTS.values(), bright)))])
    assert chunk.records is not None and (chunk.records.images[0, 31, 31] == -7).all()
    with fits.open(io.BytesIO(packets[0]["cutoutScience"])) as units:
        assert np.array_equal(image(packets[0]["cutoutScience"], PSF), units[2].data.astype(np.float32))


def test_columns_names_and_missing_values() -> None:
    moving = {"diaObjectId": 0, "ssObjectId": 2 * 10**16, "band": "y"}
    rows = [packet(0), packet(1, diaSource=moving), packet(2, diaSource=moving | {"diaObjectId": None, "band": None})]
    chunk = stream.decode([container(*rows)])
    assert chunk.records is not None
    assert chunk.records.ids.tolist() == [str(3 * 10**17), str(2 * 10**16), str(2 * 10**16)]
    columns = dict(zip(chunk.records.feature_names, chunk.records.features.T, strict=True))
    assert columns["ra"].tolist() == [150.5] * 3 and columns["reliability"].tolist() == [MISSING] * 3
    np.testing.assert_array_equal(chunk.records.context["fid"], [2, 5, np.nan])
    assert chunk.records.context["jd"].tolist() == [2461000.75] * 3

    fewer = json.loads(json.dumps(SCHEMA))
    fewer["fields"][0]["type"]["fields"] = [
        field for field in SOURCE["fields"] if field["name"] not in ("trailLength", "visit", "ssObjectId")
    ]
    chunk = stream.decode([container(rows[0], schema=fewer), container(rows[0])])
    assert chunk.records is not None and chunk.records.features[:, -1].tolist() == [MISSING, 1.5]


def test_every_container_gives_the_same_records(tmp_path: Path) -> None:
    """Containers, messages and tables, with both layouts of a cutout and another order of fields."""
    packets = [packet(i) for i in range(3)]
    whole = stream.decode([container(*packets)])
    assert whole.records is not None

    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "900.avsc").write_text(json.dumps(SCHEMA))
    messages = []
    for one in packets:
        file = io.BytesIO(b"\0\0\0\3\x84")
        file.seek(5)
        fastavro.schemaless_writer(file, json.loads(json.dumps(SCHEMA)), one)
        messages.append(file.getvalue())
    (tmp_path / "messages").mkdir()
    for i, message in enumerate(messages):
        (tmp_path / "messages" / f"{i}.bin").write_bytes(message)
    known = Schemas(tmp_path / "schemas")

    wrapped = [one | {name: {"stampData": one[name]} for name in CUTOUTS.values()} for one in packets]
    for name, rows in (("plain", packets), ("wrapped", wrapped)):
        (tmp_path / name).mkdir()
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name / "a.parquet")

    last_first = SCHEMA | {"fields": [*SCHEMA["fields"][4:], SCHEMA["fields"][0], *SCHEMA["fields"][1:4]]}
    found = [stream.decode(messages, known), stream.decode([container(*packets, schema=last_first)])]
    found += stream.stream([tmp_path / "messages"], schemas=known)
    found += [chunk for name in ("plain", "wrapped") for chunk in stream.stream([tmp_path / name])]
    for chunk in found:
        assert chunk.records is not None and chunk.keys.tolist() == whole.keys.tolist() and not chunk.rejected
        assert np.array_equal(chunk.records.images, whole.records.images, equal_nan=True)
        assert np.array_equal(chunk.records.features, whole.records.features)
        assert chunk.records.ids.tolist() == whole.records.ids.tolist()


def test_a_history_in_every_encoding_is_skipped(tmp_path: Path) -> None:
    """Empty, absent, long, with a long text that fastavro decodes, or in a block with its size."""
    (past, *_) = packet(0)["prvDiaSources"]
    histories: list[Any] = [None, [], [past] * 500, [past | {"band": "z" * 64}] * 3]
    # misread with a length of one byte, this text would end where the list ends
    histories += [[past | {"band": "z" * n + "\0"}] for n in (62, 63, 99, 126, 127)]
    packets = [packet(i, prvDiaSources=history) for i, history in enumerate(histories)]
    chunk = stream.decode([container(*packets)])
    assert len(chunk.keys) == len(packets) and not chunk.rejected and chunk.records is not None
    for found, one in zip(chunk.records.images, packets, strict=True):
        assert np.array_equal(found, read_by_astropy(one), equal_nan=True)

    file = io.BytesIO()
    fastavro.schemaless_writer(file, json.loads(json.dumps(SCHEMA)), packets[2])
    items = io.BytesIO()
    fastavro.schemaless_writer(items, json.loads(json.dumps({"type": "array", "items": PAST})), [past] * 500)
    count, length = b"\xe8\x07", len(items.getvalue()) - 3  # 500 as an Avro long; the size excludes it and the final 0
    sized = io.BytesIO()
    for number in (-500, length):
        fastavro.schemaless_writer(sized, "long", number)
    body = file.getvalue()
    assert items.getvalue()[:2] == count and body.count(items.getvalue()) == 1
    other = body.replace(items.getvalue(), sized.getvalue() + items.getvalue()[2:])
    beyond = body.replace(items.getvalue(), sized.getvalue()[:-2] + b"\xff\xff\xff\x7f" + items.getvalue()[2:])
    (tmp_path / "alert.avsc").write_text(json.dumps(SCHEMA))
    chunk = stream.decode([body, other, beyond, body[:300]], Schemas(tmp_path / "alert.avsc"))
    assert chunk.records is not None and np.array_equal(*chunk.records.images, equal_nan=True)
    assert [one.source for one in chunk.rejected] == ["message 2", "message 3"]


@pytest.mark.parametrize("channels", [("science", "template", "difference"), ("template", "SNR")])
def test_a_bad_packet_is_rejected_and_the_rest_is_read(channels: tuple[str, ...]) -> None:
    wide = fits_of(np.ones((30, 32), np.float32), CRPIX1=15.5, CRPIX2=15.5)
    good = cutout()
    bad: dict[str, dict[str, Any]] = {
        "cutoutTemplate is missing": {"cutoutTemplate": None},
        "cutoutTemplate is text": {"cutoutTemplate": b"no picture"},
        "cutoutTemplate FITS image is cut short": {"cutoutTemplate": good[:4000]},
        "cutoutTemplate FITS file": {"cutoutTemplate": fits_of(np.ones((30, 30), np.int16))},
        "is not square: 30 x 32": dict.fromkeys(CUTOUTS.values(), wide),
        "cutouts differ in shape: 30 x 30 and 31 x 31": {"cutoutDifference": cutout(31)},
        "off the centre": dict.fromkeys(CUTOUTS.values(), cutout(30, (2.0, 15.5))),
        "diaSourceId is missing": {"diaSource": {"diaSourceId": None}},
        "diaObjectId and ssObjectId are both 0": {"diaSource": {"diaObjectId": 0, "ssObjectId": 0}},
        "ssObjectId is missing": {"diaSource": {"diaObjectId": None, "ssObjectId": None}},
    }
    chunk = stream.decode([container(packet(1, **changes)) for changes in bad.values()] + [container(packet(9))],
                          channels=channels)  # fmt: skip
    assert chunk.keys.tolist() == [str(10**17 + 9)]
    for rejected, reason in zip(chunk.rejected, bad, strict=True):
        assert reason in rejected.reason and rejected.reason.isprintable()
        assert rejected.key in (str(10**17 + 1), "")
    for odd in ([], ["science", "variance"]):
        with pytest.raises(InputError, match="channels"):
            stream.decode([], channels=odd)


def test_the_number_of_detections_is_read_if_present(tmp_path: Path) -> None:
    """The object is null for solar system objects and missing from some schemas."""
    numbers = [{"name": name, "type": ["null", kind]} for name, kind in (("nDiaSources", "int"), ("ra", "double"))]
    own = {"name": "diaObject", "type": ["null", {"type": "record", "name": "diaObject", "fields": numbers}]}
    schema = SCHEMA | {"fields": [*SCHEMA["fields"], own]}
    held = [{"nDiaSources": 7, "ra": 1.0}, None, {"nDiaSources": None, "ra": None}, {"nDiaSources": 1, "ra": 1.0}]
    rows = [packet(i, diaObject=one) for i, one in enumerate(held)]
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "alerts.parquet")
    wanted = [7, np.nan, np.nan, 1]
    chunks = [stream.decode([container(one, schema=schema) for one in rows]), stream.decode_rows(table)]
    for chunk in (*chunks, *stream.stream([tmp_path], workers=0)):
        assert chunk.records is not None and not chunk.rejected
        assert np.array_equal(chunk.records.context["ndethist"], wanted, equal_nan=True)
    chunks = [stream.decode([container(packet(0))]), stream.decode_rows(table.drop_columns("diaObject"))]
    assert all(np.isnan(chunk.records.context["ndethist"]).all() for chunk in chunks if chunk.records)


def test_packets_of_two_surveys_are_kept_apart(tmp_path: Path) -> None:
    """Both are read, one survey per chunk; if one is selected, the other is rejected."""
    ztf = [night.encode(one) for one, _ in night.alerts(2, seed=0)]
    for name, content in zip("abcd", (container(packet(0)), ztf[0], ztf[1], container(packet(1))), strict=True):
        (tmp_path / f"{name}.avro").write_bytes(content)
    chunks = list(stream.stream([tmp_path], workers=0))
    assert [chunk.records.survey for chunk in chunks if chunk.records] == ["Rubin", "ZTF", "Rubin"]
    (rest,) = stream.stream([tmp_path], workers=0, skip=3)
    assert rest.keys.tolist() == chunks[2].keys.tolist()
    for survey, other in (("Rubin", "ZTF"), ("ZTF", "Rubin")):
        (chunk,) = stream.stream([tmp_path], workers=0, survey=survey)
        assert (
            chunk.records is not None and chunk.records.survey == survey and len(chunk.keys) == 2 == len(chunk.rejected)
        )
        assert all(f"packet of {other}, expected {survey}" in one.reason for one in chunk.rejected)
        assert stream.read(tmp_path, survey=survey).set_aside.total() == 2
    chunk = stream.decode([container(packet(0)), ztf[0]])
    assert len(chunk.keys) == 1 and "another survey" in chunk.rejected[0].reason
    with pytest.raises(InputError, match="expected Rubin"):
        stream.read(tmp_path / "b.avro", survey="Rubin")


def test_labels_are_matched_by_source_id(tmp_path: Path) -> None:
    (tmp_path / "a.avro").write_bytes(container(*(packet(i) for i in range(3))))
    rows = [f"{10**17},AGN,7", f"{10**17 + 2},asteroid,8"]
    (tmp_path / "labels.csv").write_text("\n".join(["diaSourceId,label,objectId", *rows]))
    records = stream.read(tmp_path, survey="Rubin")
    assert [records.classes[label] if label >= 0 else "" for label in records.labels] == ["AGN", "", "asteroid"]


def test_every_real_packet_is_read_as_astropy_reads_it(real_data: Path) -> None:
    folder = real_data / "rubin"
    rows = [row for file in sorted(folder.glob("*.parquet")) for row in parquet.read_table(file).to_pylist()]
    with (folder / "alerts.avro").open("rb") as file:
        rows += list(fastavro.reader(file))
    by_key = {str(row["diaSource"]["diaSourceId"]): row for row in rows}
    (chunk,) = stream.stream([folder])
    assert chunk.records is not None and sorted(chunk.keys) == sorted(by_key) and len(by_key) == len(rows)
    for key, found in zip(chunk.keys, chunk.records.images, strict=True):
        assert np.array_equal(found, read_by_astropy(by_key[key]), equal_nan=True)
    assert [packet.source[-8:] for packet in chunk.rejected] == ["v9.0.bin"]
    known = (folder / "labels.csv").read_text().splitlines()[1:]
    assert (chunk.records.labels >= 0).sum() == len(known)
    with_snr = stream.read(folder / "*.parquet", survey="Rubin", channels=("difference", "SNR"))
    assert len(with_snr) == len(rows) - 5 and np.isfinite(with_snr.images).mean() > 0.2
