"""Layer-wise relevance propagation: how much of a logit each input value accounts for.

Bach et al. 2015; as used for stamps by Reyes et al. 2018. Autograd carries relevance divided by the value it belongs
to. In these units whatever only moves, picks or averages values (turns, padding, pooling, the mean over turns,
ReLU, side by side) propagates relevance by its ordinary gradient, a mean as average pooling does, so that only
layers that weigh their inputs need a rule, and any network made of them can be explained.
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

WEIGHTED = (nn.Conv2d, nn.Linear)
PASSED_ON = (nn.ReLU, nn.LeakyReLU, nn.MaxPool2d, nn.ZeroPad2d, nn.Flatten, nn.Dropout, nn.Identity)

Rule = Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Relevance:
    """Of one logit a row: predicted (B,) int64 says of which; logit and biases (B,); parts in the inputs' shapes."""

    logit: Tensor
    predicted: Tensor
    parts: Mapping[str, Tensor]
    biases: Tensor


def explain(
    net: nn.Module, batch: Mapping[str, Tensor], rule: str = "alpha_beta", neutral: Mapping[str, Tensor] | None = None
) -> Relevance:
    """Relevance of the inputs of a batch, row by row, for the logit of the predicted class.

    net: in eval mode, made of the layers of `WEIGHTED`, `PASSED_ON` and BatchNorm1d; batch: its inputs, float32;
    rule: of `RULES`; neutral: the value of an input that counts as none of it, by name, zero where not given.
    parts + biases sum to the logit, up to what epsilon takes: under 1e-3 of it. Biases are relevance that no input
    accounts for; they come from every layer. Raises InputError for a layer without a rule or a rule not known.
    """
    if rule not in RULES:
        raise InputError(f"--rule {rule} is unknown; wanted one of {', '.join(RULES)}.")
    leaves = [module for module in net.modules() if not list(module.children())]
    strange = {type(m).__name__ for m in leaves if not isinstance(m, (*WEIGHTED, *PASSED_ON, nn.BatchNorm1d))}
    if strange:
        raise InputError(f"relevance has no rule for {', '.join(sorted(strange))} of {type(net).__name__}.")
    assert not net.training, "dropout and batch statistics would be explained instead"

    inputs = {name: value.detach().requires_grad_() for name, value in batch.items()}
    rows = len(next(iter(inputs.values())))
    biases = torch.zeros(rows)

    def account(of_bias: Tensor) -> None:
        # a layer sees the turns of a stamp as a larger batch, all rows of turn 0 first
        biases.add_(of_bias.detach().cpu().flatten(1).sum(1).unflatten(0, (-1, rows)).sum(0))

    hooks = [
        leaf.register_forward_hook(partial(_hook, RULES[rule] if isinstance(leaf, WEIGHTED) else epsilon, account))
        for leaf in leaves
        if isinstance(leaf, (*WEIGHTED, nn.BatchNorm1d))
    ]
    try:
        logit, predicted = net(inputs).max(1)
    finally:
        for hook in hooks:  # before the backward pass, in which rules call the layers once more
            hook.remove()
    gradients = torch.autograd.grad(logit.sum(), list(inputs.values()), allow_unused=True)
    parts = {}
    for (name, value), gradient in zip(inputs.items(), gradients, strict=True):
        if gradient is not None:
            parts[name] = (value.detach() - (neutral or {}).get(name, torch.zeros(()))) * gradient
    return Relevance(logit.detach(), predicted, parts, biases)


def epsilon(layer: Any, x: Tensor, z: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Each input by its share of what the output sums up, softened by epsilon where that is about zero.

    layer: any affine one. x: its input; z: its output; relevance: of z. Returns relevance / x, in the shape of x, and
    the relevance of the bias, in the shape of z.
    """
    share = relevance / (z + EPSILON * torch.where(z < 0, -1.0, 1.0))
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (passed,) = torch.autograd.grad(layer(x), x, share)
    return passed, share * layer(torch.zeros_like(x))


def alpha_beta(layer: Any, x: Tensor, z: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Return what speaks for and what against the output, apart: alpha = 2 of the one, minus beta = 1 of the other.

    Where nothing speaks against (or for), all of the relevance goes to the rest, so that none is made or lost.
    Arguments and result as those of `epsilon`.
    """
    weight, bias = layer.weight, layer.bias if layer.bias is not None else torch.zeros(len(layer.weight))
    shape = (-1, *[1] * (z.ndim - 2)) if z.ndim > 2 else (-1,)

    def linear(values: Tensor, weights: Tensor) -> Tensor:
        return functional_call(layer, {"weight": weights, "bias": torch.zeros_like(bias)}, (values,))

    up, down = weight.detach().clamp(min=0), weight.detach().clamp(max=0)
    with torch.enable_grad():
        positive, negative = (x.detach().clamp(**side).requires_grad_() for side in ({"min": 0}, {"max": 0}))
        speaks_for = linear(positive, up) + linear(negative, down)
        speaks_against = linear(positive, down) + linear(negative, up)
        bias_for, bias_against = (bias.detach().clamp(**side).view(shape) for side in ({"min": 0}, {"max": 0}))
        total_for, total_against = speaks_for.detach() + bias_for, speaks_against.detach() + bias_against
        alpha = torch.where(total_against == 0, 1.0, torch.where(total_for == 0, 0.0, ALPHA))
        beta = alpha - 1
        share_for = torch.where(total_for == 0, 0.0, alpha * relevance / total_for)
        share_against = torch.where(total_against == 0, 0.0, -beta * relevance / total_against)
        passed = torch.autograd.grad((speaks_for, speaks_against), (positive, negative), (share_for, share_against))
    return torch.where(x > 0, passed[0], passed[1]), share_for * bias_for + share_against * bias_against


RULES: dict[str, Rule] = {"alpha_beta": alpha_beta, "epsilon": epsilon}


class _Weighted(torch.autograd.Function):
    """The identity on a layer's output, whose backward pass is a rule for the layer."""

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
        passed, of_bias = ctx.rule(ctx.layer, x, z, gradients[0] * z)
        ctx.account(of_bias)
        return passed, None, None, None, None


def _hook(rule: Rule, account: Callable[[Tensor], None], layer: nn.Module, inputs: tuple[Tensor], z: Tensor) -> Tensor:
    return _Weighted.apply(inputs[0], z.detach(), layer, rule, account)
