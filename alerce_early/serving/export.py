"""A deployed network as the content of one file, checked against the checkpoint on random and on broken stamps."""

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

TOLERANCE = 1e-5  # of a probability, or of 1 + a redshift; float32 sums in another order
SMALL = 64  # weights, for fewer of which half the bytes are not worth a node of the graph
HALF = 1e-2  # the same, where weights are rounded to float16: a part in 2,000
Check = Callable[[dict[str, np.ndarray]], list[np.ndarray]]  # named inputs to outputs, by the written content


class Graph(nn.Module):
    """The outputs of the file: probabilities (B, K) of a classifier, table (B, M) with all columns, embedding (B, D).

    The last one is present if the deployed network returns it, see `Deployed.table`.
    """

    def __init__(self, deployed: Deployed):
        super().__init__()
        self.deployed = deployed
        parts = {"probabilities": deployed.chosen != deployed.columns, "table": True, EMBEDDING: deployed.width > 0}
        self.outputs = tuple(name for name, there in parts.items() if there)

    def forward(self, stamps: Tensor, metadata: Tensor | None = None) -> tuple[Tensor, ...]:
        found = self.deployed.table(stamps, metadata)
        names = {"probabilities": self.deployed.chosen, "table": self.deployed.columns}
        return tuple(
            found[EMBEDDING] if output == EMBEDDING else torch.stack([found[name] for name in names[output]], 1)
            for output in self.outputs
        )


def edge_cases(deployed: Deployed, n: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """Return inputs by name, float32: n random rows, then rows without data, constant, infinite, or odd in a pixel.

    stamps (n + 9, C, H, W) or (n + 9, C, L) and, where the network takes it, metadata (n + 9, F).
    """
    rng = np.random.default_rng(seed)
    shape = deployed.spec.raw_shape
    scatter = np.exp(rng.uniform(-2, 6, (n + 9, *[1] * len(shape))))
    # on a pedestal, as the sky of a stamp, but of so few sigmas that float32 still resolves them
    stamps = scatter * (20 + rng.standard_normal((n + 9, *shape)))
    centre = (..., *(side // 2 for side in shape[1:]))
    stamps[n] = np.nan
    stamps[n + 1] = 7.0
    stamps[n + 2], stamps[n + 3] = np.inf, -np.inf
    stamps[n + 4, 0], stamps[n + 4, :, 0] = np.nan, np.inf  # no science image; an edge
    stamps[n + 5] = np.nan
    stamps[n + 5][centre] = 1.0  # one pixel with data
    stamps[n + 6] = 0.0
    stamps[n + 6][centre] = 1e6
    stamps[n + 7][rng.random(shape) < 0.5] = np.nan
    stamps[n + 8, :, :5], stamps[n + 8, -1, :5] = np.nan, -np.finfo(np.float32).max  # no data, said in two ways
    inputs = {"stamps": stamps}
    if deployed.features:
        columns = np.array(deployed.spec.feature_mean) + 2 * np.array(deployed.spec.feature_std) * rng.standard_normal(
            (n + 9, len(deployed.features))
        )
        columns[n], columns[n + 1], columns[n + 2] = np.nan, MISSING, np.inf
        inputs["metadata"] = columns
    return {name: value.astype(np.float32) for name, value in inputs.items()}


def trace_onnx(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> bytes:
    """Return a module as ONNX; inputs: two rows of each, by name; the batch stays free."""
    with require_extra("ONNX files", "export"):
        import onnxscript  # noqa: F401  torch's exporter asks for it only half way
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
    """Return the network as an ONNX file, and onnxruntime on it; dynamic batch."""
    with require_extra("--format onnx", "export"):
        import onnx
        import onnxruntime  # noqa: F401  whose lack is reported before the network is traced
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
    """Store those weights in half the bytes of which float16 holds every digit, as of a pretrained network."""
    from onnx import TensorProto, helper, numpy_helper

    for weights in [*graph.initializer]:
        values = numpy_helper.to_array(weights)
        if weights.data_type == TensorProto.FLOAT and values.size >= SMALL:
            with np.errstate(over="ignore"):  # what is too large for it is not equal either
                half = values.astype(np.float16)
            if (half == values).all():
                name = f"{weights.name}_float16"
                graph.node.insert(0, helper.make_node("Cast", [name], [weights.name], to=TensorProto.FLOAT))
                graph.initializer.remove(weights)
                graph.initializer.append(numpy_helper.from_array(half, name))


def to_torch(deployed: Deployed) -> tuple[bytes, Check]:
    """Return the network as a program of `torch.export`, which `torch.export.load` opens without this package."""
    graph, inputs = _example(deployed)
    with _quietly():
        program = torch.export.export(graph, tuple(inputs.values()), dynamic_shapes=_free_batch(inputs))
        file = io.BytesIO()
        torch.export.save(program, file, extra_files={"facts.json": json.dumps(deployed.facts.texts())})
        module = torch.export.load(io.BytesIO(file.getvalue())).module()
    return file.getvalue(), lambda rows: [z.numpy() for z in module(*map(torch.from_numpy, rows.values()))]


def to_checkpoint(deployed: Deployed) -> tuple[bytes, Check]:
    """Return a checkpoint that holds no more than the network, its weights in float16: a sixth of one of training."""
    task, file = deployed.task, io.BytesIO()
    weights = {name for name, _ in task.named_parameters()}
    small = {  # of buffers, such as the thresholds of a forest, every digit counts
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
    """Return the file's content and by how much it differs from the checkpoint on `edge_cases`, at most `TOLERANCE`.

    Raises InputError where the network cannot be exported, or its file would differ by more.
    """
    if not deployed.spec.raw_shape:
        raise InputError("this checkpoint does not tell the shape of raw stamps. Train again.")
    try:
        content, check = FORMATS[form](deployed)
    except (torch.onnx.OnnxExporterError, torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
        why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"this network cannot be exported as {form}: {why[:200]}") from None
    inputs, graph = edge_cases(deployed), Graph(deployed)
    n = len(graph.outputs) - (EMBEDDING in graph.outputs)  # an embedding has no scale, so no tolerance either
    found = np.concatenate(check(inputs)[:n], 1)
    with torch.no_grad():
        wanted = torch.cat(graph(*map(torch.from_numpy, inputs.values()))[:n], 1).numpy()
    different = np.abs(found - wanted) / np.maximum(1, np.abs(wanted))
    different[np.isnan(found) & np.isnan(wanted)] = 0  # of a network whose recipe lets NaN pass
    largest = float(different.max())
    allowed = HALF if form == "checkpoint" else TOLERANCE
    if not largest <= allowed:  # NaN counts
        raise InputError(f"the {form} file would differ from the checkpoint by {largest:.2g}; allowed: {allowed:g}.")
    return content, largest


def _example(deployed: Deployed) -> tuple[Graph, dict[str, Tensor]]:
    """Return the graph, and inputs to trace it with."""
    return Graph(deployed).eval(), {name: torch.from_numpy(rows[:2]) for name, rows in edge_cases(deployed).items()}


def _free_batch(inputs: Mapping[str, Tensor]) -> tuple[dict[int, Any], ...]:
    batch = torch.export.Dim("batch")
    return tuple({0: batch} for _ in inputs)


@contextlib.contextmanager
def _quietly() -> Any:
    """Without the exporters' progress and their advice to their own developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
