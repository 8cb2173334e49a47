"""A deployed network: one module from raw stamps and metadata to calibrated probabilities."""

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

# Input (B, D) of the last layer in the latest pass of this thread. It is not an attribute of the network, because
# threads share a network, and copies of a network share its hooks.
_HIDDEN: ContextVar[Tensor] = ContextVar("hidden")


class Deployed(nn.Module):
    """Recipe, clips, standardisation, network, softmax and calibration of one checkpoint, in eval mode on the CPU.

    Parameters
    ----------
    task : Task
        The trained task.
    calibration, conformal, trained_on, operating_points
        See `Facts`.
    embedding : bool, default False
        Also return the output of the last hidden layer.

    Attributes
    ----------
    facts : Facts
        Metadata, as stored in exported files.
    columns : tuple of str
        Names of all outputs.
    chosen : tuple of str
        Columns that `forward` returns: calibrated probabilities if available, or all columns without classes.
    width : int
        Length D of an embedding; 0 if it was not requested or the network has no hidden layer.

    Raises
    ------
    InputError
        If the task cannot predict, or if a fit does not match its classes.
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
        super().__init__()
        if not task.deployable:
            raise InputError(f"{type(task).__name__}: cannot predict the class of a stamp. Choose a classifier's run.")
        self.task, self.spec = task.eval().requires_grad_(False), task.spec
        self.classes, self.features = task.spec.classes, task.spec.features
        self.calibration, self.conformal = calibration or None, conformal or None
        self.clip = Clip(self.features)
        self.calibrate: Calibrate | None = None  # until `Facts` has validated the calibration
        with torch.no_grad():
            image = torch.zeros(2, *self.spec.shape)  # some layers treat a batch of one differently
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
        """Load a checkpoint of `train`; only plain values are unpickled.

        Parameters
        ----------
        checkpoint : str or Path
            The file.
        embedding : bool, default False
            Also return the output of the last hidden layer.

        Returns
        -------
        Deployed
            The network.

        Raises
        ------
        InputError
            If the file is not a checkpoint, is damaged, or its task cannot predict.
        """
        held = checkpoints.read(checkpoint)
        task = restore.task(checkpoint, held)
        try:
            fits = {name: held.get(name) for name in ("calibration", "conformal", "trained_on", "operating_points")}
            return cls(task, **fits, embedding=embedding)
        except Exception as error:  # untrusted values can raise any exception
            raise InputError(f"{checkpoint}: {one_line(error)}.") from None

    def forward(self, stamps: Tensor, metadata: Tensor | None = None) -> Tensor:
        """Classify raw stamps.

        Parameters
        ----------
        stamps : (B, C, H, W) float32 Tensor
            Raw pixels, NaN or infinite for missing data; spectra are (B, 2, L).
        metadata : (B, F) float32 Tensor, optional
            Raw columns in the order of `features`, NaN or -999 where missing.

        Returns
        -------
        (B, K) float32 Tensor
            The columns `chosen`: calibrated probabilities of K classes, or the outputs of a task without classes.

        Raises
        ------
        InputError
            If the shape of the stamps or the number of columns differs from training.
        """
        found = self.table(stamps, metadata)
        return torch.stack([found[name] for name in self.chosen], 1)

    def table(self, stamps: Tensor, metadata: Tensor | None = None) -> dict[str, Tensor]:
        """Compute all outputs, with the arguments of `forward`.

        Returns
        -------
        dict of str to Tensor
            The `columns` (B,) float32. If `width` is not 0, also `EMBEDDING` (B, width) float32, the output of the
            last hidden layer. An ensemble returns its first network's, because the coordinates of two networks are
            unrelated.
        """
        return self.network(*self.prepare(stamps, metadata))

    def prepare(self, stamps: Tensor, metadata: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Apply the recipe and the clips: return image (B, C, S, S) and columns (B, F), both float32."""
        if self.spec.raw_shape and tuple(stamps.shape[1:]) != self.spec.raw_shape:
            raise InputError(f"stamps: have shape {tuple(stamps.shape[1:])}, expected {self.spec.raw_shape}.")
        if metadata is None:
            metadata = stamps.new_zeros(stamps.shape[0], 0)
        if metadata.shape[1] != len(self.features):
            raise InputError(
                f"metadata: {metadata.shape[1]} columns, expected {len(self.features)}: "
                f"{', '.join(self.features) or 'none'}."
            )
        return self.task.recipe(stamps), self.clip(metadata)

    def network(self, image: Tensor, columns: Tensor) -> dict[str, Tensor]:
        """Compute the outputs of `table` from the outputs of `prepare`."""
        batch = {"image": image, "features": columns}
        z = self.task.net(batch)
        hidden = {EMBEDDING: _HIDDEN.get().float()} if self.width else {}
        found = self.task.outputs(z, batch)
        if self.calibrate is None:
            return found | hidden
        calibrated = self.calibrate(torch.stack([found[f"p_{name}"] for name in self.classes], 1))
        return {**found, **{f"q_{name}": calibrated[:, i] for i, name in enumerate(self.classes)}, **hidden}

    def to_mixed(self) -> "Deployed":
        """Return a copy whose convolutions are bfloat16, except the first.

        Nearly all time of an image network is spent in the convolutions after the first; in bfloat16 they take half of
        it. The first convolution stays in float32, because a faint source next to a bright one is visible only in the
        last digits. So do the layers after the convolutions, which are fast and whose rounding would directly change
        the probabilities.
        """
        found = copy.deepcopy(self)
        for layer in found.task.net.modules():
            if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.in_channels != found.spec.shape[0]:
                layer.bfloat16().register_forward_pre_hook(_given_as(torch.bfloat16))
            elif any(True for _ in layer.parameters(recurse=False)):
                layer.register_forward_pre_hook(_given_as(torch.float32))
        return found

    def without_recipe(self) -> "_Network":
        """Return a module from the outputs of `prepare` to one tensor (B, M + width): columns, then embedding."""
        return _Network(self)

    def _hash(self) -> str:
        """Return 12 hex digits of a hash of the weights and of everything else that affects the output."""
        spec = self.spec.plain()
        for name in ("survey", "class_counts"):  # networks older than these fields keep their id
            if not spec[name]:
                del spec[name]
        facts = [FORMAT, type(self.task).__name__, self.task.hparams["net"], spec, self.calibration, self.conformal]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
        for name, weights in sorted(self.task.net.state_dict().items()):
            digest.update(name.encode() + weights.contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]


class Calibrate(nn.Module):
    """`calibration.apply` as a layer.

    Parameters
    ----------
    fitted : mapping
        A fit with ``temperature``, see `calibration.fit`.
    """

    def __init__(self, fitted: Mapping[str, Any]):
        super().__init__()
        self.temperature = float(fitted["temperature"])

    def forward(self, probabilities: Tensor) -> Tensor:
        """Calibrate probabilities (B, C) float32."""
        return (probabilities.clamp_min(SMALLEST).log() / self.temperature).softmax(1)


class _Network(nn.Module):
    """See `Deployed.without_recipe`."""

    def __init__(self, deployed: Deployed):
        super().__init__()
        self.net = deployed.task.net
        self._held = (deployed,)  # in a tuple, so not a submodule: a LightningModule without a trainer cannot be traced

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
    """Add a hook that stores the input of the last layer, and return the length D of that input, or 0.

    The last layer is the last linear layer that is called, if it has as many outputs as the network and is not its only
    layer with weights. One pass finds it, so networks do not have to name it.
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
    """Return a hook that casts the inputs of a layer."""
    return lambda _, given: tuple(x.to(dtype) if isinstance(x, torch.Tensor) else x for x in given)
