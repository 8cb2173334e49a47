"""Coverage-guided fuzzing of the file readers: `python -m tests.end_to_end.fuzz TARGET`.

A target reads mutated copies of valid files. It may raise only `InputError`, must not execute code from the file and
must finish quickly. A pickle may request much memory; limit it with `ulimit -v`. test_hostile.py runs a few hundred
fixed mutations of the same files. Needs atheris (extra `fuzz`), which chooses mutations by the branches they reach.
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

# Modules whose branches guide the mutations, unless something has already imported them.
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

REPORT_INTERVAL = 200  # inputs
SLOW = 10.0  # seconds of processor time per input of a few kilobytes
GOLDEN = Path(__file__).parents[1] / "golden"


def _stamps(**changes: Any) -> dict[str, Any]:
    """Return the dict of a stamps file with two stamps."""
    rng = np.random.default_rng(0)
    held = {
        "images": [rng.normal(size=(3, 3, 3)).astype("f4") for _ in range(2)],
        "labels": [0, 1],
        "metadata": rng.normal(size=(2, 26)).tolist(),
        "oid": ["ZTF1", "ZTF2"],
    }
    return held | changes


def _hits(n: int = 2) -> dict[str, Any]:
    """Return the dict of a HiTS file."""
    return {f"{name}_images": np.ones((n, 9)) for name in hits.CHANNELS} | {"labels": [0, 1], "ID": np.arange(n)}


def _spectra() -> dict[str, Any]:
    """Return the dict of a file with one SDSS spectrum."""
    held = np.ones((1, 2 * PIXELS), "f2")
    return {"spectra": held, "class": np.array(["QSO"]), "z": np.array([2.0]), "Z_CONF_PERSON": [3]}


def _pickled(*held: Any) -> list[bytes]:
    """Pickle each object with several protocols."""
    return [pickle.dumps(one, protocol) for one in held for protocol in (0, 2, 4, 5)]


def _fits() -> bytes:
    """Return the FITS file of a spectrum."""
    loglam = np.linspace(3.56, 3.9, 20)
    spectrum = [fits.Column(name, "E", array=loglam) for name in ("flux", "loglam", "ivar")]
    facts = [fits.Column("CLASS", "6A", array=["QSO"]), fits.Column("Z", "E", array=[2.0])]
    file = io.BytesIO()
    tables = [fits.BinTableHDU.from_columns(columns) for columns in (spectrum, facts)]
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(file)
    return file.getvalue()


def _npz() -> bytes:
    """Return an NPZ file with one spectrum."""
    file = io.BytesIO()
    np.savez(file, **_spectra() | {"Z_CONF_PERSON": np.array([3])})
    return file.getvalue()


CSV = (b"id,label,p_SN,p_rest\na,SN,.9,.1\nb,rest,.2,.8\n", b"id,label,score,split\n1,0,.5,test\n2,1,.7,test\n3,,.1,\n")


def _parquet() -> list[bytes]:
    """Return the tables of `CSV` as Parquet files."""
    made = []
    for text, squeeze in ((CSV[0], "snappy"), (CSV[1], "none")):
        file = pyarrow.BufferOutputStream()
        parquet.write_table(csv.read_csv(io.BytesIO(text)), file, compression=squeeze)
        made.append(file.getvalue().to_pybytes())
    return made


def _evaluate_table(path: Path) -> Any:
    """Read and evaluate a table of predictions."""
    return Classification().judge(foreign_table.read(path))


@cache
def _packets() -> tuple[bytes, ...]:
    """Return Avro files of one packet, one per codec; the schema has only the fields that are read."""
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
    """Return Avro files of Rubin packets."""
    from tests.data.test_rubin import container, packet

    return [container(packet(i)) for i in range(2)]


def _tar(zipped: bool) -> bytes:
    """Return a tar archive of packets whose members have hostile names, and a symbolic link."""
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
    """Return the FITS file of a cutout, in the primary HDU or in an extension."""
    file, pixels = io.BytesIO(), np.ones((4, 4), dtype)
    units = [fits.PrimaryHDU(), fits.ImageHDU(pixels)] if extended else [fits.PrimaryHDU(pixels)]
    fits.HDUList(units).writeto(file)
    return file.getvalue()


def _read_cutout(path: Path) -> None:
    """Read a FITS cutout; raise InputError if it cannot be read."""
    try:
        fits_cutout.image(path.read_bytes())
    except records.UnreadableError as error:
        raise InputError(one_line(error)) from None


def _decode_packets(path: Path) -> None:
    """Decode packets as the workers of `packets.stream` do; reasons of rejection must be a single line."""
    for block in containers.read_blocks([path]):
        for row in decode_records([(block, range(min(block.count, 4)))]):
            message = (row.id, row.key, row.source) if isinstance(row, Packet) else (row.source, row.reason)
            assert all(words.isprintable() for words in message), message


# Per target: file suffix, function that makes valid files, and reader.
TARGETS: dict[str, tuple[str, Callable[[], list[bytes]], Callable[[Path], Any]]] = {
    "pickles": (
        ".pkl",
        lambda: _pickled(_stamps(), _hits(), {"a": (1, b"x", 2.5, None, np.float32(1))}),
        load_pickle,
    ),
    "stamps": (".pkl", lambda: _pickled(_stamps(), {"Train": _stamps(), "Test": _stamps(oid=None)}), stamps_file.read),
    "hits": (".pkl", lambda: _pickled(_hits()), hits.read),
    "spectra": (".pkl", lambda: _pickled(_spectra()), sdss.read),
    "npz": (".npz", lambda: [_npz()], sdss.read),
    "fits": (".fits", lambda: [_fits()], sdss.read),
    "csv": (".csv", lambda: list(CSV), _evaluate_table),
    "parquet": (".parquet", _parquet, _evaluate_table),
    "avro": (".avro", lambda: list(_packets()), _decode_packets),
    "rubin": (".avro", _rubin, _decode_packets),
    "tar": (".tar", lambda: [_tar(False)], _decode_packets),
    "targz": (".tar.gz", lambda: [_tar(True)], _decode_packets),
    "cutouts": (".fits", lambda: [_cutout(">f4"), _cutout(">f8"), _cutout(">f4", True)], _read_cutout),
    "checkpoints": (".ckpt", lambda: [path.read_bytes() for path in GOLDEN.rglob("classify.ckpt")], restore.task),
}


class Trial:
    """Feed inputs to a target and check its promises.

    Parameters
    ----------
    name : str
        Name of the target.
    folder : Path
        Folder for the input file.

    Attributes
    ----------
    tried, accepted : int
        Number of inputs, and number that were read without an error.
    slowest : float
        Longest processor time of an input, in seconds.
    refusals : set of str
        Beginnings of distinct error messages.
    """

    def __init__(self, name: str, folder: Path):
        self.ending, self.seeds, self.read = TARGETS[name]
        self.path, self.tried, self.accepted, self.slowest = folder / f"input{self.ending}", 0, 0, 0.0
        self.refusals: set[str] = set()

    def __call__(self, content: bytes) -> None:
        """Read an input; fail unless it is read, or refused with an `InputError` of one printable line."""
        self.path.write_bytes(content)
        self.tried += 1
        started = time.process_time()
        try:
            self.read(self.path)
            self.accepted += 1
        except InputError as error:
            assert str(error).isprintable() and len(str(error)) < 1000, f"message: {error!s:.2000}"
            self.refusals.add("".join(c for c in str(error) if not c.isdigit())[:60])
        took = time.process_time() - started
        self.slowest = max(self.slowest, took)
        assert took < SLOW, f"took {took:.1f} s"

    def message(self) -> str:
        """Summarise the inputs so far in one line."""
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        return (
            f"{self.tried:,} inputs, {self.accepted:,} read, {len(self.refusals)} kinds of refusal, "
            f"slowest {self.slowest:.2f} s, peak {memory:,} MiB"
        )


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Apply one to four random mutations: truncations, repetitions, deletions, flipped bits, huge numbers, odd text."""
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
    """Fuzz one target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/fuzz"), help="folder for inputs that fail (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if atheris is None:
        sys.exit(f"error: coverage-guided fuzzing needs atheris: {INSTALL.format('[fuzz]')}.")
    logging.disable()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        trial = Trial(arguments.target, Path(scratch))
        corpus = Path(scratch, "corpus")
        corpus.mkdir()
        for i, seed in enumerate(trial.seeds()):
            (corpus / str(i)).write_bytes(seed)
        arguments.out.mkdir(parents=True, exist_ok=True)
        options = [f"-max_total_time={arguments.seconds}", "-rss_limit_mb=3000", "-timeout=30", "-max_len=40000"]

        def try_input(content: bytes) -> None:
            trial(content)
            if trial.tried % REPORT_INTERVAL == 0:  # atheris exits the process, so nothing can be printed at the end
                print(f"{arguments.target}: {trial.message()}", flush=True)

        atheris.Setup(
            [sys.argv[0], *options, f"-artifact_prefix={arguments.out}/{arguments.target}-", str(corpus)], try_input
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
