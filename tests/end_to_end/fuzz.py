"""Coverage-guided fuzzing of everything that reads files of others: `python -m tests.end_to_end.fuzz TARGET`.

A target reads bytes that a mutated valid file holds. It may refuse them with `InputError` and nothing else, must
not run what they name, and must end soon; a pickle may ask for memory, which `ulimit -v` bounds.
test_hostile.py does the same for a few hundred fixed inputs. Needs atheris (extra `fuzz`), which steers the
mutations by the branches they reach.
"""

import argparse
import io
import logging
import resource
import struct
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from astropy.io import fits

try:
    import atheris
except ImportError:
    atheris = None

# Steered by the branches of these, as far as nothing has imported them yet.
GUIDED = ["alerce_early", "pickle", "zipfile", "tarfile"]
guided = __name__ == "__main__" and atheris is not None
with atheris.instrument_imports(include=GUIDED) if guided else nullcontext():
    import pickle

    import fastavro
    import numpy as np
    import pyarrow
    from pyarrow import csv, parquet

    from alerce_early.data import records
    from alerce_early.data.readers import hits, sdss, stamps_file
    from alerce_early.data.readers.array_files import load_pickle
    from alerce_early.data.readers.packets import containers, fields, fits_cutout
    from alerce_early.data.readers.packets.decode import Packet, decode_records
    from alerce_early.data.spectral_grid import PIXELS
    from alerce_early.errors import INSTALL, InputError, one_line
    from alerce_early.evaluation.kinds import Classification
    from alerce_early.report import foreign_table
    from alerce_early.simulation import packets
    from alerce_early.tasks import restore

TOLD_EVERY = 200  # inputs
SLOW = 10.0  # seconds of processor time that an input of a few kilobytes may take
GOLDEN = Path(__file__).parents[1] / "golden"


def _stamps(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    held = {
        "images": [rng.normal(size=(3, 3, 3)).astype("f4") for _ in range(2)],
        "labels": [0, 1],
        "metadata": rng.normal(size=(2, 26)).tolist(),
        "oid": ["ZTF1", "ZTF2"],
    }
    return held | changes


def _course(n: int = 2) -> dict[str, Any]:
    return {f"{name}_images": np.ones((n, 9)) for name in hits.CHANNELS} | {"labels": [0, 1], "ID": np.arange(n)}


def _spectra() -> dict[str, Any]:
    held = np.ones((1, 2 * PIXELS), "f2")
    return {"spectra": held, "class": np.array(["QSO"]), "z": np.array([2.0]), "Z_CONF_PERSON": [3]}


def _pickled(*held: Any) -> list[bytes]:
    return [pickle.dumps(one, protocol) for one in held for protocol in (0, 2, 4, 5)]


def _fits() -> bytes:
    loglam = np.linspace(3.56, 3.9, 20)
    spectrum = [fits.Column(name, "E", array=loglam) for name in ("flux", "loglam", "ivar")]
    facts = [fits.Column("CLASS", "6A", array=["QSO"]), fits.Column("Z", "E", array=[2.0])]
    file = io.BytesIO()
    tables = [fits.BinTableHDU.from_columns(columns) for columns in (spectrum, facts)]
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(file)
    return file.getvalue()


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, **_spectra() | {"Z_CONF_PERSON": np.array([3])})
    return file.getvalue()


CSV = (b"id,label,p_SN,p_rest\na,SN,.9,.1\nb,rest,.2,.8\n", b"id,label,score,split\n1,0,.5,test\n2,1,.7,test\n3,,.1,\n")


def _parquet() -> list[bytes]:
    made = []
    for text, squeeze in ((CSV[0], "snappy"), (CSV[1], "none")):
        file = pyarrow.BufferOutputStream()
        parquet.write_table(csv.read_csv(io.BytesIO(text)), file, compression=squeeze)
        made.append(file.getvalue().to_pybytes())
    return made


def _judged(path: Path) -> Any:
    return Classification().judge(foreign_table.read(path))


@cache
def _packets() -> tuple[bytes, ...]:
    """Avro files of one packet: with a schema cut down to what is read, plain and deflated."""
    packet = next(packets.alerts(1, seed=0))[0]
    rows = ({"name": "stampData", "type": "bytes"},)
    cutout = {"type": "record", "name": "cutout", "fields": [*rows]}
    facts = [
        {"name": name, "type": ["null", "string" if name == "isdiffpos" else "double"]} for name in fields.ZTF.columns
    ]
    cutouts = [{"name": name, "type": "cutout" if i else cutout} for i, name in enumerate(fields.CUTOUTS.values())]
    candidate = {"name": "candidate", "type": {"type": "record", "name": "candidate", "fields": facts}}
    names = [{"name": "objectId", "type": "string"}, {"name": "candid", "type": "long"}, candidate]
    schema = {"type": "record", "name": "alert", "fields": [*names, *cutouts]}
    made = []
    for codec in ("null", "deflate", "bzip2", "xz"):
        file = io.BytesIO()
        fastavro.writer(file, schema, [packet], codec=codec)
        made.append(file.getvalue())
    return tuple(made)


def _rubin() -> list[bytes]:
    from tests.data.test_rubin import container, packet

    return [container(packet(i)) for i in range(2)]


def _tar(zipped: bool) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz" if zipped else "w") as archive:
        for name in ("a.avro", "../../b.avro", "c\n" * 60 + ".avro"):
            member = tarfile.TarInfo(name)
            member.size = len(_packets()[0])
            archive.addfile(member, io.BytesIO(_packets()[0]))
        link = tarfile.TarInfo("link.avro")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return file.getvalue()


