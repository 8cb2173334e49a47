"""Layer-wise relevance propagation: the contribution of each input value to a logit.

Bach et al. 2015, used for stamps by Reyes et al. 2018. Autograd propagates relevance divided by the value it belongs
to. In these units every operation that only moves, selects or averages values (rotation, padding, pooling, ReLU,
concatenation) propagates relevance by its ordinary gradient. So only layers with weights need a rule, and any network
made of these operations can be explained.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from alerce_early.errors import InputError

ALPHA, BETA = 2.0, 1.0
EPSILON = 1e-6

WEIGHTED_LAYERS = (nn.Conv2d, nn.Linear)
GRADIENT_LAYERS = (nn.ReLU, nn.LeakyReLU, nn.MaxPool2d, nn.ZeroPad2d, nn.Flatten, nn.Dropout, nn.Identity)

Rule = Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Relevance:
    """Relevance of the inputs for one logit per row.

    Parameters
    ----------
    logit : Tensor
        (B,) float32, of the predicted class.
    predicted : Tensor
        (B,) int64, the predicted class.
    parts : mapping of str to Tensor
        Relevance of each input, in its shape.
    biases : Tensor
        (B,) float32, relevance of the layers' biases.
    """

    logit: Tensor
    predicted: Tensor
    parts: Mapping[str, Tensor]
    biases: Tensor


def explain(
    net: nn.Module, batch: Mapping[str, Tensor], rule: str = "alpha_beta", neutral: Mapping[str, Tensor] | None = None
) -> Relevance:
    """Compute the relevance of each input value for the logit of the predicted class.

    Parameters
    ----------
    net : nn.Module
        In eval mode, made of `WEIGHTED_LAYERS`, `GRADIENT_LAYERS` and BatchNorm1d.
    batch : mapping of str to Tensor
        Inputs of the network, float32, with B rows.
    rule : {"alpha_beta", "epsilon"}
        Rule of the layers with weights.
    neutral : mapping of str to Tensor, optional
        Input values that carry no information; zero for the inputs that are not named.

    Returns
    -------
    Relevance
        Parts and biases sum to the logit within 1e-3 of it, the share lost to epsilon.

    Raises
    ------
    InputError
        If the rule is unknown, or there is none for a layer of the network.

    References
    ----------
    Bach et al. 2015, PLoS ONE 10, e0130140.
    """
    if rule not in RULES:
        raise InputError(f"--rule {rule}: unknown rule. Choose from {', '.join(RULES)}.")
    leaves = [module for module in net.modules() if not list(module.children())]
    known_layers = (*WEIGHTED_LAYERS, *GRADIENT_LAYERS, nn.BatchNorm1d)
    unknown = {type(leaf).__name__ for leaf in leaves if not isinstance(leaf, known_layers)}
    if unknown:
        raise InputError(f"{type(net).__name__}: relevance has no rule for {', '.join(sorted(unknown))}.")
    assert not net.training, "dropout and batch statistics would distort the relevance"

    inputs = {name: value.detach().requires_grad_() for name, value in batch.items()}
    rows = len(next(iter(inputs.values())))
    biases = torch.zeros(rows)

    def account(bias_relevance: Tensor) -> None:
        # a layer sees the rotations of a stamp as a larger batch, in the order of `rotate_quarters`
        biases.add_(bias_relevance.detach().cpu().flatten(1).sum(1).unflatten(0, (-1, rows)).sum(0))

    hooks = [
        leaf.register_forward_hook(
            partial(_hook, RULES[rule] if isinstance(leaf, WEIGHTED_LAYERS) else epsilon, account)
        )
        for leaf in leaves
        if isinstance(leaf, (*WEIGHTED_LAYERS, nn.BatchNorm1d))
    ]
    try:
        logit, predicted = net(inputs).max(1)
    finally:
        for hook in hooks:  # before the backward pass, in which the rules call the layers again
            hook.remove()
    gradients = torch.autograd.grad(logit.sum(), list(inputs.values()), allow_unused=True)
    parts = {}
    for (name, value), gradient in zip(inputs.items(), gradients, strict=True):
        if gradient is not None:
            parts[name] = (value.detach() - (neutral or {}).get(name, torch.zeros(()))) * gradient
    return Relevance(logit.detach(), predicted, parts, biases)


def epsilon(layer: Any, x: Tensor, z: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Propagate relevance in proportion to each input's share of the output, damped where the output is near zero.

    Parameters
    ----------
    layer : nn.Module
        An affine layer.
    x, z : Tensor
        Input and output of the layer.
    relevance : Tensor
        Relevance of the output, in the shape of `z`.

    Returns
    -------
    relevance_per_input : Tensor
        Relevance of the input divided by the input, in the shape of `x`.
    bias_relevance : Tensor
        Relevance of the bias, in the shape of `z`.
    """
    share = relevance / (z + EPSILON * torch.where(z < 0, -1.0, 1.0))
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (passed,) = torch.autograd.grad(layer(x), x, share)
    return passed, share * layer(torch.zeros_like(x))


