"""A trained network as it is deployed: raw stamps and metadata in, calibrated probabilities out, all in one module."""

import copy
import hashlib
import json
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alerce_early.artifacts import checkpoints
from alerce_early.artifacts.predictions import EMBEDDING
from alerce_early.construct import construct
from alerce_early.data.features import Clip
from alerce_early.errors import InputError, one_line
from alerce_early.evaluation.tables import SMALLEST
from alerce_early.models.ensemble import Ensemble
from alerce_early.serving.runtimes import FORMAT, Facts
from alerce_early.tasks import restore
from alerce_early.tasks.base import Task

# Input (B, D) of the last layer in the latest pass of this thread: threads share a network, and a copy of it its hooks.
_HIDDEN: ContextVar[Tensor] = ContextVar("hidden")


class Deployed(nn.Module):
    """Recipe, clips, standardisation, network, softmax and calibration of one checkpoint, in eval mode on the CPU.

    facts: its `Facts`, those of an exported file; the attributes of the same names are theirs. classes, features: of
    the spec. chosen: the columns that `forward` returns, the probabilities to use, or all where there are none.
    width: length of an embedding; 0 if it was not requested, or the network has no hidden layer.
    """

    def __init__(
        self,
        task: Task,
        calibration: Mapping[str, Any] | None = None,
        conformal: Mapping[str, Any] | None = None,
        trained_on: str | None = None,
        operating_points: Mapping[str, Any] | None = None,
        embedding: bool = False,
    ):
        """Raise InputError for a task that predicts nothing, and for fits that are none of its classes."""
        super().__init__()
        if not task.deployable:
            raise InputError(f"{type(task).__name__} predicts nothing of a stamp whose class is unknown.")
        self.task, self.spec = task.eval().requires_grad_(False), task.spec
        self.classes, self.features = task.spec.classes, task.spec.features
        self.calibration, self.conformal = calibration or None, conformal or None
        self.clip = Clip(self.features)
        self.calibrate: Calibrate | None = None  # until it is known to be one
        with torch.no_grad():
            image = torch.zeros(2, *self.spec.shape)  # a batch of one means something else to some layers
            columns = torch.zeros(2, len(self.features))
            self.width = _watch_hidden(self.task.net, {"image": image, "features": columns}) if embedding else 0
            self.columns = tuple(name for name in self.network(image, columns) if name != EMBEDDING)
        if self.calibration:
            self.columns += tuple(f"q_{name}" for name in self.classes)
        self.model_id = self._hash()
        fits = {"calibration": self.calibration, "conformal": self.conformal, "trained_on": trained_on}
        self.facts = construct(
            Facts, self.model_id, self.spec, self.columns, **fits, operating_points=operating_points or None
        )
        self.calibrate = Calibrate(self.calibration) if self.calibration else None
        best = "q" if self.calibration else "p"
        self.chosen = tuple(f"{best}_{name}" for name in self.facts.classes) or self.columns
        self.eval()

    @classmethod
    def load(cls, checkpoint: str | Path, embedding: bool = False) -> "Deployed":
        """From a checkpoint of `train`, which is opened as plain values; raises InputError if it is none."""
        held = checkpoints.read(checkpoint)
        task = restore.task(checkpoint, held)
        try:
            fits = {name: held.get(name) for name in ("calibration", "conformal", "trained_on", "operating_points")}
            return cls(task, **fits, embedding=embedding)
        except Exception as error:  # nonsense may raise nearly anything
            raise InputError(f"{checkpoint}: {one_line(error)}.") from None

    def forward(self, stamps: Tensor, metadata: Tensor | None = None) -> Tensor:
        """Raw stamps to what they are.

        stamps: (B, C, H, W) float32 as read, NaN or infinite where there is no data; spectra (B, 2, L).
        metadata: (B, F) float32 raw columns in the order of `features`, NaN or -999 where missing; may be left
        out where there are none. Returns (B, K) float32: the calibrated probabilities of K classes, or, of a task
        without classes, its columns; `chosen` names them. Raises InputError where a shape is not that of training.
        """
        found = self.table(stamps, metadata)
        return torch.stack([found[name] for name in self.chosen], 1)

    def table(self, stamps: Tensor, metadata: Tensor | None = None) -> dict[str, Tensor]:
        """All `columns` (B,) float32 of the predictions table, for the same arguments as `forward`.

        With a `width`, `EMBEDDING` (B, width) float32 comes last: the output of the last hidden layer. An ensemble
        gives that of its first network, because the coordinates of two networks are unrelated.
        """
        return self.network(*self.prepare(stamps, metadata))

    def prepare(self, stamps: Tensor, metadata: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what the network is given: image (B, C, S, S) and columns (B, F), both float32."""
        if self.spec.raw_shape and tuple(stamps.shape[1:]) != self.spec.raw_shape:
            raise InputError(f"stamps of {tuple(stamps.shape[1:])}; the network wants {self.spec.raw_shape}.")
        if metadata is None:
            metadata = stamps.new_zeros(stamps.shape[0], 0)
        if metadata.shape[1] != len(self.features):
            raise InputError(
                f"{metadata.shape[1]} metadata columns; the network wants {len(self.features)}: "
                f"{', '.join(self.features) or 'none'}."
            )
        return self.task.recipe(stamps), self.clip(metadata)

    def network(self, image: Tensor, columns: Tensor) -> dict[str, Tensor]:
        """Return `table`, from what `prepare` returned."""
        batch = {"image": image, "features": columns}
        z = self.task.net(batch)
        hidden = {EMBEDDING: _HIDDEN.get().float()} if self.width else {}
        found = self.task.outputs(z, batch)
        if self.calibrate is None:
            return found | hidden
        calibrated = self.calibrate(torch.stack([found[f"p_{name}"] for name in self.classes], 1))
        return {**found, **{f"q_{name}": calibrated[:, i] for i, name in enumerate(self.classes)}, **hidden}

    def to_mixed(self) -> "Deployed":
        """Return a copy whose inner convolutions, those with other inputs than the image's channels, are bfloat16.

        Nearly all work of an image network is in the convolutions that read the output of others; in bfloat16 they
        take half the time. The one that reads the image stays in float32: beside a bright source a faint one is a
        matter of the last digits. So do the layers after the convolutions, which take no time and whose rounding goes
        straight into the probabilities. Results are float32 or bfloat16, as the last layer has it.
        """
        found = copy.deepcopy(self)
        for layer in found.task.net.modules():
            if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.in_channels != found.spec.shape[0]:
                layer.bfloat16().register_forward_pre_hook(_given_as(torch.bfloat16))
            elif any(True for _ in layer.parameters(recurse=False)):
                layer.register_forward_pre_hook(_given_as(torch.float32))
        return found

    def without_recipe(self) -> "_Network":
        """Return the network without the recipe: from the output of `prepare` to a single tensor.

        (B, M + width) float32: the columns, then the embedding.
        """
        return _Network(self)

    def _hash(self) -> str:
        spec = self.spec.plain()
        for name in ("survey", "class_counts"):  # networks from before these were facts keep their id
            if not spec[name]:
                del spec[name]
        facts = [FORMAT, type(self.task).__name__, self.task.hparams["net"], spec, self.calibration, self.conformal]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
        for name, weights in sorted(self.task.net.state_dict().items()):
            digest.update(name.encode() + weights.contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]


class Calibrate(nn.Module):
    """`calibration.apply` as a part of the network: probabilities (B, C) -> (B, C), float32."""

    def __init__(self, fitted: Mapping[str, Any]):
        super().__init__()
        self.temperature = float(fitted["temperature"])

    def forward(self, probabilities: Tensor) -> Tensor:
        return (probabilities.clamp_min(SMALLEST).log() / self.temperature).softmax(1)


class _Network(nn.Module):
    """See `Deployed.without_recipe`."""

    def __init__(self, deployed: Deployed):
        super().__init__()
        self.net = deployed.task.net
        self._held = (deployed,)  # no submodule: a LightningModule without a trainer cannot be traced

    def forward(self, image: Tensor, columns: Tensor | None = None) -> Tensor:
        if columns is None:
            columns = image.new_zeros(image.shape[0], 0)
        (deployed,) = self._held
        found = deployed.network(image, columns)
        columns = torch.stack([found[name].float() for name in deployed.columns], 1)
        return torch.cat([columns, found[EMBEDDING]], 1) if deployed.width else columns

    def example(self) -> dict[str, Tensor]:
        spec = self._held[0].spec
        columns = {"columns": torch.zeros(2, len(spec.features))} if spec.features else {}
        return {"image": torch.zeros(2, *spec.shape), **columns}


def _watch_hidden(net: nn.Module, batch: dict[str, Tensor]) -> int:
    """Let every pass of a network store the input of its last layer; return the length D of that input, or 0.

    The last layer is the last linear one that is called, if it has as many outputs as the network and is not its only
    layer with weights. Running a batch of two finds it, so networks do not have to name it.
    """
    first = net.members[0] if isinstance(net, Ensemble) else net
    called = list[nn.Module]()
    hooks = [
        layer.register_forward_hook(lambda layer, *_: called.append(layer))
        for layer in first.modules()
        if any(True for _ in layer.parameters(recurse=False))
    ]
    try:
        outputs = net(batch).shape[-1]
    finally:
        for hook in hooks:
            hook.remove()
    last = called[-1] if len(called) > 1 else None
    if not isinstance(last, nn.Linear) or last.out_features != outputs:
        return 0
    last.register_forward_pre_hook(lambda _, given: _HIDDEN.set(given[0]) and None)
    return last.in_features


def _given_as(dtype: torch.dtype) -> Any:
    """Return a hook that gives a layer its inputs in this type."""
    return lambda _, given: tuple(x.to(dtype) if isinstance(x, torch.Tensor) else x for x in given)
