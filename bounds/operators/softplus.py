"""Softplus as torch computes it: a smooth curve that becomes the identity, with a jump, beyond a threshold.

    f(x) = x if βx > t, otherwise log(1 + e^(βx)) / β.

Both pieces rise.  The curve is convex for β > 0 and concave for β < 0.  If βx > t, the identity lies below the curve
for β > 0 and above it for β < 0, by log(1 + e^(−βx)) / |β|, which is at most log(1 + e^(−t)) / |β|.
"""

from __future__ import annotations

from math import exp, isfinite, isnan, log1p

import torch
from torch import Tensor

from ..errors import UnsupportedOp
from ..graph import Call
from ..interval import Interval
from ..patch import ELEMENTWISE
from ..relaxation import Diagonal, Relaxation, Slope, sandwich
from .curve import Curve, rule
from .rule import Alphas, Nonlinear


def _parameters(call: Call) -> tuple[float, float]:
    """Return β and t.  Raises UnsupportedOp if they give no function of finite values."""
    beta, threshold = float(call["beta"]), float(call["threshold"])
    if not isfinite(beta) or beta == 0 or isnan(threshold):
        raise UnsupportedOp(
            f"{call.node.where()}: softplus needs a finite beta other than 0 and a threshold that is a number; "
            f"got beta={beta:g}, threshold={threshold:g}"
        )
    return beta, threshold


def _curve(call: Call) -> Curve:
    """Return the curve log(1 + e^(βx)) / β without torch's jump at `threshold`, which `_relax` and `_interval` add."""
    beta, _ = _parameters(call)

    def value(x: Tensor) -> Tensor:
        return torch.where(x * beta > 0, x, 0.0) + torch.log1p(torch.exp(-(x * beta).abs())) / beta

    def stationary(s: Tensor) -> list[Tensor]:
        tiny = torch.finfo(s.dtype).tiny
        return [(torch.log(s.clamp(min=tiny)) - torch.log((1 - s).clamp(min=tiny))) / beta]

    return Curve(value, lambda x: torch.sigmoid(beta * x), stationary=stationary)


def _jump(beta: float, threshold: float) -> float:
    """Return the largest distance of the identity from the curve, log(1 + e^(−t)) / |β|."""
    return (max(-threshold, 0.0) + log1p(exp(-abs(threshold)))) / abs(beta)


def _straight(call: Call, x: Interval) -> tuple[Tensor, Tensor]:
    """Return (units that are the identity on their whole interval, units that are the identity somewhere on it)."""
    beta, threshold = _parameters(call)
    least, most = (x.lower, x.upper) if beta > 0 else (x.upper, x.lower)
    return least * beta > threshold, most * beta > threshold


def _interval(call: Call, x: Interval) -> Interval:
    """Return the range from f at both ends and, if it lies inside, at the jump."""
    beta, threshold = _parameters(call)
    everywhere, somewhere = _straight(call, x)
    jumps = somewhere & ~everywhere
    smooth = _curve(call).interval(x)
    at = torch.full_like(x.lower, threshold / beta)
    at = torch.maximum(torch.minimum(at, x.upper), x.lower)
    if beta > 0:  # from the curve down to the identity
        lower = torch.where(jumps, torch.minimum(smooth.lower, at), smooth.lower)
        upper = torch.where(jumps, torch.maximum(_curve(call).value(at), x.upper), smooth.upper)
    else:  # from the identity down to the curve
        lower = torch.where(jumps, torch.minimum(x.lower, _curve(call).value(at)), smooth.lower)
        upper = torch.where(jumps, torch.maximum(at, smooth.upper), smooth.upper)
    return Interval(torch.where(everywhere, x.lower, lower), torch.where(everywhere, x.upper, upper))


_SMOOTH = rule(_curve)


def _relax(call: Call, slope: Slope, alphas: Alphas, x: Interval) -> Relaxation:
    """Return the curve's planes; if [l, u] holds the jump, the plane on the identity's side is moved by its height."""
    beta, threshold = _parameters(call)
    everywhere, somewhere = _straight(call, x)
    planes = _SMOOTH.relax(call, slope, alphas, x)
    low, high = planes.lower, planes.upper
    assert isinstance(low.map, Diagonal) and isinstance(high.map, Diagonal)
    jump = torch.where(somewhere, _jump(beta, threshold), 0.0).to(x.lower.dtype)
    down, up = (jump, 0.0) if beta > 0 else (0.0, jump)
    lower_slope = torch.where(everywhere, 1.0, low.map.slopes[0])
    upper_slope = lower_slope if low.map is high.map else torch.where(everywhere, 1.0, high.map.slopes[0])
    return sandwich(
        lower_slope, torch.where(everywhere, 0.0, low.bias - down),
        upper_slope, torch.where(everywhere, 0.0, high.bias + up),
    )  # fmt: skip


RULE = Nonlinear(_interval, _relax, _SMOOTH.alphas, patches=ELEMENTWISE)
