"""What the framework asks of a network."""

from torch import Tensor, nn

from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError

EXAMPLES = {"stamps": "simulated", "spectra": "sdss_simulated"}  # a data set of each kind
MODELS = {"stamps": "rotinv", "spectra": "spectra_class"}  # and a network for it


class Net(nn.Module):
    """A network that knows the spec of its data and takes a batch as a dict.

    forward: {"image": (B, C, H, W) float32, "features": (B, F) float32 unscaled, ...} -> z, (B, classes)
    float32 logits, dimensionless, unless a subclass says otherwise.

    `kind` is the kind of data the network is for; a wrong pair is refused here, before any work.
    """

    kind = "stamps"

    def __init__(self, spec: DataSpec):
        super().__init__()
        self.check(spec.kind, spec.origin)

    @classmethod
    def check(cls, kind: str, holder: str) -> None:
        """Raise InputError if data of this kind, held by what holder says, is not what this network is for."""
        if kind != cls.kind:
            advice = f"Choose a network for {kind} with model={MODELS[kind]}, or data={EXAMPLES[cls.kind]}"
            raise InputError(f"{holder} holds {kind}, and {cls.__name__} needs {cls.kind}. {advice}.")

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError


def glorot(net: nn.Module) -> None:
    """Start all weights as the published networks did (Glorot & Bengio 2010, uniform), biases at zero.

    Torch's own start shrinks the signal from layer to layer: a net of eight layers then sees every stamp
    alike and its first epochs are lost.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
