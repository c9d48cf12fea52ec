"""Points of a region where outputs of a network are low or high; a sound bound includes them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from certnas import bounds

Function = Callable[[Tensor], Tensor]
STEPS = 10
"""Number of steps of a Frank-Wolfe descent."""


@dataclass(frozen=True)
class Reached:
    """The extreme values of each specification row over the points tried. [N, S] each"""

    lower: Tensor
    """The smallest value."""
    upper: Tensor
    """The largest value."""


def lowest_point(region: bounds.Region, direction: Tensor) -> Tensor:
    """argmin over the region of ⟨direction, x'⟩, which is the derivative of that minimum.

    [N, S, *shape] -> [N, S, *shape]
    """
    with torch.enable_grad():
        coef = direction.detach().requires_grad_()
        (point,) = torch.autograd.grad(region.minimum(coef).sum(), coef)
    return point.detach()


def reached(
    function: Function, region: bounds.Region, rows: Tensor, *, samples: int = 100, seed: int = 0
) -> Reached:
    """The extreme values of rows·f over random points, extreme points and Frank-Wolfe descents (1956) in the region.

    function maps [N, *shape] to [N, K] in the region's dtype; rows is [N, S, K]. The result is a function
    of the seed.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    x = region.x.detach()
    region = region.detach()
    shape = (len(x), samples, *x.shape[1:])
    normal = torch.randn(shape, generator=generator, dtype=torch.float64).to(x)
    sparse = normal * (torch.rand(shape, generator=generator, dtype=torch.float64).to(x) < 0.2)
    share = torch.rand(shape[:2], generator=generator, dtype=torch.float64).to(x) ** 0.2
    share = share.reshape(*shape[:2], *[1] * (x.dim() - 1))
    corners = torch.cat([lowest_point(region, normal), lowest_point(region, sparse)], 1)
    inside = x.unsqueeze(1) + share * (corners[:, :samples] - x.unsqueeze(1))
    tried = torch.cat([x.unsqueeze(1), corners, inside], 1)
    values = _values(function, tried, rows)
    lower, upper = values.amin(1), values.amax(1)
    lower = torch.minimum(lower, _descended(function, region, rows))
    upper = torch.maximum(upper, -_descended(function, region, -rows))
    return Reached(lower, upper)


def _values(function: Function, points: Tensor, rows: Tensor) -> Tensor:
    """rows·f at points [N, P, *shape]. [N, P, S]"""
    with torch.no_grad():
        outputs = function(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    return outputs @ rows.transpose(1, 2)


def _descended(function: Function, region: bounds.Region, rows: Tensor) -> Tensor:
    """The smallest value of each row along its own descent from the centre. [N, S]"""
    count = rows.shape[1]
    point = region.x.detach().unsqueeze(1).expand(-1, count, *region.x.shape[1:]).clone()
    best = torch.full(rows.shape[:2], torch.inf, dtype=rows.dtype, device=rows.device)
    for step in range(STEPS):
        with torch.enable_grad():
            leaf = point.detach().requires_grad_()
            values = (function(leaf.flatten(0, 1)).unflatten(0, leaf.shape[:2]) * rows).sum(-1)
            (slope,) = torch.autograd.grad(values.sum(), leaf)
        best = torch.minimum(best, values.detach())
        corner = lowest_point(region, slope)
        at_corner = (function(corner.flatten(0, 1)).unflatten(0, corner.shape[:2]) * rows).sum(-1).detach()
        best = torch.minimum(best, at_corner)
        point = point + 2 / (step + 2) * (corner - point)
    return best
