"""A trained network as it is deployed: raw stamps and metadata in, calibrated probabilities out, all in one module."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alerce_early.artifacts import checkpoints
from alerce_early.construct import construct
from alerce_early.data.features import Clip
from alerce_early.errors import InputError, one_line
from alerce_early.evaluation.tables import SMALLEST
from alerce_early.serving.facts import FORMAT, Facts
from alerce_early.tasks import restore
from alerce_early.tasks.base import Task


class Deployed(nn.Module):
    """Recipe, clips, standardisation, network, softmax and calibration of one checkpoint, in eval mode on the CPU.

    spec: the `DataSpec` it was trained on, with the recipe. classes, features: names, in the order of what
    comes out and goes in. calibration, conformal: the fits of the validation rows as plain values, or None.
    trained_on: as of `Facts`.
    columns: names of all it returns, as in the predictions table: p_<class>, what else the task has, and the
    calibrated q_<class>. facts: what its exported file says. chosen: those of the columns that
    `forward` returns. model_id: 12 hex digits, of the weights and of all else that decides what comes out.
    """

    def __init__(
        self,
        task: Task,
        calibration: Mapping[str, Any] | None = None,
        conformal: Mapping[str, Any] | None = None,
        trained_on: str | None = None,
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
            self.columns = tuple(self.network(image, torch.zeros(2, len(self.features))))
        if self.calibration:
            self.columns += tuple(f"q_{name}" for name in self.classes)
        self.model_id = self._hash()
        fits = {"calibration": self.calibration, "conformal": self.conformal, "trained_on": trained_on}
        self.facts = construct(Facts, self.model_id, self.spec, self.columns, **fits)
        self.facts.check()
        self.calibrate = Calibrate(self.calibration) if self.calibration else None
        self.chosen = self.facts.chosen
        self.eval()

    @classmethod
    def load(cls, checkpoint: str | Path) -> "Deployed":
        """From a checkpoint of `train`, which is opened as plain values; raises InputError if it is none."""
        held = checkpoints.read(checkpoint)
        task = restore.task(checkpoint, held)
        try:
            return cls(task, held.get("calibration"), held.get("conformal"), held.get("trained_on"))
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
        """All `columns` (B,) float32 of the predictions table, for the same arguments as `forward`."""
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
        """All `columns`, from what `prepare` returned."""
        batch = {"image": image, "features": columns}
        found = self.task.outputs(self.task.net(batch), batch)
        if self.calibrate is None:
            return found
        calibrated = self.calibrate(torch.stack([found[f"p_{name}"] for name in self.classes], 1))
        return {**found, **{f"q_{name}": calibrated[:, i] for i, name in enumerate(self.classes)}}

    def _hash(self) -> str:
        spec = self.spec.plain()
        if not spec["survey"]:  # networks from before it was a fact keep their id
            del spec["survey"]
        facts = [
            FORMAT,
            type(self.task).__name__,
            self.task.hparams["net"],
            spec,
            self.calibration,
        ]
        digest = hashlib.sha256(json.dumps([*facts, self.conformal], sort_keys=True, default=str).encode())
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