def _cutout(dtype: str, extended: bool = False) -> bytes:
    file, pixels = io.BytesIO(), np.ones((4, 4), dtype)
    units = [fits.PrimaryHDU(), fits.ImageHDU(pixels)] if extended else [fits.PrimaryHDU(pixels)]
    fits.HDUList(units).writeto(file)
    return file.getvalue()


def _image(path: Path) -> None:
    try:
        fits_cutout.image(path.read_bytes())
    except records.UnreadableError as error:
        raise InputError(one_line(error)) from None


def _decoded(path: Path) -> None:
    """What `packets.stream` does in its workers, here in this process; what is no packet must say so in one line."""
    for block in containers.read_blocks([path]):
        for row in decode_records([(block, range(min(block.count, 4)))]):
            message = (row.id, row.key, row.source) if isinstance(row, Packet) else (row.source, row.reason)
            assert all(words.isprintable() for words in message), message


# Each: the ending of its files, valid ones to begin with, and what reads them.
TARGETS: dict[str, tuple[str, Callable[[], list[bytes]], Callable[[Path], Any]]] = {
    "pickles": (
        ".pkl",
        lambda: _pickled(_stamps(), _course(), {"a": (1, b"x", 2.5, None, np.float32(1))}),
        load_pickle,
    ),
    "stamps": (".pkl", lambda: _pickled(_stamps(), {"Train": _stamps(), "Test": _stamps(oid=None)}), stamps_file.read),
    "hits": (".pkl", lambda: _pickled(_course()), hits.read),
    "spectra": (".pkl", lambda: _pickled(_spectra()), sdss.read),
    "npz": (".npz", lambda: [_npz()], sdss.read),
    "fits": (".fits", lambda: [_fits()], sdss.read),
    "csv": (".csv", lambda: list(CSV), _judged),
    "parquet": (".parquet", _parquet, _judged),
    "avro": (".avro", lambda: list(_packets()), _decoded),
    "rubin": (".avro", _rubin, _decoded),
    "tar": (".tar", lambda: [_tar(False)], _decoded),
    "targz": (".tar.gz", lambda: [_tar(True)], _decoded),
    "cutouts": (".fits", lambda: [_cutout(">f4"), _cutout(">f8"), _cutout(">f4", True)], _image),
    "checkpoints": (".ckpt", lambda: [path.read_bytes() for path in GOLDEN.rglob("classify.ckpt")], restore.task),
}


class Trial:
    """Gives bytes to a target and holds it to what it promises."""

    def __init__(self, name: str, folder: Path):
        self.ending, self.seeds, self.read = TARGETS[name]
        self.path, self.tried, self.read_whole, self.slowest = folder / f"input{self.ending}", 0, 0, 0.0
        self.refusals: set[str] = set()

    def __call__(self, content: bytes) -> None:
        """Raises whatever the target raises, if it is no `InputError` in one printable line."""
        self.path.write_bytes(content)
        self.tried += 1
        started = time.process_time()
        try:
            self.read(self.path)
            self.read_whole += 1
        except InputError as error:
            assert str(error).isprintable() and len(str(error)) < 1000, f"message: {error!s:.2000}"
            self.refusals.add("".join(c for c in str(error) if not c.isdigit())[:60])
        took = time.process_time() - started
        self.slowest = max(self.slowest, took)
        assert took < SLOW, f"took {took:.1f} s"

    def message(self) -> str:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        return (
            f"{self.tried:,} inputs, {self.read_whole:,} read, {len(self.refusals)} kinds of refusal, "
            f"slowest {self.slowest:.2f} s, peak {memory:,} MiB"
        )


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Truncated, spliced, with bits flipped or numbers made huge, a few times over."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at, end = sorted(rng.integers(0, len(data) + 1, 2).tolist())
        kind = rng.integers(6)
        if kind == 0 and at:
            del data[at:]
        elif kind == 1 and end > at:
            data[int(rng.integers(at, end))] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            data[at : at + 8] = struct.pack(rng.choice(["<q", ">q", "<d"]), rng.choice([0, -1, 2**31, 2**62, 7]))
        elif kind == 3:
            data[at:at] = data[at:end][:64] * int(rng.choice([1, 2, 200]))
        elif kind == 4:
            del data[at : min(end, at + 16)]
        else:
            word = rng.choice([b"nan", b"inf", b"-1", b"\xff\xfe", b"9" * 30, b"=cmd", b"\n", b"../", b"\0", b"1e999"])
            data[at : at + len(word)] = word
    return bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--out", type=Path, default=Path("outputs/fuzz"), help="where inputs that fail are kept")
    asked = parser.parse_args()
    if atheris is None:
        sys.exit(f"error: fuzzing by branches needs atheris: {INSTALL.format('[fuzz]')}.")
    logging.disable()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        trial = Trial(asked.target, Path(place))
        corpus = Path(place, "corpus")
        corpus.mkdir()
        for i, seed in enumerate(trial.seeds()):
            (corpus / str(i)).write_bytes(seed)
        asked.out.mkdir(parents=True, exist_ok=True)
        options = [f"-max_total_time={asked.seconds}", "-rss_limit_mb=3000", "-timeout=30", "-max_len=40000"]

        def once(content: bytes) -> None:
            trial(content)
            if trial.tried % TOLD_EVERY == 0:  # the fuzzer ends the process itself
                print(f"{asked.target}: {trial.message()}", flush=True)

        atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={asked.out}/{asked.target}-", str(corpus)], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
