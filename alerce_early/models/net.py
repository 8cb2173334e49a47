"""What the framework asks of a network."""

from torch import Tensor, nn

from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError


class Net(nn.Module):
    """A network that is told the facts of its data and takes a batch as a dict.

    forward: {"image": (B, C, H, W) float32, "features": (B, F) float32 unscaled, ...} -> z, (B, classes)
    float32 logits, dimensionless, unless a subclass says otherwise.

    `kind` is the kind of data the network is for; a wrong pair is refused here, before any work.
    """

    kind = "stamps"

    def __init__(self, spec: DataSpec):
        super().__init__()
        if spec.kind != self.kind:
            raise InputError(
                f"{type(self).__name__} needs {self.kind}; {spec.origin} holds {spec.kind} {spec.shape}. "
                f"Try {'data=simulated' if self.kind == 'stamps' else 'data=sdss_simulated'}."
            )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError
