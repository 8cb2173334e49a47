"""Plain convolutional networks for stamps, written as a list of layers in their yaml."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError
from alerce_early.models.net import Net, glorot


def _convolution(filters: str, side: str, padding: str = "valid") -> nn.Module:
    convolution = nn.LazyConv2d(int(filters), int(side))
    if padding == "valid":
        return convolution
    if padding != "same":
        raise ValueError(padding)
    before, after = (int(side) - 1) // 2, int(side) // 2  # as Keras: an even kernel's odd pixel is below and right
    return nn.Sequential(nn.ZeroPad2d((before, after, before, after)), convolution)


# What a layer's first word stands for; the words after it are the arguments. The lazy ones learn their number
# of inputs from the data.
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "conv": _convolution,
    "pool": lambda side="2": nn.MaxPool2d(int(side)),
    "flatten": nn.Flatten,
    "dense": lambda outputs: nn.LazyLinear(int(outputs)),
    "dropout": lambda share: nn.Dropout(float(share)),
    "relu": lambda: nn.ReLU(),
    "sigmoid": lambda: nn.Sigmoid(),
}


class StampCNN(Net):
    """The layers of a list, one after the other, and a dense layer to the classes.

    layers: each a few words, e.g. "conv 32 3" (filters, side of the kernel; "conv 32 3 same" keeps the size),
    "pool" (maximum over 2 x 2), "flatten", "dense 90", "dropout", "relu", "sigmoid". dropout: the share of a
    "dropout" that names none. Raises InputError for a layer that is not of this form, or stamps too small for
    the list.
    """

    def __init__(self, spec: DataSpec, layers: Sequence[str], dropout: float = 0.5):
        super().__init__(spec)
        told = [f"dropout {dropout}" if words == "dropout" else words for words in layers]
        self.layers = nn.Sequential(*map(_layer, told), nn.LazyLinear(len(spec.classes)))
        try:
            with torch.no_grad():
                self.layers.eval()(torch.zeros(1, *spec.shape))  # the lazy layers see their sizes
        except RuntimeError as error:
            raise InputError(f"layers: {', '.join(layers)} do not fit stamps of {spec.shape}: {error}") from None
        self.train()
        glorot(self)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """image (B, C, S, S) float32 -> (B, classes) logits."""
        return self.layers(batch["image"])


def _layer(words: str) -> nn.Module:
    name, *arguments = str(words).split()
    try:
        return LAYERS[name](*arguments)
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"layers: {words!r} is no layer; wanted {', '.join(LAYERS)} and their numbers, e.g. 'conv 32 3 same'."
        ) from None
