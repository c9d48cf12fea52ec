"""The product of two perturbed tensors, element by element, with broadcasting, relaxed by McCormick's planes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import Call
from ..interval import Interval
from ..patch import ELEMENTWISE
from ..relaxation import Diagonal, Plane, Relaxation, Slope
from .rule import Alphas, Nonlinear


def _corners(x: Interval, y: Interval) -> Tensor:
    return torch.stack([x.lower * y.lower, x.lower * y.upper, x.upper * y.lower, x.upper * y.upper])


def _interval(call: Call, *operands: Interval) -> Interval:
    corners = _corners(*operands)
    return Interval(corners.amin(0), corners.amax(0))


def _relax(call: Call, slope: Slope, alphas: Alphas, *operands: Interval) -> Relaxation:
    x, y = operands
    shapes = (tuple(x.lower.shape[2:]), tuple(y.lower.shape[2:]))
    out = torch.broadcast_shapes(x.lower.shape, y.lower.shape)
    lx, ux, ly, uy = (t.expand(out) for t in (x.lower, x.upper, y.lower, y.upper))
    if slope is Slope.PARALLEL:
        # x·y = my·x + mx·y − mx·my ± rx·ry around the centres
        mx, my, error = x.center.expand(out), y.center.expand(out), (x.radius * y.radius).expand(out)
        both = Diagonal((my, mx), shapes)
        return Relaxation(Plane(both, -mx * my - error), Plane(both, -mx * my + error))
    t, s = alphas if alphas else (0.5, 0.5)
    lower = Diagonal((t * ly + (1 - t) * uy, t * lx + (1 - t) * ux), shapes)
    upper = Diagonal((s * uy + (1 - s) * ly, s * lx + (1 - s) * ux), shapes)
    return Relaxation(
        Plane(lower, -t * lx * ly - (1 - t) * ux * uy),
        Plane(upper, -s * lx * uy - (1 - s) * ux * ly),
    )


def _alphas(call: Call, *operands: Interval) -> Alphas:
    x, y = operands
    half = torch.full(
        torch.broadcast_shapes(x.lower.shape, y.lower.shape), 0.5, dtype=x.lower.dtype, device=x.lower.device
    )
    return half, half.clone()


PRODUCT = Nonlinear(_interval, _relax, _alphas, elementwise=False, variadic=True, patches=ELEMENTWISE)
