"""Functions of two straight pieces that meet at zero: relu, leaky relu, prelu, abs.

f(x) = max(a·x, x) for a ≤ 1 (convex) and min(a·x, x) for a > 1 (concave), with a = 0, the negative slope, or −1.
On [l, u] with l < 0 < u the chord bounds f on one side, and any line s·x with s between the two slopes on the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..graph import Call
from ..interval import Interval
from ..patch import ELEMENTWISE
from ..relaxation import Relaxation, Slope, sandwich
from .rule import Alphas, Nonlinear, Rule, UnaryRelaxRule, UnaryRule

aten = torch.ops.aten
NegativeSlope = Callable[[Call], float | Tensor]
"""Returns the slope a for x < 0."""


def _value(x: Tensor, a: float | Tensor) -> Tensor:
    return torch.where(x > 0, x, a * x)


def _interval(negative: NegativeSlope) -> UnaryRule[Interval, Interval]:
    def interval(call: Call, x: Interval) -> Interval:
        a = negative(call)
        low, high = _value(x.lower, a), _value(x.upper, a)
        zero = torch.where((x.lower < 0) & (x.upper > 0), torch.zeros_like(low), low)
        return Interval(
            torch.minimum(torch.minimum(low, high), zero), torch.maximum(torch.maximum(low, high), zero)
        )

    return interval


def _relu_interval(call: Call, x: Interval) -> Interval:
    """Return the interval of relu(c ± r) with upper end u = relu(c + r) and radius min(r, u/2), in full precision.

    The radius is computed as r₊ − relu(r₊ − u/2), with r₊ = r if u > 0 and 0 otherwise, because a minimum takes twenty
    times as long.
    """
    if not x.is_ball:
        return _interval(_zero_slope)(call, x)
    upper = torch.relu(x.center + x.radius)
    radius = aten.threshold_backward.default(x.radius, upper, 0)
    radius = radius - torch.relu(torch.sub(radius, upper, alpha=0.5))
    return Interval.around(upper - radius, radius)


def _unstable(call: Call, x: Interval) -> tuple[Tensor, ...]:
    return ((x.lower < 0) & (x.upper > 0),)


def chord(l: Tensor, u: Tensor, a: float | Tensor) -> Tensor:  # noqa: E741
    """Return the chord's slope (f(u) − f(l)) / (u − l) if l < 0 < u; otherwise the slope of the piece around [l, u]."""
    unstable = (l < 0) & (u > 0)
    width = torch.where(unstable, u - l, 1)
    inside = torch.where(u > 0, torch.ones_like(u), a * torch.ones_like(u))
    return torch.where(unstable, (u - a * l) / width, inside)


def _adaptive(l: Tensor, u: Tensor, a: float | Tensor) -> Tensor:  # noqa: E741
    """Return 0 for slope a or 1 for slope 1, whichever encloses the smaller area: Zhang et al. 2018, section 3.3."""
    return torch.where(u >= -l, torch.ones_like(u), torch.zeros_like(u))


def _relax(negative: NegativeSlope) -> UnaryRelaxRule:
    def relax(call: Call, slope: Slope, alphas: Alphas, x: Interval) -> Relaxation:
        a = negative(call)
        l, u = x.lower, x.upper  # noqa: E741
        unstable = (l < 0) & (u > 0)
        chord_slope = chord(l, u, a)
        chord_bias = torch.where(unstable, a * l - chord_slope * l, torch.zeros_like(l))
        zero = torch.zeros_like(l)
        if slope is Slope.PARALLEL:
            # the free plane passes through zero with the chord's slope, above or below it as f is concave or convex
            low, high = torch.minimum(chord_bias, zero), torch.maximum(chord_bias, zero)
            return sandwich(chord_slope, low, chord_slope, high)
        default = {
            Slope.ADAPTIVE: _adaptive(l, u, a),
            Slope.ZERO: torch.zeros_like(l),
            Slope.ONE: torch.ones_like(l),
        }[slope]
        position = alphas[0] if alphas else default
        free_slope = torch.where(unstable, a + (1 - a) * position, chord_slope)
        if isinstance(a, float):
            if a <= 1:
                return sandwich(free_slope, zero, chord_slope, chord_bias)
            return sandwich(chord_slope, chord_bias, free_slope, zero)
        convex = a <= 1
        return sandwich(
            torch.where(convex, free_slope, chord_slope), torch.where(convex, zero, chord_bias),
            torch.where(convex, chord_slope, free_slope), torch.where(convex, chord_bias, zero),
        )  # fmt: skip

    return relax


def _alphas(call: Call, x: Interval) -> Alphas:
    return (_adaptive(x.lower, x.upper, 0.0),)


def _rule(negative: NegativeSlope) -> Rule:
    return Nonlinear(
        _interval(negative), _relax(negative), _alphas, _unstable, by_sign=True, patches=ELEMENTWISE
    )


def _zero_slope(call: Call) -> float:
    return 0.0


def _relu() -> Rule:
    return Nonlinear(
        _relu_interval, _relax(_zero_slope), _alphas, _unstable, by_sign=True, patches=ELEMENTWISE
    )


def _prelu_weight(call: Call) -> Tensor:
    weight = call["weight"]
    return weight.reshape(1, 1, -1, *[1] * (len(call.shape) - 1))


def _prelu() -> Rule:
    """Return the record of PReLU, whose weight has one value per channel.

    Its operands have a rows axis in relaxations and none in interval arithmetic.
    """

    def flat(call: Call) -> Tensor:
        return _prelu_weight(call).squeeze(0)

    return Nonlinear(
        _interval(flat), _relax(_prelu_weight), _alphas, _unstable, by_sign=True, patches=ELEMENTWISE
    )


RULES: dict[Any, Rule] = {
    aten.relu.default: _relu(),
    aten.leaky_relu.default: _rule(lambda call: float(call["negative_slope"])),
    aten.abs.default: _rule(lambda call: -1.0),
    aten.prelu.default: _prelu(),
}
