"""Softplus as torch computes it: a smooth curve that becomes the identity, with a jump, at a threshold."""

from __future__ import annotations

from math import exp, log1p

import torch
from torch import Tensor

from bounds.graph import Call
from bounds.interval import Interval
from bounds.ops.curve import Curve, rule
from bounds.ops.rule import Nonlinear, Tuning
from bounds.relaxation import Diagonal, Relaxation, Slope, sandwich


def _curve(call: Call) -> Curve:
    """log(1 + e^(βx)) / β, without torch's jump at `threshold`: `_rule` sees to that."""
    beta = float(call["beta"])

    def value(x: Tensor) -> Tensor:
        return torch.where(x * beta > 0, x, 0.0) + torch.log1p(torch.exp(-(x * beta).abs())) / beta

    def stationary(s: Tensor) -> list[Tensor]:
        tiny = torch.finfo(s.dtype).tiny
        return [(torch.log(s.clamp(min=tiny)) - torch.log((1 - s).clamp(min=tiny))) / beta]

    return Curve(value, lambda x: torch.sigmoid(beta * x), stationary=stationary)


def _rule() -> Nonlinear:
    """Torch returns x where βx > threshold, which is below the curve by up to log(1 + e^(−threshold)) / β.

    There the function is the identity; where [l, u] straddles the jump, lower bounds give way by its height.
    """
    smooth = rule(_curve)

    def pieces(call: Call, x: Interval) -> tuple[Tensor, Tensor]:
        """(units that are the identity, how far the function may lie below the curve)."""
        beta, threshold = float(call["beta"]), float(call["threshold"])
        jump = log1p(exp(-threshold)) / beta
        return x.lower * beta > threshold, torch.where(x.upper * beta > threshold, jump, 0.0).to(
            x.lower.dtype
        )

    def interval(call: Call, x: Interval) -> Interval:
        straight, drop = pieces(call, x)
        smoothed = smooth.interval(call, x)
        return Interval(
            torch.where(straight, x.lower, smoothed.lower - drop),
            torch.where(straight, x.upper, smoothed.upper),
        )

    def relax(call: Call, slope: Slope, tuning: Tuning, x: Interval) -> Relaxation:
        straight, drop = pieces(call, x)
        planes = smooth.relax(call, slope, tuning, x)
        low, high = planes.lower, planes.upper
        assert isinstance(low.map, Diagonal) and isinstance(high.map, Diagonal)
        lower_slope = torch.where(straight, 1.0, low.map.slopes[0])
        upper_slope = lower_slope if low.map is high.map else torch.where(straight, 1.0, high.map.slopes[0])
        return sandwich(
            lower_slope, torch.where(straight, 0.0, low.bias - drop),
            upper_slope, torch.where(straight, 0.0, high.bias),
        )  # fmt: skip

    return Nonlinear(interval, relax, smooth.tuning)


RULE = _rule()
