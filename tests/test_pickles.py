"""Reading pickles: what is let in, what is refused, and that nothing refused runs."""

import collections
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from alerce_early.data import pickles
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
    found = pickles.load(path)
    for name in ("native", "big-endian", "fortran", "text"):
        assert np.array_equal(found[name], held[name])
        assert found[name].dtype.name == held[name].dtype.name  # whatever the byte order
    assert [part.tolist() for part in found["objects"]] == [part.tolist() for part in held["objects"]]
    assert found["numbers"] == held["numbers"] and found["ordered"] == held["ordered"]


@pytest.mark.parametrize("protocol", (2, 4, 5))
def test_arrays_of_any_order_and_size_survive(tmp_path: Path, protocol: int) -> None:
    cube = np.arange(2 * 30 * 20, dtype="f4").reshape(2, 30, 20)
    held = [cube, cube.T, cube.transpose(1, 0, 2), cube[:, ::2], cube[:, :1], cube[:0] if protocol > 2 else cube]
    path = tmp_path / "held.pkl"
    path.write_bytes(pickle.dumps([*held, held[0], cube.tobytes()], protocol))
    found = pickles.load(path)
    path.unlink()  # what was read does not need the file's name
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, held, strict=False))
    assert found[6] is found[0] and found[7] == cube.tobytes()
    assert not found[0].flags.writeable  # another array may be of the same bytes


def test_an_array_without_its_data_is_refused(tmp_path: Path) -> None:
    hollow = b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    path = tmp_path / "hollow.pkl"
    for ending, told in ((b".", "an array has no data"), (b"\x94h\x00\x86.", "named before its data")):
        path.write_bytes(hollow + ending)
        with pytest.raises(InputError, match=told):
            pickles.load(path)


@pytest.mark.parametrize("protocol", (4, 5))
def test_the_data_of_arrays_are_not_copied(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps([np.full((2, 63, 63, 3), i, "f4") for i in range(200)], protocol))
    tracemalloc.start()
    found = pickles.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 200 and peak < path.stat().st_size / 20


class Calls:
    """Pickles into a call of an arbitrary function."""

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
        pickles.load(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "call",
    [Calls(eval, "1 + 1"), Calls(np.load, "x.npy"), Calls(np.ndarray, (10**9,)), Calls(getattr, "text", "upper")],
    ids=["eval", "numpy.load", "an array out of nothing", "getattr"],
)
def test_no_other_callable_is_called(tmp_path: Path, call: Calls) -> None:
    path = tmp_path / "call.pkl"
    path.write_bytes(pickle.dumps(call))
    with pytest.raises(InputError):
        pickles.load(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"id,label\n1,SN\n"], ids=["empty", "zip", "csv"])
def test_a_file_that_is_no_pickle_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not a pickle, or is damaged"):
        pickles.load(path)


def test_a_truncated_pickle_says_so(tmp_path: Path) -> None:
    path = tmp_path / "short.pkl"
    path.write_bytes(pickle.dumps({"images": np.zeros((4, 5, 5, 3))})[:-100])
    with pytest.raises(InputError, match="damaged"):
        pickles.load(path)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        pickles.load(tmp_path / "none.pkl")
