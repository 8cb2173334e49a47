"""A simulated night of alert packets: the simulated survey in the format that ZTF sends."""

import csv
import io
import tarfile
from collections.abc import Iterator
from gzip import compress
from pathlib import Path
from typing import Any

import numpy as np
from fastavro import parse_schema, writer
from tqdm import tqdm

from alerce_early import files
from alerce_early.data.readers.packets import compression
from alerce_early.data.readers.packets.fields import CUTOUTS, ZTF
from alerce_early.data.readers.stamps_file import CLASSES, COLUMNS
from alerce_early.errors import InputError
from alerce_early.simulation.survey import simulate

POOL = 2_000  # stamps painted; a longer night shows them again under new names
FIRST = 3_251_000_000_015_000_000  # candid of the first packet
HISTORY = 20  # earlier detections and limits in a packet, as in a real one: they are what a reader must skip
COUNTED = ("ndethist", "ncovhist")
CARDS = "SIMPLE  =                    T", "BITPIX  =                  -32", "NAXIS   =                    2"


def _optional(kind: Any) -> Any:
    return ["null", kind]


def _schema() -> Any:
    """ZTF's schema, reduced to the fields that are read here and an alert's history."""
    kinds = {"isdiffpos": "string", **dict.fromkeys(COUNTED, "int")}
    fields = [{"name": name, "type": _optional(kinds.get(name, "double"))} for name in ZTF.columns]
    when = [{"name": "jd", "type": "double"}, {"name": "fid", "type": "int"}, {"name": "programpi", "type": "string"}]
    parts = [{"name": "fileName", "type": "string"}, {"name": "stampData", "type": "bytes"}]
    cutout = {"type": "record", "name": "cutout", "fields": parts}
    earlier = {"type": "record", "name": "prv_candidate", "fields": [*when, *fields]}
    top = [
        {"name": "schemavsn", "type": "string"},
        {"name": "objectId", "type": "string"},
        {"name": "candid", "type": "long"},
        {"name": "candidate", "type": {"type": "record", "name": "candidate", "fields": [*when, *fields]}},
        {"name": "prv_candidates", "type": _optional({"type": "array", "items": earlier})},
        *({"name": name, "type": _optional("cutout" if i else cutout)} for i, name in enumerate(CUTOUTS.values())),
    ]
    return parse_schema({"type": "record", "name": "alert", "namespace": "ztf", "fields": top})


SCHEMA = _schema()


def alerts(n: int, seed: int = 0, pool_size: int = POOL) -> Iterator[tuple[dict[str, Any], str]]:
    """n packets as dicts of SCHEMA, and the class of each; a pure function of its arguments.

    Past pool_size, stamps and metadata repeat; candid and objectId never do.
    """
    if n < 1:
        raise InputError(f"a night of {n} packets: wanted 1 or more.")
    survey = simulate(max(2 * len(CLASSES), min(n, pool_size)), seed)
    pool = [_content(*row) for row in zip(survey["images"], survey["metadata"], strict=True)]
    for i in range(n):
        row = i % len(pool)
        named = {"schemavsn": "4.02", "objectId": _object(i), "candid": FIRST + i}
        yield {**named, **pool[row]}, CLASSES[survey["labels"][row]]


def encode(packet: dict[str, Any]) -> bytes:
    """Return the avro file of one packet."""
    file = io.BytesIO()
    writer(file, SCHEMA, [packet])
    return file.getvalue()


def gzipped_fits(stamp: np.ndarray) -> bytes:
    """Return a cutout (H, W) as in a packet: a gzipped FITS image of big-endian float32."""
    size = (f"NAXIS{i + 1}  ={side:21}" for i, side in enumerate(stamp.shape[::-1]))
    header = "".join(f"{card:80}" for card in (*CARDS, *size, "END")).encode().ljust(2880)
    pixels = stamp.astype(">f4").tobytes()
    return compress(header + pixels + bytes(-len(pixels) % 2880), mtime=0)


def write(out: Path, n: int, seed: int = 0, force: bool = False) -> tuple[Path, Path]:
    """Write a night's archive (tar.gz) of n packets and a CSV of their classes beside it; returns both paths."""
    if not out.name.endswith(".tar.gz"):
        raise InputError(f"--out {out}: wanted a name that ends in .tar.gz.")
    classes = out.with_name(f"{out.name.removesuffix('.tar.gz')}_labels.csv")
    if not force and (found := [str(file) for file in (out, classes) if file.exists()]):
        raise InputError(f"{', '.join(found)} exists already. Choose another --out, or overwrite it with --overwrite.")
    bar = tqdm(alerts(n, seed), total=n, desc="packets", unit="", disable=None)
    with (
        files.whole(classes, "--out") as labels,
        files.whole(out, "--out") as night,
        labels.open("w", newline="") as text,
        compression.create_gzip(night) as zipped,
        tarfile.open(fileobj=zipped, mode="w|") as archive,
    ):
        table = csv.writer(text)
        table.writerow(("candid", "objectId", "label"))
        for packet, label in bar:
            content = encode(packet)
            member = tarfile.TarInfo(f"{packet['candid']}.avro")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            vars(archive)["members"].clear()  # kept for a listing nobody asks for
            table.writerow((packet["candid"], packet["objectId"], label))
    return out, classes


def _content(image: np.ndarray, metadata: np.ndarray) -> dict[str, Any]:
    """Return the fields of a packet but its names."""
    values: dict[str, Any] = dict(zip(COLUMNS, metadata.tolist(), strict=True))
    values["isdiffpos"] = "f" if values["isdiffpos"] else "t"
    values |= {name: int(values[name]) for name in COUNTED}
    candidate = {"jd": 2_461_000.5, "fid": 1, "programpi": "simulation", **values}
    earlier = [{**candidate, "jd": candidate["jd"] - i} for i in range(1, HISTORY + 1)]
    stamps = {
        name: {"fileName": f"{name}.fits.gz", "stampData": gzipped_fits(image[..., i])}
        for i, name in enumerate(CUTOUTS.values())
    }
    return {"candidate": candidate, "prv_candidates": earlier, **stamps}


def _object(number: int) -> str:
    """ZTF26 and seven letters."""
    letters = (chr(ord("a") + number // 26**place % 26) for place in reversed(range(7)))
    return f"ZTF26{''.join(letters)}"
