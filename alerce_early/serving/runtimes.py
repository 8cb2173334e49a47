"""A trained network at work, whatever computes it: what must be known of it, and its runtimes.

A runtime runs a network on many rows. Those of a checkpoint cut a batch into small parts whose arrays stay in the
processor's cache, and each core takes parts of its own: two to three times as fast as one operation after the other
over the whole batch. An exported file needs neither torch nor the run, so nothing here imports torch until asked to.
"""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alerce_early.artifacts.predictions import EMBEDDING
from alerce_early.construct import construct
from alerce_early.data import text
from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError, one_line, require_extra
from alerce_early.evaluation import conformal
from alerce_early.machine import multiplies_bfloat16, threads

if TYPE_CHECKING:
    from torch import Tensor

    from alerce_early.serving.deployed import Deployed

    Part = Callable[[Tensor, Tensor | None], np.ndarray]  # some of the rows to (n, M), one column each

FORMAT = 1  # of what a deployed network takes and returns
LICENCE = "MIT"
ONNX = ".onnx"  # how the name of an exported file ends
CLOSE = 0.05  # lead of a probability over the next, below which bfloat16 might change the class
BATCH = 32  # rows per core through the network at once, 1.5 MB of raw stamps: what is in between stays in the cache

# Raw stamps (B, C, H, W) float32, NaN where there is no data, and metadata (B, F) float32 or None, to all
# `Facts.columns`, each (B,) float32, and, of a network that returns it, `EMBEDDING` (B, D) float32.
Runtime = Callable[[np.ndarray, np.ndarray | None], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Facts:
    """One trained network, but for its weights.

    model_id: 12 hex digits, of the weights and of all else that decides what comes out. spec: what it was trained
    on, with the recipe. columns: names of all it returns, as in the predictions table. calibration, conformal:
    the fits of the validation rows as plain values, or None. trained_on: see `text.hash_objects`; None if unknown.
    operating_points: see `thresholds.fit_percents`; None if unknown.

    Raises InputError for names that a table must not hold, and for values that cannot be applied to a stamp.
    """

    model_id: str
    spec: DataSpec
    columns: tuple[str, ...]
    calibration: Mapping[str, Any] | None = None
    conformal: Mapping[str, Any] | None = None
    trained_on: str | None = None
    operating_points: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        text.check_names([*self.spec.classes, *self.columns], "classes and columns", "it")
        try:
            np.empty((1, *self.spec.raw_shape))
            _ = self.calibration and float(self.calibration["temperature"])
            conformal.set_columns(self.conformal, {f"p_{name}": np.ones(1) for name in self.classes})
            for points in (self.operating_points or {}).values():
                np.array([points["completeness"], points["purity"]], dtype=np.float64).reshape(2, 100)
        except Exception as error:  # nonsense may raise nearly anything
            raise InputError(f"its raw_shape, calibration, conformal or operating_points: {one_line(error)}") from None

    @property
    def classes(self) -> tuple[str, ...]:
        """Those it tells apart, in the order of their probabilities; () of a redshift."""
        return tuple(name for name in self.spec.classes if f"p_{name}" in self.columns)

    def texts(self) -> dict[str, str]:
        """As an exported file holds them, by name; lists and dicts as JSON. Classes and features are in `spec` too."""
        words = {"format_version": str(FORMAT), "model_id": self.model_id, "licence": LICENCE}
        words |= {} if self.trained_on is None else {"trained_on": self.trained_on}
        words |= {} if self.operating_points is None else {"operating_points": json.dumps(self.operating_points)}
        plain: dict[str, Any] = {"classes": self.spec.classes, "features": self.spec.features, "columns": self.columns}
        plain |= {"spec": self.spec.plain(), "calibration": self.calibration, "conformal": self.conformal}
        return words | {name: json.dumps(value) for name, value in plain.items()}

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Facts:
        """`texts` back. Raises InputError where `export` wrote none, those of another format, or they make no sense."""
        if "format_version" not in texts:
            raise InputError("it does not tell what it classifies, so export did not write it.")
        if texts["format_version"] != str(FORMAT):
            raise InputError(f"its format is {texts['format_version'][:20]}, and this reads {FORMAT}. Export it again.")
        try:
            read = {name: json.loads(texts[name]) for name in ("spec", "columns", "calibration", "conformal")}
            read |= {"spec": DataSpec.from_plain(read["spec"]), "columns": tuple(read["columns"])}
            points = json.loads(texts.get("operating_points", "null"))
            return construct(
                cls, texts["model_id"], **read, trained_on=texts.get("trained_on"), operating_points=points
            )
        except Exception as error:  # nonsense may raise nearly anything
            raise InputError(f"what it tells of itself is damaged: {one_line(error)}.") from None


def eager(deployed: Deployed) -> Runtime:
    """Return the checkpoint itself, float32: what all others are measured against."""
    import torch

    def run(stamps: np.ndarray, metadata: np.ndarray | None = None) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            found = deployed.table(torch.from_numpy(stamps), None if metadata is None else torch.from_numpy(metadata))
        return {name: column.numpy() for name, column in found.items()}

    return run


def float32(deployed: Deployed) -> Runtime:
    """Return torch in float32, part by part."""
    return _by_torch(deployed, deployed)


def bfloat16(deployed: Deployed) -> Runtime:
    """Return torch in mixed precision, see `Deployed.to_mixed`."""
    return _by_torch(deployed, deployed.to_mixed())


def mixed(deployed: Deployed) -> Runtime:
    """Return bfloat16, and float32 for the rows whose class its rounding could change.

    On real stamps probabilities change by no more than .007, so the class of a row is safe where its probability
    leads by `CLOSE`. Where there are no classes, all is float32.
    """
    exact = float32(deployed)
    if not deployed.facts.classes:
        return exact
    quick = bfloat16(deployed)

    def run(stamps: np.ndarray, metadata: np.ndarray | None = None) -> dict[str, np.ndarray]:
        found = quick(stamps, metadata)
        ordered = np.sort(np.stack([found[f"p_{name}"] for name in deployed.facts.classes]), 0)
        if (close := ordered[-1] - ordered[-2] < CLOSE).any():
            again = exact(stamps[close], None if metadata is None else metadata[close])
            for name, column in again.items():
                found[name][close] = column
        return found

    return run


def choose(networks: int) -> str:
    """Return the name of the fastest runtime that gives the classes of float32, for so many networks on average.

    The class of a mean may change where that of no network does, so several networks are computed in float32.
    """
    return "mixed" if networks == 1 and multiplies_bfloat16() else "float32"


def _by_torch(deployed: Deployed, computed: Deployed) -> Runtime:
    """Return a runtime of the recipe of one network and what comes after it in another, part by part."""
    network = computed.without_recipe()

    def part(stamps: Tensor, metadata: Tensor | None) -> np.ndarray:
        return network(*deployed.prepare(stamps, metadata)).numpy()

    return _in_parts(part, deployed.columns)


def openvino(deployed: Deployed) -> Runtime:
    """Return OpenVINO in mixed precision where the processor has bfloat16; the recipe in torch."""
    import torch

    with require_extra("--runtime openvino", "fast"):
        import openvino as ov
    core = ov.Core()
    has_bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    network = (deployed.to_mixed() if has_bfloat16 else deployed).without_recipe().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it traces in a way that torch wants to leave behind
        try:
            # not by ONNX: what torch imports for that takes a fifth of a gibibyte for the rest of the process
            # nor with weights in memory that it shares: that is free for others when the network is gone
            model = ov.convert_model(network, example_input=tuple(network.example().values()), share_weights=False)
        except Exception as error:  # its converters have a kind of their own for each
            why = next((line for line in str(error).splitlines() if line.startswith("-- ")), type(error).__name__)
            raise InputError(f"--runtime openvino cannot run this network ({why[:80]}); torch can.") from None
    cores = str(threads())
    asked = {"NUM_STREAMS": cores, "INFERENCE_NUM_THREADS": cores, "ENABLE_CPU_PINNING": "NO"}
    # f32: no operation is to be in less than the model says
    compiled = core.compile_model(model, "CPU", {**asked, "INFERENCE_PRECISION_HINT": "f32"})
    own = threading.local()

    def part(stamps: Tensor, metadata: Tensor | None) -> np.ndarray:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        image, columns = deployed.prepare(stamps, metadata)
        inputs = [image.numpy()] + ([columns.numpy()] if deployed.features else [])
        return own.request.infer(inputs)[0].copy()

    # The first use of openvino's bindings must be over before two threads can meet in it: there each would wait for
    # what the other holds, for ever.
    blank = torch.zeros(1, *deployed.spec.raw_shape)
    part(blank, torch.zeros(1, len(deployed.features)) if deployed.features else None)
    return _in_parts(part, deployed.columns)


RUNTIMES = {"torch": eager, "float32": float32, "mixed": mixed, "bfloat16": bfloat16, "openvino": openvino}


def _in_parts(part: Part, names: Sequence[str]) -> Runtime:
    """Return a runtime of all cores, each on parts of its own of at most `BATCH` rows, in the order of the rows."""
    import torch

    cores = threads()
    pool = ThreadPoolExecutor(cores, initializer=lambda: torch.set_num_threads(1))

    def work(stamps: Tensor, metadata: Tensor | None) -> np.ndarray:
        with torch.inference_mode():
            return part(stamps, metadata)

    def run(stamps: np.ndarray, metadata: np.ndarray | None = None) -> dict[str, np.ndarray]:
        n = min(len(stamps), max(cores, -(-len(stamps) // BATCH)))
        rest = [None] * n if metadata is None else torch.from_numpy(metadata).tensor_split(n)
        found = np.concatenate(list(pool.map(work, torch.from_numpy(stamps).tensor_split(n), rest)))
        columns = dict(zip(names, found.T, strict=False))
        return columns if len(names) == found.shape[1] else columns | {EMBEDDING: found[:, len(names) :]}

    return run


def seal(content: bytes) -> bytes:
    """Return what ends a file: its metadata `sha256`, in ONNX's encoding, of all the bytes before it."""
    return b"r\x4a\n\x06sha256\x12\x40" + hashlib.sha256(content).hexdigest().encode()


def open_exported(content: bytes, name: str) -> tuple[Facts, Runtime]:
    """Return what the content of an exported ONNX file tells, and onnxruntime on it; raises InputError for any other.

    name: of the file, for messages.
    """
    try:
        session = session_of(content)
        facts = Facts.from_texts(session.get_modelmeta().custom_metadata_map)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except Exception as error:  # a damaged file may raise nearly anything
        raise InputError(f"{name} is no ONNX file, or is damaged: {one_line(error)}.") from None
    if not content.endswith(seal(content[: -len(seal(b""))])):  # onnxruntime takes any weights
        raise InputError(f"{name} is damaged, or was changed: its sha256 is not that of its bytes. Export it again.")

    # files from before networks returned it have no such output
    outputs = ["table", *(output.name for output in session.get_outputs() if output.name == EMBEDDING)]

    def run(stamps: np.ndarray, metadata: np.ndarray | None = None) -> dict[str, np.ndarray]:
        inputs = {"stamps": stamps} | ({"metadata": metadata} if facts.spec.features else {})
        try:
            found, *hidden = session.run(outputs, inputs)
        except Exception as error:  # onnxruntime has an exception for everything
            raise InputError(f"{name}: onnxruntime cannot run it: {one_line(error)}.") from None
        if found.shape != (len(stamps), len(facts.columns)) or found.dtype != np.float32:
            raise InputError(f"{name}: its table is {found.dtype} {found.shape}, not {len(facts.columns)} columns.")
        if any(one.ndim != 2 or len(one) != len(stamps) or one.dtype != np.float32 for one in hidden):
            raise InputError(f"{name}: its embedding is {hidden[0].dtype} {hidden[0].shape}. Export it again.")
        return dict(zip(facts.columns, found.T, strict=True)) | dict(zip([EMBEDDING], hidden, strict=False))

    # what it tells and what it does may differ, which one row shows
    run(np.full((1, *facts.spec.raw_shape), np.nan, np.float32), np.full((1, len(facts.spec.features)), np.nan, "f4"))
    return facts, run


def session_of(content: bytes) -> Any:
    """onnxruntime's `InferenceSession` on the content of an ONNX file, with as many threads as this process may use."""
    with require_extra("exported files", "export"):
        import onnxruntime
    onnxruntime.disable_telemetry_events()  # what is classified is nobody else's business
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    # a thread that waits would spin on the core that decodes the next rows
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors come as exceptions too
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