def alpha_beta(layer: Any, x: Tensor, z: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Propagate positive and negative contributions separately, with weights alpha = 2 and -beta = -1.

    Where one of the two is missing, all relevance goes to the other, so that the total is conserved. Parameters and
    return values as for `epsilon`.
    """
    weight, bias = layer.weight, layer.bias if layer.bias is not None else torch.zeros(len(layer.weight))
    shape = (-1, *[1] * (z.ndim - 2)) if z.ndim > 2 else (-1,)

    def linear(values: Tensor, weights: Tensor) -> Tensor:
        return functional_call(layer, {"weight": weights, "bias": torch.zeros_like(bias)}, (values,))

    up, down = weight.detach().clamp(min=0), weight.detach().clamp(max=0)
    with torch.enable_grad():
        positive, negative = (x.detach().clamp(**side).requires_grad_() for side in ({"min": 0}, {"max": 0}))
        z_plus = linear(positive, up) + linear(negative, down)
        z_minus = linear(positive, down) + linear(negative, up)
        bias_plus, bias_minus = (bias.detach().clamp(**side).view(shape) for side in ({"min": 0}, {"max": 0}))
        total_plus, total_minus = z_plus.detach() + bias_plus, z_minus.detach() + bias_minus
        alpha = torch.where(total_minus == 0, 1.0, torch.where(total_plus == 0, 0.0, ALPHA))
        beta = alpha - 1
        share_plus = torch.where(total_plus == 0, 0.0, alpha * relevance / total_plus)
        share_minus = torch.where(total_minus == 0, 0.0, -beta * relevance / total_minus)
        gradients = torch.autograd.grad((z_plus, z_minus), (positive, negative), (share_plus, share_minus))
    return torch.where(x > 0, gradients[0], gradients[1]), share_plus * bias_plus + share_minus * bias_minus


RULES: dict[str, Rule] = {"alpha_beta": alpha_beta, "epsilon": epsilon}


class _Weighted(torch.autograd.Function):
    """Identity on a layer's output, with the layer's rule as backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, z: Tensor, layer: nn.Module, rule: Rule, account: Callable[[Tensor], None]
    ) -> Tensor:
        ctx.save_for_backward(x, z)
        ctx.layer, ctx.rule, ctx.account = layer, rule, account
        return z.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, z = ctx.saved_tensors
        relevance_per_input, bias_relevance = ctx.rule(ctx.layer, x, z, gradients[0] * z)
        ctx.account(bias_relevance)
        return relevance_per_input, None, None, None, None


def _hook(rule: Rule, account: Callable[[Tensor], None], layer: nn.Module, inputs: tuple[Tensor], z: Tensor) -> Tensor:
    return _Weighted.apply(inputs[0], z.detach(), layer, rule, account)
