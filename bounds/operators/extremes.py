"""The maximum or minimum of two tensors, element by element with broadcasting; one of them may be constant.

max(a, b) = a + relu(b − a), with d = b − a in [l, u] = [l_b − u_a, u_b − l_a] and λ = u / (u − l), the relu's chord:
    (1 − t)·a + t·b ≤ max(a, b) ≤ (1 − λ)·a + λ·b − λ·l   for any t in [0, 1].
If d has one sign, the maximum is one of the two.  min(a, b) = −max(−a, −b).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..graph import Call
from ..interval import Interval
from ..relaxation import Diagonal, Plane, Relaxation, Slope
from .rule import Alphas, AlphasRule, IntervalRule, Nonlinear, RelaxRule, Rule

aten = torch.ops.aten


def _both(call: Call, operands: tuple[Interval, ...], sign: int) -> tuple[Interval, Interval]:
    """Return the intervals of sign·self and sign·other; a constant is an interval of one number."""
    given = dict(zip(call.node.operands, operands, strict=True))
    like = operands[0].lower
    found = []
    for key in ("self", "other"):
        value = call.node.arguments[key]
        if call.is_operand(value):
            x = given[value.name]
        else:
            number = torch.as_tensor(call[key], dtype=like.dtype, device=like.device)
            x = Interval(number, number)
        found.append(x if sign > 0 else Interval(-x.upper, -x.lower))
    return found[0], found[1]


def _interval(sign: int) -> IntervalRule:
    def interval(call: Call, *operands: Interval) -> Interval:
        a, b = _both(call, operands, sign)
        low, high = torch.maximum(a.lower, b.lower), torch.maximum(a.upper, b.upper)
        return Interval(low, high) if sign > 0 else Interval(-high, -low)

    return interval


def _difference(a: Interval, b: Interval) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return l and u of b − a, the mask where its sign is undecided, and the weight of b where it is decided."""
    low, high = b.lower - a.upper, b.upper - a.lower
    return low, high, (low < 0) & (high > 0), (low >= 0).to(low.dtype)


def _greater_center(a: Interval, b: Interval) -> Tensor:
    """Return 1 if b has the greater centre, otherwise 0."""
    return ((b.lower + b.upper) >= (a.lower + a.upper)).to(a.lower.dtype)


def _relax(sign: int) -> RelaxRule:
    def relax(call: Call, slope: Slope, alphas: Alphas, *operands: Interval) -> Relaxation:
        a, b = _both(call, operands, sign)
        low, high, undecided, decided_weight = _difference(a, b)
        width = torch.where(undecided, high - low, 1.0)
        chord_weight = torch.where(undecided, high / width, decided_weight)
        bias = torch.where(undecided, -chord_weight * low, 0.0)
        choice = alphas[0] if alphas else _greater_center(a, b)
        lower_weight = torch.where(
            undecided, chord_weight if slope is Slope.PARALLEL else choice, decided_weight
        )
        # (1 − λ)·a + λ·b itself is below max(a, b), so both planes may share the chord's weights
        lower = _plane(call, operands, (a, b), sign, lower_weight, torch.zeros_like(bias))
        upper = _plane(call, operands, (a, b), sign, chord_weight, bias)
        if slope is Slope.PARALLEL:
            upper = Plane(lower.map, upper.bias)
        return Relaxation(lower, upper) if sign > 0 else Relaxation(upper, lower)

    return relax


def _plane(
    call: Call,
    operands: tuple[Interval, ...],
    both: tuple[Interval, Interval],
    sign: int,
    weight_of_other: Tensor,
    bias: Tensor,
) -> Plane:
    """Return the plane sign·((1 − w)·a + w·b + bias), w being `weight_of_other`; constants go into the bias."""
    slopes: dict[str, Tensor] = {}
    bias = sign * bias
    for key, x, weight in zip(("self", "other"), both, (1 - weight_of_other, weight_of_other), strict=True):
        value = call.node.arguments[key]
        if call.is_operand(value):
            slopes[value.name] = slopes[value.name] + weight if value.name in slopes else weight
        else:
            bias = bias + sign * weight * x.lower
    return Plane(Diagonal(tuple(slopes[name] for name in call.node.operands), call.shapes), bias)


def _alphas(sign: int) -> AlphasRule:
    def alphas(call: Call, *operands: Interval) -> Alphas:
        a, b = _both(call, operands, sign)
        return (_greater_center(a, b),)

    return alphas


def _rule(sign: int) -> Nonlinear:
    return Nonlinear(_interval(sign), _relax(sign), _alphas(sign), elementwise=False, variadic=True)


RULES: dict[Any, Rule] = {
    aten.maximum.default: _rule(1),
    aten.minimum.default: _rule(-1),
    aten.max.other: _rule(1),
    aten.min.other: _rule(-1),
}
