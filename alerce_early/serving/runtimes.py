"""Ways to run a deployed network on many rows: name -> a function from raw rows to columns of the predictions table.

A batch is cut into small parts whose arrays stay in the processor's cache, and each core takes parts of its own:
two to three times as fast as one operation after the other over the whole batch.
"""

import copy
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alerce_early.artifacts.run_folder import checkpoint_of
from alerce_early.errors import InputError, require_extra
from alerce_early.machine import threads
from alerce_early.serving.deployed import Deployed
from alerce_early.serving.facts import BATCH, Facts, Runtime

Part = Callable[[Tensor, Tensor | None], np.ndarray]  # some of the rows to (n, M), one column each

PART = BATCH  # rows; 1.5 MB of raw stamps


def eager(deployed: Deployed) -> Runtime:
    """Return the checkpoint itself, float32: what all others are measured against."""

    def run(stamps: np.ndarray, metadata: np.ndarray | None = None) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            found = deployed.table(torch.from_numpy(stamps), None if metadata is None else torch.from_numpy(metadata))
        return {name: column.numpy() for name, column in found.items()}

    return run


def bfloat16(deployed: Deployed) -> Runtime:
    """Torch in mixed precision, see `to_mixed`."""
    network = _Network(to_mixed(deployed))

    def part(stamps: Tensor, metadata: Tensor | None) -> np.ndarray:
        return network(*deployed.prepare(stamps, metadata)).numpy()

    return _in_parts(part, deployed.columns)


def openvino(deployed: Deployed) -> Runtime:
    """OpenVINO in mixed precision where the processor has bfloat16, see `to_mixed`; the recipe in torch."""
    with require_extra("--runtime openvino", "fast"):
        import openvino as ov
    core = ov.Core()
    has_bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    network = _Network(to_mixed(deployed) if has_bfloat16 else deployed).eval()
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


RUNTIMES: dict[str, Callable[[Deployed], Runtime]] = {
    "torch": eager,
    "bfloat16": bfloat16,
    "openvino": openvino,
}


def load_runtime(path: Path, name: str) -> tuple[Facts, Runtime]:
    """Return what is known of the network of a run folder or checkpoint, and the runtime of this name for it."""
    deployed = Deployed.load(checkpoint_of(path))
    return deployed.facts, start(name, deployed)


def start(name: str, deployed: Deployed) -> Runtime:
    """Return the runtime of this name for a network; raises InputError if there is none, or a library is missing."""
    if name not in RUNTIMES:
        raise InputError(f"--runtime {name} is unknown; there are {', '.join(RUNTIMES)}.")
    return RUNTIMES[name](deployed)


def to_mixed(deployed: Deployed) -> Deployed:
    """Return a copy whose inner convolutions, those with other inputs than the image's channels, are bfloat16.

    Nearly all work of an image network is in the convolutions that read the output of others; in bfloat16 they take
    half the time. The one that reads the image stays in float32: beside a bright source a faint one is a matter of the
    last digits. So do the layers after the convolutions, which take no time and whose rounding goes straight into the
    probabilities. Results are float32 or bfloat16, as the last layer has it.
    """
    found = copy.deepcopy(deployed)
    for layer in found.task.net.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.in_channels != found.spec.shape[0]:
            layer.bfloat16().register_forward_pre_hook(_given_as(torch.bfloat16))
        elif any(True for _ in layer.parameters(recurse=False)):
            layer.register_forward_pre_hook(_given_as(torch.float32))
    return found


def _given_as(dtype: torch.dtype) -> Any:
    """Return a hook that gives a layer its inputs in this type."""
    return lambda _, given: tuple(x.to(dtype) if isinstance(x, torch.Tensor) else x for x in given)


class _Network(nn.Module):
    """What comes after the recipe, as one output: the columns (B, M)."""

    def __init__(self, deployed: Deployed):
        super().__init__()
        self.net = deployed.task.net
        self._held = (deployed,)  # no submodule: a LightningModule without a trainer cannot be traced

    def forward(self, image: Tensor, columns: Tensor | None = None) -> Tensor:
        if columns is None:
            columns = image.new_zeros(image.shape[0], 0)
        (deployed,) = self._held
        found = deployed.network(image, columns)
        return torch.stack([found[name].float() for name in deployed.columns], 1)

    def example(self) -> dict[str, Tensor]:
        spec = self._held[0].spec
        columns = {"columns": torch.zeros(2, len(spec.features))} if spec.features else {}
        return {"image": torch.zeros(2, *spec.shape), **columns}


def _in_parts(part: Part, names: Sequence[str]) -> Runtime:
    """All cores on one batch, each on parts of its own, in the order of the rows."""
    cores = threads()
    pool = ThreadPoolExecutor(cores, initializer=lambda: torch.set_num_threads(1))

    def work(stamps: Tensor, metadata: Tensor | None) -> np.ndarray:
        with torch.inference_mode():
            images = stamps.split(PART)
            rest = [None] * len(images) if metadata is None else metadata.split(PART)
            return np.concatenate([part(*some) for some in zip(images, rest, strict=True)])

    def run(stamps: np.ndarray, metadata: np.ndarray | None = None) -> dict[str, np.ndarray]:
        images = torch.from_numpy(stamps).tensor_split(cores)
        rest = [None] * cores if metadata is None else torch.from_numpy(metadata).tensor_split(cores)
        found = np.concatenate([rows for rows in pool.map(work, images, rest) if len(rows)])
        return dict(zip(names, found.T, strict=True))

    return run
