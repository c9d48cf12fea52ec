"""Networks of DARTS cells with random weights, and the looseness of their bounds."""

import torch
from torch import Tensor, nn

import bounds
from certnas.nas.space import DiscreteNetwork

WARMING = 20


def warmed(network: DiscreteNetwork, shape: tuple[int, int, int], batch: int) -> nn.Module:
    """The network in evaluation mode, with batch-norm statistics of uniform random images [C, H, W]."""
    network.train()
    with torch.no_grad():
        for _ in range(WARMING):
            network(torch.rand(batch, *shape))
    return network.eval().requires_grad_(False)


def linear_width(network: bounds.Network, x: Tensor, eps: float) -> Tensor:
    """2 ε ‖∇f_k‖₁: the width of each logit's range over the l∞ ball if f were linear around x [N, *shape]. [N, K]"""
    point = x.clone().requires_grad_(True)
    logits = network(point)
    slopes = [torch.autograd.grad(column.sum(), point, retain_graph=True)[0] for column in logits.unbind(1)]
    return 2 * eps * torch.stack([slope.abs().flatten(1).sum(1) for slope in slopes], 1)


def looseness(lower: Tensor, upper: Tensor, linear: Tensor) -> float:
    """The mean over images and logits of (bound width / local-linear width), all [N, K]."""
    return float(((upper - lower) / linear).mean())
