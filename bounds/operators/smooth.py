"""The element-wise functions: for each its value, its derivative, and the turns of the derivative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, isinf, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnsupportedOp
from ..graph import Call
from ..interval import Interval
from . import softplus
from .curve import Curve, rule
from .rule import Nonlinear, Rule

aten = torch.ops.aten
TINY = 1e-300
FLAT = 1e-6
"""Up to this upper bound a square root's planes are level: its tangents would be steep and round.  Chosen by hand."""
EIGHTHS = tuple(i / 8 for i in range(9))
"""Positions of tangents for functions that are neither convex nor concave on either side of zero."""


def _logit_pair(s: Tensor) -> list[Tensor]:
    """σ'(x) = σ(1 − σ) = s at x = ±logit((1 + √(1 − 4s)) / 2)."""
    root = (1 - 4 * s).clamp(min=0).sqrt()
    x = torch.log((1 + root).clamp(min=TINY)) - torch.log(
        (4 * s / (1 + root)).clamp(min=torch.finfo(s.dtype).tiny)
    )
    return [x, -x]


def _atanh_pair(s: Tensor) -> list[Tensor]:
    """tanh'(x) = 1 − tanh² = s at x = ±artanh √(1 − s)."""
    root = (1 - s).clamp(min=0).sqrt()
    x = torch.log1p(root) - 0.5 * torch.log(s.clamp(min=torch.finfo(s.dtype).tiny))
    return [x, -x]


def _atan_pair(s: Tensor) -> list[Tensor]:
    """arctan'(x) = 1 / (1 + x²) = s at x = ±√(1/s − 1)."""
    x = (1 / s.clamp(min=torch.finfo(s.dtype).tiny) - 1).clamp(min=0).sqrt()
    return [x, -x]


def _sigmoid_bend(x: Tensor) -> Tensor:
    y = torch.sigmoid(x)
    return y * (1 - y) * (1 - 2 * y)


def _tanh_slope(x: Tensor) -> Tensor:
    return 1 - torch.tanh(x).square()


def _silu_slope(x: Tensor) -> Tensor:
    y = torch.sigmoid(x)
    return y * (1 + x * (1 - y))


def _phi(x: Tensor) -> Tensor:
    return torch.exp(-x.square() / 2) / sqrt(2 * torch.pi)


def _Phi(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-x / sqrt(2))


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    k = sqrt(2 / torch.pi)
    t = torch.tanh(k * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t.square()) * k * (1 + 3 * 0.044715 * x.square())


def _hardswish_slope(x: Tensor) -> Tensor:
    return torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, (2 * x + 3) / 6))


def _mish_slope(x: Tensor) -> Tensor:
    t = torch.tanh(F.softplus(x))
    return t + x * (1 - t.square()) * torch.sigmoid(x)


def _log(s: Tensor) -> Tensor:
    return torch.log(s.clamp(min=torch.finfo(s.dtype).tiny))


SIGMOID = Curve(
    torch.sigmoid,
    lambda x: torch.sigmoid(x) * torch.sigmoid(-x),
    (0.0,),
    stationary=_logit_pair,
    bend=_sigmoid_bend,
)
TANH = Curve(
    torch.tanh,
    _tanh_slope,
    (0.0,),
    stationary=_atanh_pair,
    bend=lambda x: -2 * torch.tanh(x) * _tanh_slope(x),
)
ARCTAN = Curve(
    torch.atan,
    lambda x: 1 / (1 + x.square()),
    (0.0,),
    stationary=_atan_pair,
    bend=lambda x: -2 * x / (1 + x.square()).square(),
)
EXP = Curve(torch.exp, torch.exp, stationary=lambda s: [_log(s)])
SQUARE = Curve(torch.square, lambda x: 2 * x, extrema=(0.0,), stationary=lambda s: [s / 2])
SILU = Curve(
    F.silu, _silu_slope, (-2.399357280520, 2.399357280520), extrema=(-1.2784645427610738,), fractions=EIGHTHS
)
GELU = Curve(
    F.gelu,
    lambda x: _Phi(x) + x * _phi(x),
    (-sqrt(2.0), sqrt(2.0)),
    extrema=(-0.7517915246935645,),
    fractions=EIGHTHS,
)
GELU_TANH = Curve(_gelu_tanh, _gelu_tanh_slope, (-1.4160, 1.4160), extrema=(-0.7524614,), fractions=EIGHTHS)
MISH = Curve(
    F.mish,
    _mish_slope,
    (-2.256376396360793, 1.4905711794854284),
    extrema=(-1.1924312145154955,),
    fractions=EIGHTHS,
)
"""The function x·tanh(log(1 + e^x)).  Misra 2019."""
HARDSWISH = Curve(
    F.hardswish, _hardswish_slope, (-3.0, 3.0), kinks=(-3.0, 3.0), extrema=(-1.5,),
    stationary=lambda s: [(3 * s - 1.5).clamp(-3, 3)], fractions=EIGHTHS,
)  # fmt: skip


