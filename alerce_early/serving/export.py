"""Export a deployed network to one file, verified against the checkpoint on random and on invalid stamps."""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alerce_early.artifacts.predictions import EMBEDDING
from alerce_early.data.records import MISSING
from alerce_early.errors import InputError, require_extra
from alerce_early.serving.deployed import Deployed
from alerce_early.serving.runtimes import seal, session_of

TOLERANCE = 1e-5  # of a probability, or relative of 1 + redshift: float32 sums in another order
FLOAT16_TOLERANCE = 1e-2  # the same for weights rounded to float16, to one part in 2,000
MIN_HALVED_SIZE = 64  # weights; for smaller arrays float16 saves less than the added node of the graph
Check = Callable[[dict[str, np.ndarray]], list[np.ndarray]]  # runs the written content: named inputs to outputs


class Graph(nn.Module):
    """A deployed network with the outputs of an exported file.

    Parameters
    ----------
    deployed : Deployed
        The network.

    Attributes
    ----------
    outputs : tuple of str
        Of a classifier ``probabilities`` (B, K); always ``table`` (B, M), all columns; if the network returns it, its
        `EMBEDDING` (B, D).
    """

    def __init__(self, deployed: Deployed):
        super().__init__()
        self.deployed = deployed
        parts = {"probabilities": deployed.chosen != deployed.columns, "table": True, EMBEDDING: deployed.width > 0}
        self.outputs = tuple(name for name, there in parts.items() if there)

    def forward(self, stamps: Tensor, metadata: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the `outputs` for raw stamps and metadata, see `Deployed.forward`."""
        found = self.deployed.table(stamps, metadata)
        names = {"probabilities": self.deployed.chosen, "table": self.deployed.columns}
        return tuple(
            found[EMBEDDING] if output == EMBEDDING else torch.stack([found[name] for name in names[output]], 1)
            for output in self.outputs
        )


def edge_cases(deployed: Deployed, n: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """Make random and invalid inputs on which an exported file must agree with its checkpoint.

    Parameters
    ----------
    deployed : Deployed
        The network.
    n : int, default 16
        Number of random rows. Nine more have no data, are constant or infinite, or have unusual pixels.
    seed : int, default 0
        Seed of the random numbers.

    Returns
    -------
    dict of str to ndarray
        ``stamps`` (n + 9, C, H, W) or (n + 9, C, L) float32 and, if the network needs it, ``metadata`` (n + 9, F).
    """
    rng = np.random.default_rng(seed)
    shape = deployed.spec.raw_shape
    scatter = np.exp(rng.uniform(-2, 6, (n + 9, *[1] * len(shape))))
    # on a background, like the sky of a stamp, but of few sigmas, so that float32 still resolves the noise
    stamps = scatter * (20 + rng.standard_normal((n + 9, *shape)))
    centre = (..., *(side // 2 for side in shape[1:]))
    stamps[n] = np.nan
    stamps[n + 1] = 7.0
    stamps[n + 2], stamps[n + 3] = np.inf, -np.inf
    stamps[n + 4, 0], stamps[n + 4, :, 0] = np.nan, np.inf  # no science image, and an edge
    stamps[n + 5] = np.nan
    stamps[n + 5][centre] = 1.0  # one pixel with data
    stamps[n + 6] = 0.0
    stamps[n + 6][centre] = 1e6
    stamps[n + 7][rng.random(shape) < 0.5] = np.nan
    stamps[n + 8, :, :5], stamps[n + 8, -1, :5] = np.nan, -np.finfo(np.float32).max  # both values mean no data
    inputs = {"stamps": stamps}
    if deployed.features:
        columns = np.array(deployed.spec.feature_mean) + 2 * np.array(deployed.spec.feature_std) * rng.standard_normal(
            (n + 9, len(deployed.features))
        )
        columns[n], columns[n + 1], columns[n + 2] = np.nan, MISSING, np.inf
        inputs["metadata"] = columns
    return {name: value.astype(np.float32) for name, value in inputs.items()}


def trace_onnx(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> bytes:
    """Convert a module to ONNX with a dynamic batch size.

    Parameters
    ----------
    module : nn.Module
        The module.
    inputs : mapping of str to Tensor
        Two rows of each input, by name.
    outputs : sequence of str
        Names of the outputs.

    Returns
    -------
    bytes
        Content of the .onnx file.
    """
    with require_extra("ONNX files", "export"):
        import onnxscript  # noqa: F401  checked here, because torch needs it only late in the export
    with _quietly():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            verbose=False,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=_free_batch(inputs),
        )
    assert program is not None
    return program.model_proto.SerializeToString()


def to_onnx(deployed: Deployed) -> tuple[bytes, Check]:
    """Return the network as an ONNX file, and a function that runs the file with onnxruntime."""
    with require_extra("--format onnx", "export"):
        import onnx
        import onnxruntime  # noqa: F401  checked here, before the network is traced
    graph, inputs = _example(deployed)
    model = onnx.load_from_string(trace_onnx(graph, inputs, graph.outputs))
    _halve(model.graph)
    model.doc_string = f"{deployed.spec.kind}: {', '.join(deployed.columns)}"
    onnx.helper.set_model_props(model, deployed.facts.texts())
    content = model.SerializeToString()
    content += seal(content)
    session = session_of(content)
    return content, lambda rows: session.run(list(graph.outputs), rows)


def _halve(graph: Any) -> None:
    """Store weights as float16 if that loses no digit, as for pretrained networks."""
    from onnx import TensorProto, helper, numpy_helper

    for weights in [*graph.initializer]:
        values = numpy_helper.to_array(weights)
        if weights.data_type == TensorProto.FLOAT and values.size >= MIN_HALVED_SIZE:
            with np.errstate(over="ignore"):  # values beyond float16 become infinite and so differ
                half = values.astype(np.float16)
            if (half == values).all():
                name = f"{weights.name}_float16"
                graph.node.insert(0, helper.make_node("Cast", [name], [weights.name], to=TensorProto.FLOAT))
                graph.initializer.remove(weights)
                graph.initializer.append(numpy_helper.from_array(half, name))


def to_torch(deployed: Deployed) -> tuple[bytes, Check]:
    """Return the network as a `torch.export` program, which loads without this package, and a function that runs it."""
    graph, inputs = _example(deployed)
    with _quietly():
        program = torch.export.export(graph, tuple(inputs.values()), dynamic_shapes=_free_batch(inputs))
        file = io.BytesIO()
        torch.export.save(program, file, extra_files={"facts.json": json.dumps(deployed.facts.texts())})
        module = torch.export.load(io.BytesIO(file.getvalue())).module()
    return file.getvalue(), lambda rows: [z.numpy() for z in module(*map(torch.from_numpy, rows.values()))]


def to_checkpoint(deployed: Deployed) -> tuple[bytes, Check]:
    """Return a checkpoint of the network alone with float16 weights, and a function that runs it.

    It has a sixth of the size of a training checkpoint.
    """
    task, file = deployed.task, io.BytesIO()
    weights = {name for name, _ in task.named_parameters()}
    small = {  # buffers, such as the thresholds of a forest, need their full precision
        name: tensor.half() if name in weights else tensor if tensor.is_floating_point() else tensor.int()
        for name, tensor in task.state_dict().items()
    }
    fits: dict[str, Any] = {"calibration": deployed.calibration, "conformal": deployed.conformal}
    kept = {"trained_on": deployed.facts.trained_on, "operating_points": deployed.facts.operating_points}
    fits |= {name: value for name, value in kept.items() if value is not None}
    held = {"hyper_parameters": dict(task.hparams), "state_dict": small, **fits}
    task.on_save_checkpoint(held)
    torch.save(held, file)

    def check(rows: dict[str, np.ndarray]) -> list[np.ndarray]:
        opened = copy.deepcopy(deployed)
        opened.task.load_state_dict(small)
        with torch.no_grad():
            return [z.numpy() for z in Graph(opened)(*map(torch.from_numpy, rows.values()))]

    return file.getvalue(), check


FORMATS: dict[str, Callable[[Deployed], tuple[bytes, Check]]] = {
    "onnx": to_onnx,
    "torch": to_torch,
    "checkpoint": to_checkpoint,
}


def content_of(deployed: Deployed, form: str = "onnx") -> tuple[bytes, float]:
    """Export a network and compare the file with the checkpoint on `edge_cases`.

    Parameters
    ----------
    deployed : Deployed
        The network.
    form : str, default "onnx"
        A key of `FORMATS`.

    Returns
    -------
    bytes
        Content of the file.
    float
        Largest difference from the checkpoint, of a probability or relative to the output if that is larger than 1.

    Raises
    ------
    InputError
        If the network cannot be exported, or if the difference exceeds `TOLERANCE`, for checkpoints
        `FLOAT16_TOLERANCE`.
    """
    if not deployed.spec.raw_shape:
        raise InputError(f"model {deployed.model_id}: has no raw_shape, the shape of raw stamps. Train again.")
    try:
        content, check = FORMATS[form](deployed)
    except (torch.onnx.OnnxExporterError, torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
        why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"--format {form}: this network cannot be exported: {why[:200]}") from None
    inputs, graph = edge_cases(deployed), Graph(deployed)
    n = len(graph.outputs) - (EMBEDDING in graph.outputs)  # an embedding has no scale, hence no tolerance
    found = np.concatenate(check(inputs)[:n], 1)
    with torch.no_grad():
        expected = torch.cat(graph(*map(torch.from_numpy, inputs.values()))[:n], 1).numpy()
    different = np.abs(found - expected) / np.maximum(1, np.abs(expected))
    different[np.isnan(found) & np.isnan(expected)] = 0  # some recipes pass NaN on
    largest = float(different.max())
    allowed = FLOAT16_TOLERANCE if form == "checkpoint" else TOLERANCE
    if not largest <= allowed:  # also if it is NaN
        raise InputError(
            f"--format {form}: the file would differ from the checkpoint by {largest:.2g}, more than {allowed:g}. "
            "Choose another --format."
        )
    return content, largest


def _example(deployed: Deployed) -> tuple[Graph, dict[str, Tensor]]:
    """Return the graph and two rows of inputs to trace it with."""
    return Graph(deployed).eval(), {name: torch.from_numpy(rows[:2]) for name, rows in edge_cases(deployed).items()}


def _free_batch(inputs: Mapping[str, Tensor]) -> tuple[dict[int, Any], ...]:
    """Return the dynamic shapes of inputs that share a batch of any size."""
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in inputs)


@contextlib.contextmanager
def _quietly() -> Any:
    """Suppress the output and the warnings of the exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
