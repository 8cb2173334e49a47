"""Reading a night's archive of alert packets against tarfile, fastavro and astropy."""

import gzip
import io
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
from astropy.io import fits

from alerce_early.benches import GIGABYTE, Row, taking_turns
from alerce_early.data import alerts
from alerce_early.data.avro import CUTOUTS
from alerce_early.data.simulation import packets
from alerce_early.machine import cores


def by_fastavro(file: bytes) -> dict[str, Any]:
    (packet,) = fastavro.reader(io.BytesIO(file))
    return packet  # type: ignore[return-value]


def by_astropy(plain: bytes) -> np.ndarray:
    with fits.open(io.BytesIO(plain), memmap=False) as units:
        return units[0].data.astype(np.float32)


def by_libraries(file: bytes) -> np.ndarray:
    """One packet's cutouts (3, H, W): the route of every tutorial."""
    packet = by_fastavro(file)
    stamps = [by_astropy(gzip.decompress(packet[name]["stampData"])) for name in CUTOUTS]
    assert packet["candidate"]["ndethist"]
    return np.stack(stamps)


def members(archive: Path) -> Iterator[bytes]:
    with tarfile.open(archive, "r|gz") as held:
        for member in held:
            content = held.extractfile(member)
            assert content is not None
            yield content.read()


def reading(n: int, folder: Path) -> Iterator[Row]:
    """Packets a second from a night's tar.gz to arrays, in one process and on all cores."""
    archive, _ = packets.write(folder / "night.tar.gz", n)

    def row(what: str, ours: Callable[[], Any], rival: Callable[[], Any], name: str, aim: str = "") -> Row:
        mine, theirs = taking_turns(ours, rival)
        return Row(what, f"{n / mine:,.0f}/s", f"{n / theirs:,.0f}/s {name}", theirs / mine, aim)

    def over(function: Callable[[Any], Any], items: Callable[[], Iterable[Any]]) -> Callable[[], Any]:
        return lambda: deque(map(function, items()), maxlen=0)

    def everything(workers: int) -> Callable[[], Any]:
        return over(len, lambda: (chunk.keys for chunk in alerts.stream([archive], workers=workers)))

    def pooled() -> None:
        with get_context("fork").Pool(cores()) as pool:
            deque(pool.imap(by_libraries, members(archive), chunksize=alerts.BATCH), maxlen=0)

    size = f"{n:,} packets, {archive.stat().st_size / GIGABYTE:.2f} GiB"
    yield row(f"read {size}", everything(0), over(by_libraries, lambda: members(archive)), "astropy", ">= 3")
    yield row(f"  by {cores()} processes", everything(cores()), pooled, "astropy", ">= 2")