def _elu(call: Call) -> Curve:
    alpha, outer, inner = float(call["alpha"]), float(call["scale"]), float(call["input_scale"])
    if alpha < 0 or outer <= 0 or inner <= 0:
        raise UnsupportedOp(
            f"{call.node.where()}: elu needs alpha ≥ 0 and positive scales; "
            f"got alpha={alpha:g}, scale={outer:g}, input_scale={inner:g}"
        )
    return _exponential_below(alpha, outer, inner)


def _exponential_below(alpha: float, outer: float, inner: float) -> Curve:
    """Return the function outer·x for x > 0, otherwise outer·α(e^(inner·x) − 1)."""

    def value(x: Tensor) -> Tensor:
        return outer * torch.where(x > 0, x, alpha * torch.expm1(inner * x.clamp(max=0)))

    def slope(x: Tensor) -> Tensor:
        return outer * torch.where(x > 0, 1.0, alpha * inner * torch.exp(inner * x.clamp(max=0)))

    def stationary(s: Tensor) -> list[Tensor]:
        return [(_log(s / (outer * inner * max(alpha, TINY))) / inner).clamp(max=0)]

    return Curve(
        value,
        slope,
        (0.0,),
        kinks=(0.0,),
        stationary=stationary,
        fractions=EIGHTHS if alpha * inner > 1 else (0.5,),
    )


SELU = _exponential_below(1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1.0)


class PiecewiseCurve(Curve):
    """A function of straight pieces.  The hull of f on [l, u] has corners at the ends and the kinks."""

    def candidates(self, x: Interval) -> list[Tensor]:
        inner = [torch.full_like(x.lower, k).maximum(x.lower).minimum(x.upper) for k in self.kinks]
        corners = [x.lower, *inner, x.upper]
        slopes = []
        for i, a in enumerate(corners):
            for b in corners[i + 1 :]:
                narrow = (b - a).abs() <= 16 * torch.finfo(b.dtype).eps * (1 + b.abs())
                width = torch.where(narrow, 1, b - a)
                slopes.append(
                    torch.where(narrow, self.slope((a + b) / 2), (self.value(b) - self.value(a)) / width)
                )
        return [slopes[len(corners) - 2], *slopes]


def _piecewise(low: float, high: float, gain: float = 1.0, shift: float = 0.0) -> Curve:
    """Return the function min(max(gain·x + shift, low), high) of three straight pieces."""
    kinks = tuple((edge - shift) / gain for edge in (low, high) if not isinf(edge))

    def value(x: Tensor) -> Tensor:
        return (gain * x + shift).clamp(low, high)

    def slope(x: Tensor) -> Tensor:
        y = gain * x + shift
        return torch.where((y > low) & (y < high), gain, 0.0).to(x.dtype)

    return PiecewiseCurve(value, slope, kinks, kinks=kinks, stationary=lambda s: [])


