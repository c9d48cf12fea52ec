"""The sign function: −1, 0 or 1, with a jump at zero.

On [l, u] with l < 0 < u, for any t in [0, 1],
    sign(x) ≥ −1 + t·2x/u,    sign(x) ≤ 1 − t·2x/l,
which are lines through (0, ∓1) that meet the other piece at the far end for t = 1.  If an end is zero, sign(0) = 0
replaces the missing piece.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..graph import Call
from ..interval import Interval
from ..patch import ELEMENTWISE
from ..relaxation import Relaxation, Slope, sandwich
from .rule import Alphas, Nonlinear, Rule

aten = torch.ops.aten


def _interval(call: Call, x: Interval) -> Interval:
    return Interval(torch.sign(x.lower), torch.sign(x.upper))


def _unstable(call: Call, x: Interval) -> tuple[Tensor, ...]:
    return ((x.lower <= 0) & (x.upper >= 0) & (x.lower < x.upper),)


def _steepest(x: Interval) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the slopes of both lines for t = 1, and their values at zero; the lines are level if the sign is
    decided.
    """
    undecided = (x.lower <= 0) & (x.upper >= 0)
    low, high = torch.sign(x.lower), torch.sign(x.upper)  # the values of the lines at zero, from either side
    up, down = undecided & (x.upper > 0), undecided & (x.lower < 0)
    lower = torch.where(up, (1 - low) / torch.where(up, x.upper, 1.0), 0.0)
    upper = torch.where(down, (1 + high) / torch.where(down, -x.lower, 1.0), 0.0)
    finite = torch.isfinite(lower) & torch.isfinite(upper)  # infinite if an end is next to zero
    return torch.where(finite, lower, 0.0), torch.where(finite, upper, 0.0), low, high


def _relax(call: Call, slope: Slope, alphas: Alphas, x: Interval) -> Relaxation:
    lower, upper, low, high = _steepest(x)
    if slope is Slope.PARALLEL:
        level = torch.zeros_like(low)
        return sandwich(level, low, level, high)
    t, s = alphas or _alphas(call, x)
    return sandwich(t * lower, low, s * upper, high)


def _alphas(call: Call, x: Interval) -> Alphas:
    """Return the alphas that take the steeper line if it is the tighter one at the centre."""
    center = x.lower + x.upper
    return (center > 0).to(x.lower.dtype), (center < 0).to(x.lower.dtype)


RULES: dict[Any, Rule] = {
    aten.sign.default: Nonlinear(_interval, _relax, _alphas, _unstable, patches=ELEMENTWISE),
}
