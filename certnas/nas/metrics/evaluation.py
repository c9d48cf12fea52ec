"""The network as a metric sees it: evaluated without a trace left on it, no weight spent on `none`."""

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
"""Batch normalisation by the statistics of the batch, or by the running ones."""
FAR = 1e3
"""exp(−FAR) is 0 in every floating type."""


def without_none(network: nn.Module) -> dict[str, Tensor]:
    """A supernet's α, by parameter name, with all of the softmax's mass taken off `none`; {} for other networks.

    softmax(α')_o = softmax(α)_o / Σ_{o' ≠ none} softmax(α)_o' and softmax(α')_none = 0, exactly: `none` is never
    derived, so mass on it would shrink every bound, derivative and curvature without changing the cell that is
    found.  R has then no derivative in α_none.  α' [E,O]
    """
    if not isinstance(network, Supernet):
        return {}
    found = {}
    for kind, rows in network.candidates.items():
        alpha: Tensor = getattr(network, f"alpha_{kind}")
        none = torch.tensor([[op == "none" for op in row] for row in rows], device=alpha.device)
        if bool(none.any()):
            below = alpha.detach().amin(1, keepdim=True) - FAR
            found[f"alpha_{kind}"] = torch.where(none, below, alpha)
    return found


@contextmanager
def normalising(network: nn.Module, bn: str) -> Iterator[None]:
    """Within: evaluation mode, but batch normalisations by batch statistics for bn = `batch`.  Modes are restored."""
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
    """Within: f, x [N,...] -> logits [N,K], differentiable in the network's parameters; its buffers stay as they are.

    `none` has no weight unless keep_none.  Of several outputs the first is taken.
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
    """∂loss/∂x without a side effect on any `.grad`.  x [N,C,H,W], loss scalar -> [N,C,H,W]"""
    (gradient,) = torch.autograd.grad(loss, x, create_graph=differentiable)
    return gradient
