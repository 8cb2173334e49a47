"""A simulated night of ZTF alert packets with the stamps and metadata of the simulated survey."""

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

POOL_SIZE = 2_000  # distinct alerts; a longer night repeats them under new identifiers
FIRST = 3_251_000_000_015_000_000  # candid of the first packet
N_EARLIER = 20  # earlier detections in a packet, as in a real one, which a reader must skip
COUNTED = ("ndethist", "ncovhist")
CARDS = "SIMPLE  =                    T", "BITPIX  =                  -32", "NAXIS   =                    2"


def _optional(kind: Any) -> Any:
    """Return the Avro type that also allows null."""
    return ["null", kind]


def _schema() -> Any:
    """Return ZTF's schema, reduced to the fields that are read and the detection history."""
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


def alerts(n: int, seed: int = 0, pool_size: int = POOL_SIZE) -> Iterator[tuple[dict[str, Any], str]]:
    """Simulate packets.

    Parameters
    ----------
    n : int
        Number of packets.
    seed : int
        The same arguments give the same packets.
    pool_size : int
        Number of distinct alerts. After these, stamps and metadata repeat; candid and objectId never do.

    Yields
    ------
    packet : dict
        Record of `SCHEMA`.
    label : str
        Class of the alert.

    Raises
    ------
    InputError
        If `n` is less than 1.
    """
    if n < 1:
        raise InputError(f"--night {n}: expected at least 1 packet. Give a larger number.")
    survey = simulate(max(2 * len(CLASSES), min(n, pool_size)), seed)
    pool = [_make_fields(*row) for row in zip(survey["images"], survey["metadata"], strict=True)]
    for i in range(n):
        row = i % len(pool)
        named = {"schemavsn": "4.02", "objectId": _object_id(i), "candid": FIRST + i}
        yield {**named, **pool[row]}, CLASSES[survey["labels"][row]]


def encode(packet: dict[str, Any]) -> bytes:
    """Encode one packet as an Avro file."""
    file = io.BytesIO()
    writer(file, SCHEMA, [packet])
    return file.getvalue()


def gzipped_fits(stamp: np.ndarray) -> bytes:
    """Encode a stamp (H, W) as in a packet: a gzipped FITS image of big-endian float32."""
    size = (f"NAXIS{i + 1}  ={side:21}" for i, side in enumerate(stamp.shape[::-1]))
    header = "".join(f"{card:80}" for card in (*CARDS, *size, "END")).encode().ljust(2880)
    pixels = stamp.astype(">f4").tobytes()
    return compress(header + pixels + bytes(-len(pixels) % 2880), mtime=0)


def write(out: Path, n: int, seed: int = 0, force: bool = False) -> tuple[Path, Path]:
    """Write a night's archive of packets, and their classes as <archive>_labels.csv in the same folder.

    Parameters
    ----------
    out : Path
        Archive to write, a name that ends in .tar.gz.
    n : int
        Number of packets.
    seed : int
        Seed of the simulation.
    force : bool
        Whether to overwrite existing files.

    Returns
    -------
    tuple of Path
        The archive and the CSV.

    Raises
    ------
    InputError
        If the name has another ending, a file exists already or cannot be written, or `n` is less than 1.
    """
    if not out.name.endswith(".tar.gz"):
        raise InputError(f"--out {out}: expected a name that ends in .tar.gz. Choose another name.")
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
            vars(archive)["members"].clear()  # tarfile keeps every member for a listing, which would fill the memory
            table.writerow((packet["candid"], packet["objectId"], label))
    return out, classes


def _make_fields(image: np.ndarray, metadata: np.ndarray) -> dict[str, Any]:
    """Return all fields of a packet except its identifiers."""
    values: dict[str, Any] = dict(zip(COLUMNS, metadata.tolist(), strict=True))
    values["isdiffpos"] = "f" if values["isdiffpos"] else "t"
    values |= {name: int(values[name]) for name in COUNTED}
    candidate = {"jd": 2_461_000.5, "fid": 1, "programpi": "simulation", **values}
    earlier = [{**candidate, "jd": candidate["jd"] - i} for i in range(1, N_EARLIER + 1)]
    stamps = {
        name: {"fileName": f"{name}.fits.gz", "stampData": gzipped_fits(image[..., i])}
        for i, name in enumerate(CUTOUTS.values())
    }
    return {"candidate": candidate, "prv_candidates": earlier, **stamps}


def _object_id(number: int) -> str:
    """Return the name of an object: ZTF26 and seven letters."""
    letters = (chr(ord("a") + number // 26**place % 26) for place in reversed(range(7)))
    return f"ZTF26{''.join(letters)}"
