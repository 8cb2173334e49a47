"""Base class of every network, and its weight initialisation."""

from torch import Tensor, nn

from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError

EXAMPLE_DATA = {"stamps": "simulated", "spectra": "sdss_simulated"}
EXAMPLE_MODELS = {"stamps": "rotinv", "spectra": "spectra_class"}


class Net(nn.Module):
    """Base class of networks: built from the spec of its data, called with a batch as a dict.

    Parameters
    ----------
    spec : DataSpec
        Shape, classes and metadata columns of the data.

    Attributes
    ----------
    kind : {"stamps", "spectra"}
        Kind of data the network is for.

    Raises
    ------
    InputError
        If `spec` describes data of another kind.
    """

    kind = "stamps"

    def __init__(self, spec: DataSpec):
        super().__init__()
        self.check(spec.kind, spec.origin)

    @classmethod
    def check(cls, kind: str, holder: str) -> None:
        """Refuse data that the network is not for.

        Parameters
        ----------
        kind : {"stamps", "spectra"}
            Kind of the data.
        holder : str
            Where the data come from, as the error message names it.

        Raises
        ------
        InputError
            If `kind` is not the network's.
        """
        if kind != cls.kind:
            advice = f"Choose a network for {kind} with model={EXAMPLE_MODELS[kind]}, or data={EXAMPLE_DATA[cls.kind]}"
            raise InputError(f"{holder} contains {kind}, but {cls.__name__} needs {cls.kind}. {advice}.")

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute the logits of a batch.

        Parameters
        ----------
        batch : dict of str to Tensor
            ``image`` (B, C, H, W) float32 and, if the spec names columns, ``features`` (B, F) float32, unscaled.

        Returns
        -------
        Tensor
            Logits (B, classes), float32, unless a subclass overrides this.
        """
        raise NotImplementedError


def init_glorot(net: nn.Module) -> None:
    """Initialise all weights by Glorot's uniform rule and all biases with zero, as the published networks did.

    With torch's default the signal shrinks from layer to layer: a network of eight layers then gives the same output
    for every stamp, and its first epochs are lost.

    References
    ----------
    Glorot & Bengio 2010, AISTATS, 249.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
