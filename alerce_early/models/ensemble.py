"""Several networks and a forest as one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from alerce_early.construct import build
from alerce_early.data.spec import DataSpec
from alerce_early.models.net import Net

SMALLEST = 1e-4  # probability, below which a member is as sure as it may be: none saw enough rows to know of rarer ones


class Forest(nn.Module):
    """A forest of decision trees in plain tensors, all nodes of all trees in one row.

    column, below, above: (nodes,) int64, threshold: (nodes,) float32; a row goes on to `below` where its column is at
    most the threshold; a leaf leads to itself. probabilities: (nodes, classes) float32 of a row that ends there.
    root: (trees,) int64. depth: of the deepest tree.
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
        """(B, F) float32 -> (B, classes), the mean over the trees."""
        at = self.root.expand(columns.shape[0], -1)
        for _ in range(self.depth):
            below = columns.gather(1, self.column[at]) <= self.threshold[at]
            at = self.below[at].where(below, self.above[at])
        return self.probabilities[at].mean(1)


class Member(nn.Module):
    """A network that sees some of the columns, by its own spec; puts out the logarithms of its probabilities.

    net: its config; features, feature_mean, feature_std: as in the `DataSpec` of its training.
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
        own = batch | {"features": batch["features"][:, self.columns]} if self.columns else batch
        return to_evidence(self.net(own).softmax(1))


class Ensemble(Net):
    """The mean of the members' logarithms of probabilities, plus those of a forest on the metadata.

    The sum takes networks and forest for witnesses that err apart (Hinton 2002, product of experts); calibration
    undoes what they have in common. members: the options of each `Member` but spec; forest: the options of `Forest`
    but classes, or None. Made of trained pieces, see `alerce_early.experiments.ensemble`.
    """

    def __init__(self, spec: DataSpec, members: Sequence[dict[str, Any]], forest: dict[str, int] | None = None):
        super().__init__(spec)
        self.members = nn.ModuleList(Member(spec, **member) for member in members)
        self.forest = Forest(**forest, classes=len(spec.classes)) if forest else None

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Take a batch as any `Net`; returns (B, classes) logits."""
        found = torch.stack([member(batch) for member in self.members]).mean(0)
        return found if self.forest is None else found + to_evidence(self.forest(batch["features"]))


def to_evidence(probabilities: Tensor) -> Tensor:
    """Return the logarithms of probabilities, none of which is nothing."""
    return probabilities.clamp_min(SMALLEST).log()
