"""Metadata of a deployed network, and the runtimes that compute it.

A runtime runs a network on many rows. Runtimes of a checkpoint split a batch into small parts, whose arrays stay in the
processor's cache, and distribute the parts over the cores. This is two to three times as fast as running each operation
over the whole batch. Exported files run without torch, so this module imports it only when a checkpoint is run.
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

FORMAT = 1  # version of the inputs and outputs of exported files
LICENCE = "MIT"
ONNX = ".onnx"  # extension of exported files
MIN_LEAD = 0.05  # lead of the largest probability over the next, below which bfloat16 could change the class
BATCH = 32  # rows per core and pass: 1.5 MB of raw stamps, so that intermediate arrays stay in the cache

# Maps raw stamps (B, C, H, W) float32, NaN without data, and metadata (B, F) float32 or None to `Facts.columns`, each
# (B,) float32, and, if the network returns it, `EMBEDDING` (B, D) float32.
Runtime = Callable[[np.ndarray, np.ndarray | None], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Facts:
    """Metadata of one trained network: everything except its weights.

    Parameters
    ----------
    model_id : str
        First 12 hex digits of a hash of the weights and of everything else that affects the output.
    spec : DataSpec
        Description of the training data, including the recipe.
    columns : tuple of str
        Names of the outputs, as in the predictions table.
    calibration, conformal : mapping, optional
        Fits on the validation rows as plain values, see `calibration.fit` and `conformal.fit`.
    trained_on : str, optional
        Hashes of the objects used in training and model selection, see `text.hash_objects`.
    operating_points : mapping, optional
        Thresholds per class, see `thresholds.fit_percents`.

    Raises
    ------
    InputError
        If a name is not allowed in a table, or if a fit does not match the classes.
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
        except Exception as error:  # untrusted values can raise any exception
            raise InputError(f"its raw_shape, calibration, conformal or operating_points: {one_line(error)}") from None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the probabilities; empty for a redshift."""
        return tuple(name for name in self.spec.classes if f"p_{name}" in self.columns)

    def texts(self) -> dict[str, str]:
        """Return the metadata as text by name, as exported files store them; lists and dicts are JSON.

        Classes and features are repeated outside ``spec`` for programs that read the file without this package.
        """
        words = {"format_version": str(FORMAT), "model_id": self.model_id, "licence": LICENCE}
        words |= {} if self.trained_on is None else {"trained_on": self.trained_on}
        words |= {} if self.operating_points is None else {"operating_points": json.dumps(self.operating_points)}
        plain: dict[str, Any] = {"classes": self.spec.classes, "features": self.spec.features, "columns": self.columns}
        plain |= {"spec": self.spec.plain(), "calibration": self.calibration, "conformal": self.conformal}
        return words | {name: json.dumps(value) for name, value in plain.items()}

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Facts:
        """Parse the output of `texts`.

        Parameters
        ----------
        texts : mapping of str to str
            Metadata of an exported file.

        Returns
        -------
        Facts
            The metadata.

        Raises
        ------
        InputError
            If the metadata are missing, invalid or in another format version.
        """
        if "format_version" not in texts:
            raise InputError("has no model metadata. Give a file that alerce_early.export wrote.")
        if texts["format_version"] != str(FORMAT):
            raise InputError(f"has format {texts['format_version'][:20]}, expected {FORMAT}. Export it again.")
        try:
            read = {name: json.loads(texts[name]) for name in ("spec", "columns", "calibration", "conformal")}
            read |= {"spec": DataSpec.from_plain(read["spec"]), "columns": tuple(read["columns"])}
            points = json.loads(texts.get("operating_points", "null"))
            return construct(
                cls, texts["model_id"], **read, trained_on=texts.get("trained_on"), operating_points=points
            )
        except Exception as error:  # untrusted values can raise any exception
            raise InputError(f"invalid model metadata: {one_line(error)}.") from None


def eager(deployed: Deployed) -> Runtime:
    """Run the checkpoint in torch on whole batches in float32: the reference for all other runtimes."""
    import torch

    def run(stamps: np.ndarray, metadata: np.ndarray | None = None) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            found = deployed.table(torch.from_numpy(stamps), None if metadata is None else torch.from_numpy(metadata))
        return {name: column.numpy() for name, column in found.items()}

    return run


def float32(deployed: Deployed) -> Runtime:
    """Run torch in float32, part by part."""
    return _by_torch(deployed, deployed)


def bfloat16(deployed: Deployed) -> Runtime:
    """Run torch in mixed precision, see `Deployed.to_mixed`."""
    return _by_torch(deployed, deployed.to_mixed())


def mixed(deployed: Deployed) -> Runtime:
    """Run `bfloat16`, then `float32` for the rows whose class the rounding could change.

    On real stamps bfloat16 changes probabilities by at most 0.007, so a class that leads by `MIN_LEAD` cannot change.
    Networks without classes run in float32.
    """
    exact = float32(deployed)
    if not deployed.facts.classes:
        return exact
    quick = bfloat16(deployed)

    def run(stamps: np.ndarray, metadata: np.ndarray | None = None) -> dict[str, np.ndarray]:
        found = quick(stamps, metadata)
        ordered = np.sort(np.stack([found[f"p_{name}"] for name in deployed.facts.classes]), 0)
        if (close := ordered[-1] - ordered[-2] < MIN_LEAD).any():
            again = exact(stamps[close], None if metadata is None else metadata[close])
            for name, column in again.items():
                found[name][close] = column
        return found

    return run


def choose(networks: int) -> str:
    """Return the name of the fastest runtime on this processor that predicts the same classes as float32.

    Parameters
    ----------
    networks : int
        Number of networks to average. Several run in float32, because rounding can change the class of their mean
        even if it changes no network's class.

    Returns
    -------
    str
        "mixed" or "float32".
    """
    return "mixed" if networks == 1 and multiplies_bfloat16() else "float32"


def _by_torch(deployed: Deployed, computed: Deployed) -> Runtime:
    """Run the recipe of one network and the layers of another, part by part."""
    network = computed.without_recipe()

    def part(stamps: Tensor, metadata: Tensor | None) -> np.ndarray:
        return network(*deployed.prepare(stamps, metadata)).numpy()

    return _in_parts(part, deployed.columns)


def openvino(deployed: Deployed) -> Runtime:
    """Run the recipe in torch and the layers in OpenVINO, in mixed precision if the processor has bfloat16.

    Parameters
    ----------
    deployed : Deployed
        The network.

    Returns
    -------
    Runtime
        The compiled network.

    Raises
    ------
    InputError
        If OpenVINO is not installed or cannot convert the network.
    """
    import torch

    with require_extra("--runtime openvino", "fast"):
        import openvino as ov
    core = ov.Core()
    has_bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    network = (deployed.to_mixed() if has_bfloat16 else deployed).without_recipe().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OpenVINO traces with a deprecated function of torch
        try:
            # Conversion through ONNX would import torch modules that occupy 0.2 GiB for the rest of the process.
            # Shared weights would point to freed memory once the torch network is gone.
            model = ov.convert_model(network, example_input=tuple(network.example().values()), share_weights=False)
        except Exception as error:  # its converters raise exceptions of many types
            why = next((line for line in str(error).splitlines() if line.startswith("-- ")), type(error).__name__)
            raise InputError(
                f"--runtime openvino: OpenVINO cannot convert this network ({why[:80]}). Leave out --runtime."
            ) from None
    cores = str(threads())
    options = {"NUM_STREAMS": cores, "INFERENCE_NUM_THREADS": cores, "ENABLE_CPU_PINNING": "NO"}
    # f32 keeps the precision of each operation in the model
    compiled = core.compile_model(model, "CPU", {**options, "INFERENCE_PRECISION_HINT": "f32"})
    own = threading.local()

    def part(stamps: Tensor, metadata: Tensor | None) -> np.ndarray:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        image, columns = deployed.prepare(stamps, metadata)
        inputs = [image.numpy()] + ([columns.numpy()] if deployed.features else [])
        return own.request.infer(inputs)[0].copy()

    # Two threads that enter OpenVINO's bindings for the first time at once can deadlock, so run one row here.
    blank = torch.zeros(1, *deployed.spec.raw_shape)
    part(blank, torch.zeros(1, len(deployed.features)) if deployed.features else None)
    return _in_parts(part, deployed.columns)


RUNTIMES = {"torch": eager, "float32": float32, "mixed": mixed, "bfloat16": bfloat16, "openvino": openvino}


def _in_parts(part: Part, names: Sequence[str]) -> Runtime:
    """Distribute a batch over all cores in parts of at most `BATCH` rows, and keep the order of the rows."""
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
    """Return the bytes to append to an ONNX file: a metadata entry with the SHA-256 of its content."""
    return b"r\x4a\n\x06sha256\x12\x40" + hashlib.sha256(content).hexdigest().encode()


def open_exported(content: bytes, name: str) -> tuple[Facts, Runtime]:
    """Open an exported ONNX file with onnxruntime.

    Parameters
    ----------
    content : bytes
        Content of the file.
    name : str
        Name of the file, for messages.

    Returns
    -------
    Facts
        Metadata of the network.
    Runtime
        The network.

    Raises
    ------
    InputError
        If the file is damaged or was not written by `export`.
    """
    try:
        session = session_of(content)
        facts = Facts.from_texts(session.get_modelmeta().custom_metadata_map)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except Exception as error:  # a damaged file can raise any exception
        raise InputError(f"{name}: not an ONNX file, or damaged: {one_line(error)}. Export it again.") from None
    if not content.endswith(seal(content[: -len(seal(b""))])):  # onnxruntime accepts changed weights
        raise InputError(f"{name}: damaged or modified, as its sha256 does not match its content. Export it again.")

    # files of older versions do not return embeddings
    outputs = ["table", *(output.name for output in session.get_outputs() if output.name == EMBEDDING)]

    def run(stamps: np.ndarray, metadata: np.ndarray | None = None) -> dict[str, np.ndarray]:
        inputs = {"stamps": stamps} | ({"metadata": metadata} if facts.spec.features else {})
        try:
            found, *hidden = session.run(outputs, inputs)
        except Exception as error:  # onnxruntime raises exceptions of many types
            raise InputError(f"{name}: onnxruntime cannot run it: {one_line(error)}. Export it again.") from None
        if found.shape != (len(stamps), len(facts.columns)) or found.dtype != np.float32:
            raise InputError(
                f"{name}: its table is {found.dtype} {found.shape}, expected {len(facts.columns)} columns of float32. "
                "Export it again."
            )
        if any(one.ndim != 2 or len(one) != len(stamps) or one.dtype != np.float32 for one in hidden):
            raise InputError(f"{name}: its embedding is {hidden[0].dtype} {hidden[0].shape}. Export it again.")
        return dict(zip(facts.columns, found.T, strict=True)) | dict(zip([EMBEDDING], hidden, strict=False))

    # one row shows whether the outputs match the metadata
    run(np.full((1, *facts.spec.raw_shape), np.nan, np.float32), np.full((1, len(facts.spec.features)), np.nan, "f4"))
    return facts, run


def session_of(content: bytes) -> Any:
    """Open the content of an ONNX file as an onnxruntime `InferenceSession` with all threads of this process."""
    with require_extra("exported files", "export"):
        import onnxruntime
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    # waiting threads would otherwise occupy the cores that decode the next rows
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors are raised as exceptions anyway
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
