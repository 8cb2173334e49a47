"""Plain convolutional networks for stamps, given as a list of layers in their yaml."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from alerce_early.data.spec import DataSpec
from alerce_early.errors import InputError
from alerce_early.models.net import Net, init_glorot


def _convolution(x: Tensor, filters: str, side: str, padding: str = "valid") -> nn.Module:
    convolution = nn.Conv2d(x.shape[1], int(filters), int(side))
    if padding == "valid":
        return convolution
    if padding != "same":
        raise ValueError(padding)
    before, after = (int(side) - 1) // 2, int(side) // 2  # as in Keras, even kernels pad more below and right
    return nn.Sequential(nn.ZeroPad2d((before, after, before, after)), convolution)


# The first word of a layer names its function here, which gets the layer's input and the remaining words.
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
    """A sequence of layers, followed by a dense layer to the classes.

    Parameters
    ----------
    spec : DataSpec
        Shape and classes of the data.
    layers : sequence of str
        Each a few words: "conv 32 3" (filters and side of the kernel; "conv 32 3 same" keeps the size), "pool"
        (maximum over 2 x 2 pixels), "flatten", "dense 90", "dropout", "relu", "sigmoid".
    dropout : float
        Probability of each "dropout" without a number of its own, in [0, 1).

    Raises
    ------
    InputError
        If a layer is not of this form, or the stamps are too small for the sequence.
    """

    def __init__(self, spec: DataSpec, layers: Sequence[str], dropout: float = 0.5):
        super().__init__(spec)
        described = [f"dropout {dropout}" if words == "dropout" else words for words in layers]
        self.layers, x = nn.Sequential(), torch.zeros(1, *spec.shape)
        try:
            for words in (*described, f"dense {len(spec.classes)}"):
                self.layers.append(layer := _layer(words, x))
                x = _infer_output(layer, x)
        except RuntimeError as error:
            raise InputError(f"layers: {', '.join(layers)} do not fit stamps of {spec.shape}: {error}") from None
        init_glorot(self)
        self.to(memory_format=torch.channels_last)  # a seventh faster in training on a CPU

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute logits (B, classes) from ``image`` (B, C, S, S) float32."""
        return self.layers(batch["image"])


@torch.no_grad()
def _infer_output(layer: nn.Module, x: Tensor) -> Tensor:
    """Return a tensor of the layer's output shape.

    Layers with an obvious output shape are not run: for a meta tensor, with which a checkpoint is opened first, torch
    would import its compiler, at a cost of 128 MiB.
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
            f"layers: {words!r} is not a layer. Choose from {', '.join(LAYERS)}, with numbers: 'conv 32 3 same'."
        ) from None
