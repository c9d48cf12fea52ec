"""Softmax and its logarithm, as functions of the differences x_i − x_j, which no shift of the inputs changes.

With d_i = x_i − x_j in [l_i − u_j, u_i − l_j] for i ≠ j, and q_j = 1 + Σ exp(d_i):
    softmax_j = 1 / q_j,    log softmax_j = −log q_j.
Each exp lies between its tangent at the middle of d_i and its chord, so q_j lies between two affine functions T and C.
g(q) = 1/q and g(q) = −log q are convex and fall, so
    g(q_j) ≥ g(m) + g'(m)·(C − m) for any m > 0, and the bound at the centre is greatest for m = C there,
    1/q_j ≤ 1/a − (T − a)/(a·b) where a ≤ q_j ≤ b,
and −log q_j, concave in x, is below its own tangent.  This is the exponential-reciprocal decomposition of Wei, Wu, Wu,
Chen, Barrett, Farchi 2023, "Convex bounds on the softmax function with applications to robustness verification".
Interval arithmetic gives the exact range: softmax_j is least if x_j is least and all others are greatest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedOp
from ..graph import Call
from ..interval import Interval
from ..relaxation import Images, LinearMap, Plane, Relaxation, Slope, pick
from .rule import Alphas, Nonlinear, Rule, UnaryRelaxRule, UnaryRule

aten = torch.ops.aten

STEEP = {torch.float32: 40.0, torch.float64: 300.0}
"""Largest differences for which exp and its square are finite; with a larger one the planes are level."""
LEAST = 5.0
"""Smallest m, as a logarithmic distance below C's value at the centre; steeper planes would round.  Chosen by hand."""


@dataclass(frozen=True)
class Along(LinearMap):
    """The map out_j = Σ_i matrix[j, i]·x_i along one axis."""

    matrix: Tensor
    """The matrices, [N, S, *other axes, K, K]."""
    axis: int
    """The axis, counted from the end."""

    @property
    def rows(self) -> int:
        return self.matrix.shape[1]

    def transpose(self, coef: Tensor) -> tuple[Tensor, ...]:
        last = coef.movedim(self.axis, -1).unsqueeze(-2)
        return ((last @ self.matrix).squeeze(-2).movedim(-1, self.axis),)

    def apply(self, *operands: Tensor | None) -> Tensor:
        (x,) = operands
        assert x is not None
        last = x.movedim(self.axis, -1).unsqueeze(-1)
        return (self.matrix @ last).squeeze(-1).movedim(-1, self.axis)

    def magnitude(self) -> Along:
        return Along(self.matrix.abs(), self.axis)

    def at(self, images: Images) -> Along:
        return Along(pick(self.matrix, images), self.axis)


def _axis(call: Call) -> int:
    """Return the axis of the sum, counted from the end.  Raises UnsupportedOp for the batch axis."""
    rank = len(call.shape) + 1
    axis = call["dim"] % rank
    if axis == 0:
        raise UnsupportedOp(f"{call.node.where()} mixes the images; the axis of a softmax must be another")
    return axis - rank


