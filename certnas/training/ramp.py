"""Schedules: values as functions of the fraction of the training done."""

from __future__ import annotations

import math


def smooth_ramp(u: float) -> float:
    """A ramp from 0 at u ≤ 0 to 1 at u ≥ 1: a quartic over the first quarter, then its tangent line.

    A loss is most sensitive to ε near 0, so ε grows slowly there. Xu et al. 2020.
    """
    middle = 0.25
    u = min(max(u, 0.0), 1.0)
    # scale·u⁴ up to the middle, then its tangent there; the scale lets the tangent end at 1
    scale = 1 / (middle**4 + 4 * middle**3 * (1 - middle))
    if u <= middle:
        return scale * u**4
    return min(1.0, scale * (middle**4 + 4 * middle**3 * (u - middle)))


def half_cosine(t: float) -> float:
    """(1 + cos πt) / 2, which falls from 1 to 0. Loshchilov and Hutter 2017, without restarts."""
    return (1 + math.cos(math.pi * t)) / 2


def stairs(t: float, decays: tuple[float, ...]) -> float:
    """0.1 to the power of the number of fractions in `decays` that t has reached."""
    return 0.1 ** sum(t >= at for at in decays)