def _bounds_of(call: Call) -> Curve:
    low, high = call["min"], call["max"]
    return _piecewise(-inf if low is None else float(low), inf if high is None else float(high))


def _straight(curve: Callable[[Call], Curve]) -> Nonlinear:
    """Return the record of a function of straight pieces, which is unstable if [l, u] has a kink inside."""
    record = rule(curve)

    def unstable(call: Call, x: Interval) -> tuple[Tensor, ...]:
        mask = torch.zeros_like(x.lower, dtype=torch.bool)
        for kink in curve(call).kinks:
            mask |= (x.lower < kink) & (x.upper > kink)
        return (mask,)

    return replace(record, unstable=unstable)


def _power_root(s: Tensor) -> list[Tensor]:
    """−1/x² = s at x = ±√(−1/s)."""
    root = (-1 / torch.where(s < 0, s, -1.0)).sqrt()
    return [root, -root]


def _positive(low: Tensor, high: Tensor) -> Tensor:
    return low > 0


def _root(x: Tensor) -> Tensor:
    """Return √x for x ≥ 0, with derivative zero at x = 0."""
    return torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), 0.0)


RECIPROCAL = Curve(
    lambda x: 1 / x,
    lambda x: -1 / x.square(),
    stationary=_power_root,
    domain=lambda low, high: (low > 0) | (high < 0),
)
SQRT = Curve(
    _root,
    lambda x: 0.5 / x.clamp(min=torch.finfo(x.dtype).tiny).sqrt(),
    stationary=lambda s: [0.25 / s.square().clamp(min=TINY)],
    domain=lambda low, high: low >= 0,
    touchable=lambda low, high: high > FLAT,
)
RSQRT = Curve(
    torch.rsqrt,
    lambda x: -0.5 * x.rsqrt() / x,
    stationary=lambda s: [(-2 * s).clamp(min=torch.finfo(s.dtype).tiny) ** (-2 / 3)],
    domain=_positive,
)
LOG = Curve(
    torch.log,
    lambda x: 1 / x,
    stationary=lambda s: [1 / s.clamp(min=torch.finfo(s.dtype).tiny)],
    domain=_positive,
)


def _partial(curve: Curve) -> Nonlinear:
    """Return the record of a function that is not defined everywhere."""
    return rule(lambda call: curve, curve.domain)


def _gelu(call: Call) -> Curve:
    return GELU_TANH if call["approximate"] == "tanh" else GELU


RULES: dict[Any, Rule] = {
    aten.sigmoid.default: rule(lambda call: SIGMOID),
    aten.tanh.default: rule(lambda call: TANH),
    aten.atan.default: rule(lambda call: ARCTAN),
    aten.arctan.default: rule(lambda call: ARCTAN),
    aten.softplus.default: softplus.RULE,
    aten.elu.default: rule(_elu),
    aten.selu.default: rule(lambda call: SELU),
    aten.silu.default: rule(lambda call: SILU),
    aten.gelu.default: rule(_gelu),
    aten.mish.default: rule(lambda call: MISH),
    aten.hardswish.default: rule(lambda call: HARDSWISH),
    aten.exp.default: rule(lambda call: EXP),
    aten.square.default: rule(lambda call: SQUARE),
    aten.hardtanh.default: _straight(lambda call: _piecewise(float(call["min_val"]), float(call["max_val"]))),
    aten.relu6.default: _straight(lambda call: _piecewise(0.0, 6.0)),
    aten.hardsigmoid.default: _straight(lambda call: _piecewise(0.0, 1.0, 1 / 6, 0.5)),
    aten.clamp.default: _straight(_bounds_of),
    aten.clamp_min.default: _straight(lambda call: _piecewise(float(call["min"]), inf)),
    aten.clamp_max.default: _straight(lambda call: _piecewise(-inf, float(call["max"]))),
    aten.reciprocal.default: _partial(RECIPROCAL),
    aten.sqrt.default: _partial(SQRT),
    aten.rsqrt.default: _partial(RSQRT),
    aten.log.default: _partial(LOG),
}
