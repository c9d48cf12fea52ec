"""Points of a region at which rows of a network's output are low or high: no sound bound is beyond them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from certnas import bounds

Function = Callable[[Tensor], Tensor]
STEPS = 10


@dataclass(frozen=True)
class Reached:
    """The least and the greatest value of every row at the points that were tried.  [N, S] each"""

    lower: Tensor
    upper: Tensor


def lowest_point(region: bounds.Region, direction: Tensor) -> Tensor:
    """argmin over R of ⟨direction, x'⟩, which is the derivative of that minimum.  [N, S, *shape] -> the same"""
    with torch.enable_grad():
        coef = direction.detach().requires_grad_()
        (point,) = torch.autograd.grad(region.minimum(coef).sum(), coef)
    return point.detach()


def reached(
    function: Function, region: bounds.Region, rows: Tensor, *, samples: int = 100, seed: int = 0
) -> Reached:
    """The extremes of rows·f at random points of R, at its extreme points, and along Frank-Wolfe descents (1956).

    function maps [N, *shape] to [N, K] in the region's dtype; rows [N, S, K].  The same for the same seed.
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
    """rows·f at points [N, P, *shape] -> [N, P, S]"""
    with torch.no_grad():
        outputs = function(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    return outputs @ rows.transpose(1, 2)


def _descended(function: Function, region: bounds.Region, rows: Tensor) -> Tensor:
    """The least value of each row on its own descent from the centre.  [N, S]"""
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
