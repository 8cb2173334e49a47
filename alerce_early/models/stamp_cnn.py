"""Plain convolutional networks for stamps, written as a list of layers in their yaml."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError
from alerce_early.models.net import Net, glorot


def _convolution(x: Tensor, filters: str, side: str, padding: str = "valid") -> nn.Module:
    convolution = nn.Conv2d(x.shape[1], int(filters), int(side))
    if padding == "valid":
        return convolution
    if padding != "same":
        raise ValueError(padding)
    before, after = (int(side) - 1) // 2, int(side) // 2  # as Keras: an even kernel's odd pixel is below and right
    return nn.Sequential(nn.ZeroPad2d((before, after, before, after)), convolution)


# What a layer's first word stands for; the words after it are the arguments. Before them comes what the layer is given,
# which tells the number of its inputs.
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "conv": _convolution,
    "pool": lambda x, side="2": nn.MaxPool2d(int(side)),
    "flatten": lambda x: nn.Flatten(),
    "dense": lambda x, outputs: nn.Linear(x.shape[-1], int(outputs)),
    "dropout": lambda x, share: nn.Dropout(float(share)),
    "relu": lambda x: nn.ReLU(),
    "sigmoid": lambda x: nn.Sigmoid(),
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
        described = [f"dropout {dropout}" if words == "dropout" else words for words in layers]
        self.layers, x = nn.Sequential(), torch.zeros(1, *spec.shape)
        try:
            for words in (*described, f"dense {len(spec.classes)}"):
                self.layers.append(layer := _layer(words, x))
                x = _put_out(layer, x)
        except RuntimeError as error:
            raise InputError(f"layers: {', '.join(layers)} do not fit stamps of {spec.shape}: {error}") from None
        glorot(self)
        self.to(memory_format=torch.channels_last)  # a seventh faster in training on a CPU

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """image (B, C, S, S) float32 -> (B, classes) logits."""
        return self.layers(batch["image"])


@torch.no_grad()
def _put_out(layer: nn.Module, x: Tensor) -> Tensor:
    """Something of the shape that a layer makes of x.

    The layers whose shapes are plain do not run: of a tensor without data, with which an opened checkpoint is first
    tried, torch would for these import its compiler, which takes an eighth of a gibibyte.
    """
    if isinstance(layer, nn.Linear):
        return x.new_zeros(*x.shape[:-1], layer.out_features)
    return x if isinstance(layer, nn.ReLU | nn.Sigmoid | nn.Dropout) else layer(x)


def _layer(words: str, x: Tensor) -> nn.Module:
    name, *arguments = str(words).split()
    try:
        return LAYERS[name](x, *arguments)
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"layers: {words!r} is no layer; wanted {', '.join(LAYERS)} and their numbers, e.g. 'conv 32 3 same'."
        ) from None
