"""Several networks and a random forest as one network."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from alerce_early.construct import build
from alerce_early.data.spec import DataSpec
from alerce_early.models.net import Net

MIN_PROBABILITY = 1e-4  # of a member: none has seen enough rows to know of anything rarer


class Forest(nn.Module):
    """A random forest in plain tensors, with the nodes of all trees in one sequence.

    Parameters
    ----------
    trees, nodes, depth, classes : int
        Number of trees, nodes of all trees, levels of the deepest tree and classes.

    Attributes
    ----------
    column, below, above : Tensor
        (nodes,) int64. A row proceeds to `below` if its `column` is at most the threshold, else to `above`; a leaf
        points to itself.
    threshold : Tensor
        (nodes,) float32.
    probabilities : Tensor
        (nodes, classes) float32, of the rows that end in each node.
    root : Tensor
        (trees,) int64, the first node of each tree.
    """

    column: Tensor
    threshold: Tensor
    below: Tensor
    above: Tensor
    probabilities: Tensor
    root: Tensor

    def __init__(self, trees: int, nodes: int, depth: int, classes: int):
        super().__init__()
        self.depth = depth
        for name in ("column", "below", "above"):
            self.register_buffer(name, torch.zeros(nodes, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(nodes))
        self.register_buffer("probabilities", torch.full((nodes, classes), 1 / classes))
        self.register_buffer("root", torch.zeros(trees, dtype=torch.int64))

    def forward(self, columns: Tensor) -> Tensor:
        """Average the trees' probabilities: (B, F) float32 -> (B, classes)."""
        at = self.root.expand(columns.shape[0], -1)
        for _ in range(self.depth):
            below = columns.gather(1, self.column[at]) <= self.threshold[at]
            at = self.below[at].where(below, self.above[at])
        return self.probabilities[at].mean(1)


class Member(nn.Module):
    """A network of an ensemble, which sees the metadata columns of its own training.

    Parameters
    ----------
    spec : DataSpec
        Of the ensemble.
    net : dict
        Config of the network.
    features, feature_mean, feature_std : sequence
        As in the `DataSpec` of the network's training.
    """

    def __init__(
        self,
        spec: DataSpec,
        net: dict[str, Any],
        features: Sequence[str] = (),
        feature_mean: Sequence[float] = (),
        feature_std: Sequence[float] = (),
    ):
        super().__init__()
        own = replace(spec, features=(*features,), feature_mean=(*feature_mean,), feature_std=(*feature_std,))
        self.net = build(net, spec=own)
        self.columns = [spec.features.index(name) for name in features]

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return log probabilities (B, classes), clamped from below."""
        own = batch | {"features": batch["features"][:, self.columns]} if self.columns else batch
        return clamped_log(self.net(own).softmax(1))


class Ensemble(Net):
    """Mean log probability of the members, plus the log probability of a random forest on the metadata.

    The sum treats networks and forest as independent experts; calibration corrects for their correlation.
    `alerce_early.experiments.ensemble` assembles it from trained pieces.

    Parameters
    ----------
    spec : DataSpec
        Shape, classes and metadata columns of the data.
    members : sequence of dict
        Arguments of each `Member`, except the spec.
    forest : dict, optional
        Arguments of `Forest`, except the classes.

    References
    ----------
    Hinton 2002, Neural Computation 14, 1771 (product of experts).
    """

    def __init__(self, spec: DataSpec, members: Sequence[dict[str, Any]], forest: dict[str, int] | None = None):
        super().__init__(spec)
        self.members = nn.ModuleList(Member(spec, **member) for member in members)
        self.forest = Forest(**forest, classes=len(spec.classes)) if forest else None

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute logits (B, classes) from a batch with what any member needs."""
        log_mean = torch.stack([member(batch) for member in self.members]).mean(0)
        return log_mean if self.forest is None else log_mean + clamped_log(self.forest(batch["features"]))


def clamped_log(probabilities: Tensor) -> Tensor:
    """Return log probabilities, with probabilities below `MIN_PROBABILITY` raised to it."""
    return probabilities.clamp_min(MIN_PROBABILITY).log()
