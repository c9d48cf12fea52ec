"""Evaluation of a network for a metric: modes, buffers and gradients stay unchanged, and `none` gets no weight."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from certnas.nas.metrics.linear import LinearLayers
from certnas.nas.space.supernet import Supernet

Classifier = Callable[[Tensor], Tensor]
BN = ("batch", "running")
"""Choices of batch-norm statistics: those of the batch, or the running ones."""
MASKED = 1e3
"""How far below the other α's a masked one lies: exp(−MASKED) is 0 in every floating type."""


def without_none(network: nn.Module) -> dict[str, Tensor]:
    """The architecture variables α of a supernet with `none` masked, by parameter name; {} for other networks.

    The masked α' satisfies softmax(α')_o = softmax(α)_o / Σ_{o' ≠ none} softmax(α)_o' and softmax(α')_none
    = 0 exactly. A derived cell never contains `none`, so weight on it would shrink every bound, derivative
    and curvature without changing the cell. R has no derivative with respect to α_none. α' [E,O]
    """
    if not isinstance(network, Supernet):
        return {}
    found = {}
    for kind, rows in network.candidates.items():
        alpha: Tensor = getattr(network, f"alpha_{kind}")
        none = torch.tensor([[op == "none" for op in row] for row in rows], device=alpha.device)
        if bool(none.any()):
            below = alpha.detach().amin(1, keepdim=True) - MASKED
            found[f"alpha_{kind}"] = torch.where(none, below, alpha)
    return found


@contextmanager
def normalising(network: nn.Module, bn: str) -> Iterator[None]:
    """Context manager: evaluation mode, with batch statistics for bn = `batch`. The modes are restored on
    exit.
    """
    modes = {module: module.training for module in network.modules()}
    try:
        for module in modes:
            module.training = bn == "batch" and isinstance(module, _BatchNorm)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def classifier(network: nn.Module, bn: str, *, keep_none: bool = False) -> Iterator[Classifier]:
    """Context manager that yields f: x [N,...] -> logits [N,K], differentiable in the network's parameters.

    The network's buffers do not change. `none` has no weight unless `keep_none`. If the network returns
    several outputs, f returns the first.
    """
    replaced = {name: buffer.clone() for name, buffer in network.named_buffers()}
    if not keep_none:
        replaced |= without_none(network)

    def f(x: Tensor) -> Tensor:
        with LinearLayers():
            out = functional_call(network, replaced, (x,))
        return out[0] if isinstance(out, tuple) else out

    with normalising(network, bn):
        yield f


def input_gradient(loss: Tensor, x: Tensor, *, differentiable: bool) -> Tensor:
    """∂loss/∂x, without a side effect on any `.grad`. x [N,C,H,W], scalar loss -> [N,C,H,W]"""
    (gradient,) = torch.autograd.grad(loss, x, create_graph=differentiable)
    return gradient