def _differences(x: Interval, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return l and u of x_i − x_j as [*, j, i], and the mask where i ≠ j."""
    low, high = x.lower.movedim(axis, -1), x.upper.movedim(axis, -1)
    size = low.shape[-1]
    others = ~torch.eye(size, dtype=torch.bool, device=low.device)
    least = low.unsqueeze(-2) - high.unsqueeze(-1)
    most = high.unsqueeze(-2) - low.unsqueeze(-1)
    return torch.where(others, least, 0.0), torch.where(others, most, 0.0), others


def _interval(logarithm: bool) -> UnaryRule[Interval, Interval]:
    def interval(call: Call, x: Interval) -> Interval:
        axis = _axis(call)
        least, most, _ = _differences(x, axis)
        if logarithm:
            low, high = -torch.logsumexp(most, -1), -torch.logsumexp(least, -1)
        else:
            low, high = (1 / d.exp().sum(-1) for d in (most, least))
        return Interval.between(low.movedim(-1, axis), high.movedim(-1, axis))

    return interval


@dataclass(frozen=True)
class _Sum:
    """The affine bounds T = 1 + Σ touch·d + touch_at and C = 1 + Σ rise·d + rise_at of q, [*, j, i]; a ≤ q ≤ b.

    center is C's value at the centre.
    """

    touch: Tensor
    touch_at: Tensor
    rise: Tensor
    rise_at: Tensor
    a: Tensor
    b: Tensor
    center: Tensor

    @classmethod
    def of(cls, least: Tensor, most: Tensor, others: Tensor) -> _Sum:
        middle, width = (least + most) / 2, most - least
        low, high, touch = least.exp(), most.exp(), middle.exp()
        narrow = width < torch.finfo(width.dtype).eps ** 0.5
        rise = torch.where(narrow, touch, (high - low) / torch.where(narrow, 1.0, width))
        at = torch.maximum(
            low - rise * least, high - rise * most
        )  # a chord through both ends is above a convex function
        touch, touch_at, rise, at, low, high = (
            torch.where(others, t, 0.0) for t in (touch, touch * (1 - middle), rise, at, low, high)
        )
        center = 1 + (rise * middle + at).sum(-1)
        return cls(touch, touch_at, rise, at, 1 + low.sum(-1), 1 + high.sum(-1), center)


def _jacobian(slope: Tensor, factor: Tensor) -> Tensor:
    """Return factor_j · Σ_i slope[j, i]·(x_i − x_j) as a matrix over x.  slope [*, j, i], factor [*, j]"""
    weighted = slope * factor.unsqueeze(-1)
    return weighted - torch.diag_embed(weighted.sum(-1))


def _range(q: _Sum) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest log m that may be chosen."""
    most = torch.maximum(q.b, q.center).log()
    return torch.minimum(torch.maximum(q.a.log(), q.center.log() - LEAST), most), most


def _lower(logarithm: bool, q: _Sum, alphas: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return matrix and bias of the lower plane."""
    m = q.center
    if alphas is not None:
        low, high = _range(q)
        m = (low + (high - low) * alphas).exp()
    value, fall = (-m.log(), -1 / m) if logarithm else (1 / m, -1 / m.square())
    return _jacobian(q.rise, fall), value + fall * (1 + q.rise_at.sum(-1) - m)


def _upper(logarithm: bool, q: _Sum) -> tuple[Tensor, Tensor]:
    """Return matrix and bias of the upper plane."""
    if logarithm:
        inside = 1 + q.touch.sum(-1)
        fall = -1 / inside
        return _jacobian(q.touch, fall), fall * (q.touch_at - q.touch).sum(-1) - inside.log()
    fall = -1 / (q.a * q.b)
    return _jacobian(q.touch, fall), 1 / q.a + fall * (1 + q.touch_at.sum(-1) - q.a)


def _relax(logarithm: bool) -> UnaryRelaxRule:
    exact = _interval(logarithm)

    def relax(call: Call, slope: Slope, alphas: Alphas, x: Interval) -> Relaxation:
        axis = _axis(call)
        least, most, others = _differences(x, axis)
        steep = STEEP.get(least.dtype, STEEP[torch.float32])
        small = ((most <= steep) & (least >= -steep)).all(-1)  # false for infinity and NaN
        inside = small.unsqueeze(-1)
        q = _Sum.of(torch.where(inside, least, 0.0), torch.where(inside, most, 0.0), others)
        alpha = alphas[0].movedim(axis, -1) if alphas else None
        ends = exact(call, x).overflow_as_infinite()
        bounded = torch.isfinite(x.lower) & torch.isfinite(x.upper)
        box = Interval(torch.where(bounded, x.lower, 0.0), torch.where(bounded, x.upper, 0.0))
        center = box.center.movedim(axis, -1).unsqueeze(-1)
        planes = []
        for (matrix, bias), end, sign in (
            (_lower(logarithm, q, alpha), ends.lower, 1),
            (_upper(logarithm, q), ends.upper, -1),
        ):
            end = end.movedim(axis, -1)
            better = small & (
                sign * ((matrix @ center).squeeze(-1) + bias) > sign * end
            )  # tighter than a level plane
            matrix = torch.where(better.unsqueeze(-1), matrix, 0.0)
            planes.append((matrix, torch.where(better, bias, end)))
        if slope is Slope.PARALLEL:
            planes = _of_one_slope(planes, center, box.radius.movedim(axis, -1).unsqueeze(-1))
        (low, low_bias), (high, high_bias) = planes
        below = Along(low, axis)
        above = below if high is low else Along(high, axis)
        return Relaxation(Plane(below, low_bias.movedim(-1, axis)), Plane(above, high_bias.movedim(-1, axis)))

    return relax


def _of_one_slope(
    planes: list[tuple[Tensor, Tensor]], center: Tensor, radius: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return both planes with the mean of their slopes, moved apart by the range of the difference over the box."""
    (low, low_bias), (high, high_bias) = planes
    shared, half = (low + high) / 2, (low - high) / 2
    shift, give = (half @ center).squeeze(-1), (half.abs() @ radius).squeeze(-1)
    return [(shared, low_bias + shift - give), (shared, high_bias - shift + give)]


def _alphas(call: Call, x: Interval) -> Alphas:
    """Return the position of m in its range, on a logarithmic scale."""
    axis = _axis(call)
    least, most, others = _differences(x, axis)
    steep = STEEP.get(least.dtype, STEEP[torch.float32])
    q = _Sum.of(least.clamp(-steep, steep), most.clamp(-steep, steep), others)
    low, high = _range(q)
    position = (q.center.log() - low) / torch.where(high > low, high - low, 1.0)
    return (position.clamp(0, 1).movedim(-1, axis),)


def _rule(logarithm: bool) -> Nonlinear:
    return Nonlinear(_interval(logarithm), _relax(logarithm), _alphas, elementwise=False)


RULES: dict[Any, Rule] = {
    aten.softmax.int: _rule(False),
    aten._softmax.default: _rule(False),
    aten.log_softmax.int: _rule(True),
    aten._log_softmax.default: _rule(True),
}
