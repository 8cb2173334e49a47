"""The allow-list of pickles: what is read, what is refused, and that refused code never runs."""

import collections
import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from alerce_early.data.readers.array_files import load_pickle
from alerce_early.errors import InputError


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_survive_every_protocol(tmp_path: Path, protocol: int) -> None:
    wide = np.arange(12, dtype=">f8").reshape(3, 4)
    held = {
        "native": np.arange(6, dtype=np.float32).reshape(2, 3),
        "big-endian": wide,
        "fortran": np.asfortranarray(wide),
        "objects": np.array([np.zeros(2), np.ones((3, 3))], dtype=object),
        "text": np.array(["AGN", "SN"]),
        "numbers": [1, 2.5, None, True, np.float32(3.5), np.int64(-2)],
        "ordered": collections.OrderedDict(a=(1, 2), b=b"bytes"),
    }
    path = tmp_path / "held.pkl"
    path.write_bytes(pickle.dumps(held, protocol=protocol))
    found = load_pickle(path)
    for name in ("native", "big-endian", "fortran", "text"):
        assert np.array_equal(found[name], held[name])
        assert found[name].dtype.name == held[name].dtype.name  # for any byte order
    assert [part.tolist() for part in found["objects"]] == [part.tolist() for part in held["objects"]]
    assert found["numbers"] == held["numbers"] and found["ordered"] == held["ordered"]


@pytest.mark.parametrize("protocol", (2, 4, 5))
def test_arrays_of_any_order_and_size_survive(tmp_path: Path, protocol: int) -> None:
    cube = np.arange(2 * 30 * 20, dtype="f4").reshape(2, 30, 20)
    held = [cube, cube.T, cube.transpose(1, 0, 2), cube[:, ::2], cube[:, :1], cube[:0]]
    path = tmp_path / "held.pkl"
    path.write_bytes(pickle.dumps([*held, held[0], cube.tobytes()], protocol))
    found = load_pickle(path)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, held, strict=False))
    assert found[6] is found[0] and found[7] == cube.tobytes()
    assert {type(array) for array in pickle.loads(pickle.dumps(found[:7], protocol))} == {np.ndarray}


def _call(name: bytes, *arguments: bytes) -> bytes:
    return b"c" + name + b"\n(" + b"".join(arguments) + b"tR"


def _array(dtype: bytes, data: bytes, core: bytes = b"core") -> bytes:
    """Return pickle opcodes that build an array of one value."""
    empty = _call(b"numpy." + core + b".multiarray\n_reconstruct", b"cnumpy\nndarray\n", b"K\x00\x85", b"U\x01b")
    return empty + b"(K\x01K\x01\x85" + dtype + b"\x89" + data + b"tb"


def _dtype(name: bytes, order: bytes, flags: int = 0) -> bytes:
    made = _call(b"numpy\ndtype", b"U" + bytes([len(name)]) + name, b"K\x00", b"K\x01")
    return made + b"(K\x03U\x01" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK" + bytes([flags]) + b"tb"


@pytest.mark.parametrize("core", (b"core", b"_core"))
def test_arrays_of_python_2_and_of_numpy_1_and_2_are_read(tmp_path: Path, core: bytes) -> None:
    path = tmp_path / "old.pkl"
    path.write_bytes(b"\x80\x02" + _array(_dtype(b"f4", b">"), b"U\x04\x40\xe0\x00\x00", core) + b".")
    assert load_pickle(path).tolist() == [7.0]


POINTER = b"U\x08" + b"A" * 8
FORGED = {
    "an array of pointers": _array(_dtype(b"O", b"|"), POINTER),
    "of a dtype that denies to hold them": _array(_dtype(b"O8", b"|"), POINTER),
    "a scalar pointer": _call(b"numpy.core.multiarray\nscalar", _dtype(b"O8", b"|"), POINTER),
    "a buffer of pointers": _call(
        b"numpy.core.numeric\n_frombuffer", POINTER, _dtype(b"O8", b"|"), b"K\x01\x85", b"U\x01C"
    ),
    "the memory of an array": _call(
        b"numpy.core.numeric\n_frombuffer",
        *(_array(_dtype(b"f8", b"<"), POINTER), _dtype(b"f8", b"<"), b"K\x01\x85", b"U\x01C"),
    ),
    "fields by a comma": _array(_call(b"numpy\ndtype", b"U\x05f4,O8", b"K\x00", b"K\x01"), POINTER),
    "fewer values than it says": _array(_dtype(b"f8", b"<"), b"U\x04AAAA"),
    "an array out of nothing": _call(b"numpy\nndarray", b"K\x01\x85"),
    "a dtype that changes the class": b"cnumpy\ndtype\n(K\x03U\x01<tb",
    "a name within a name": b"\x8c\x05numpy\x8c\x0dndarray.dumps\x93",
    "a command by INST": b"(U\x04trueiposix\nsystem\n",
    "a command by OBJ": b"(cposix\nsystem\nU\x04trueo",
    "a persistent id": b"U\x01aQ",
    "an extension": b"\x82\x01",
}


@pytest.mark.parametrize("steps", FORGED.values(), ids=FORGED)
def test_forged_array_states_are_refused(tmp_path: Path, steps: bytes) -> None:
    path = tmp_path / "forged.pkl"
    path.write_bytes(b"\x80\x04" + steps + b".")
    with pytest.raises(InputError, match=r"forged\.pkl"):
        load_pickle(path)


class Calls:
    """Object whose pickle calls an arbitrary function."""

    def __init__(self, function: object, *arguments: object):
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", (0, 2, 5))
def test_a_hostile_pickle_is_refused_by_name_before_it_runs(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps({"images": [Calls(os.system, f"touch {trace}")]}, protocol=protocol))
    with pytest.raises(InputError, match=r"hostile\.pkl names .(posix|nt)\.system"):
        load_pickle(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "call",
    [Calls(eval, "1 + 1"), Calls(np.load, "x.npy"), Calls(getattr, "text", "upper")],
    ids=["eval", "numpy.load", "getattr"],
)
def test_no_other_callable_is_called(tmp_path: Path, call: Calls) -> None:
    path = tmp_path / "call.pkl"
    path.write_bytes(pickle.dumps(call))
    with pytest.raises(InputError):
        load_pickle(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"id,label\n1,SN\n"], ids=["empty", "zip", "csv"])
def test_a_file_that_is_not_a_pickle_raises_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a pickle"):
        load_pickle(path)


def test_a_truncated_pickle_raises_an_error(tmp_path: Path) -> None:
    path = tmp_path / "short.pkl"
    path.write_bytes(pickle.dumps({"images": np.zeros((4, 5, 5, 3))})[:-100])
    with pytest.raises(InputError, match="damaged"):
        load_pickle(path)


def test_the_checksum_of_a_gzipped_pickle_is_checked(tmp_path: Path) -> None:
    """Also if the pickle ends before the file: corrupted pixels look like any others."""
    whole = bytearray(gzip.compress(pickle.dumps(np.arange(50_000.0)) + bytes(1000)))
    (path := tmp_path / "stamps.pkl.gz").write_bytes(whole)
    assert len(load_pickle(path)) == 50_000
    whole[-8] ^= 1
    path.write_bytes(whole)
    with pytest.raises(InputError, match=r"stamps\.pkl\.gz is damaged"):
        load_pickle(path)


def test_a_missing_file_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_pickle(tmp_path / "none.pkl")
