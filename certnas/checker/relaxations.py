"""Whether two planes sandwich a function on a box, decided exactly: lower(x) ≤ f(x) ≤ upper(x) for all x in [l, u]."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from mpmath.ctx_iv import MPIntervalContext

from certnas.checker.certificate import Planes
from certnas.checker.network import Node, gather
from certnas.checker.numbers import Numbers, dyadic

ONE = Numbers(np.ones((), dtype=object))
Line = tuple[Numbers, Numbers]
"""Slope and bias."""


def sandwiched(node: Node, planes: Planes, low: Numbers, high: Numbers) -> bool:
    """Whether both planes hold on [low, high], exact numbers of the operand's shape.

    Piecewise linear f minus a plane is straight between the ends and the kinks: least and greatest at one of these.
    """
    lower, upper = ((dyadic(p.slope), dyadic(p.bias)) for p in (planes.lower, planes.upper))
    if node.op == "max":
        return _max(node, lower, upper, low, high)
    if node.op == "piecewise":
        at = corners(node, low, high)
        below = all((value(node, x) >= lower[0] * x + lower[1]).all() for x in at)
        return below and all((upper[0] * x + upper[1] >= value(node, x)).all() for x in at)
    return _sigmoid(node.op == "tanh", planes, low.down(), -(-high).down())


def value(node: Node, x: Numbers) -> Numbers:
    """The piecewise linear function, exactly."""
    kinks, slopes = dyadic(node.arrays["kinks"]), dyadic(node.arrays["slopes"])
    total = dyadic(node.arrays["value"]) + (x - kinks.at(0)) * slopes.at(0)
    for i in range(len(kinks.n)):
        total = total + (x - kinks.at(i)).positive() * (slopes.at(i + 1) - slopes.at(i))
    return total


def corners(node: Node, low: Numbers, high: Numbers) -> list[Numbers]:
    """The ends, and the kinks brought into [low, high]: where a piecewise linear function may turn."""
    kinks = [dyadic(np.full(low.n.shape, kink)) for kink in node.arrays["kinks"]]
    return [low, high, *(kink.maximum(low).minimum(high) for kink in kinks)]


def greatest(windows: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The greatest element of each window, [*, k] -> [*]; places not `inside` do not count."""
    return np.where(inside, windows, windows.min(initial=0)).max(-1)


def _max(node: Node, lower: Line, upper: Line, low: Numbers, high: Numbers) -> bool:
    """Windows [*out, k].

    lower: for w ≥ 0, max x − Σwx ≥ (1 − Σw)·max x, and max x lies in [max l, max u].
    upper: for each i of the window, t + Σwx − xᵢ ≥ 0 on the whole box, which is least at a corner.
    """
    inside = node.arrays["index"] >= 0
    low, high = (side.moved(lambda n: gather(n[None], node.arrays["index"])[0]) for side in (low, high))
    (w, t), (v, s) = lower, upper
    if (w.n[:, ~inside] != 0).any() or (v.n[:, ~inside] != 0).any() or (w.n < 0).any():
        return False
    rest = ONE - w.moved(lambda n: n.sum(-1))
    top_low, top_high = (side.moved(lambda n: greatest(n, inside)) for side in (low, high))
    floor = rest.positive() * top_low + rest.negative() * top_high
    least = (v * low).minimum(v * high)
    alone = ((v - ONE) * low).minimum((v - ONE) * high) - least
    above = (s + least.moved(lambda n: n.sum(-1))).moved(lambda n: n[..., None]) + alone
    return bool((floor >= t).all() and (above.n[:, inside] >= 0).all())


def _sigmoid(tanh: bool, planes: Planes, low: np.ndarray, high: np.ndarray) -> bool:
    """tanh(x) = 2σ(2x) − 1, and σ(−x) = 1 − σ(x): every case is an upper plane of σ."""
    for plane, sign in ((planes.upper, 1), (planes.lower, -1)):
        units = np.broadcast_arrays(plane.slope, plane.bias, low, high)
        for s, t, l, u in zip(*(map(Fraction, a.reshape(-1).tolist()) for a in units), strict=True):  # noqa: E741
            if tanh:
                s, t, l, u = s / 4, (t + 1) / 2, 2 * l, 2 * u  # noqa: E741
            if sign < 0:
                t, l, u = 1 - t, -u, -l  # noqa: E741
            if not _above_sigmoid(s, t, l, u):
                return False
    return True


def _above_sigmoid(s: Fraction, t: Fraction, l: Fraction, u: Fraction) -> bool:  # noqa: E741
    """Whether s·x + t ≥ σ(x) on [l, u].

    σ(x) − s·x is greatest at an end or where σ' = s on the concave side, x ≥ 0; that is at x* = 2 ln c − ln s with
    c = σ(x*) = (1 + √(1 − 4s)) / 2, if 0 < s < 1/4.
    """
    if not (_sigma(l).b <= _real(s * l + t).a and _sigma(u).b <= _real(s * u + t).a):
        return False
    if not 0 < 4 * s < 1:
        return True
    top = (1 + REALS.sqrt(1 - 4 * _real(s))) / 2
    turn = 2 * REALS.log(top) - REALS.log(_real(s))
    if turn.b < _real(l).a or turn.a > _real(u).b:
        return True
    return bool((top - _real(s) * turn).b <= _real(t).a)


REALS = MPIntervalContext()
"""Intervals with outward rounding, 100 bits."""
REALS.prec = 100


def _real(q: Fraction):  # type: ignore[no-untyped-def]
    return REALS.mpf(q.numerator) / REALS.mpf(q.denominator)


def _sigma(q: Fraction):  # type: ignore[no-untyped-def]
    return 1 / (1 + REALS.exp(-_real(q)))


def sigma_end(tanh: bool, values: np.ndarray, side: int) -> np.ndarray:
    """σ or tanh as float64, rounded down (side −1) or up (1)."""
    found = (_sigma((1 + tanh) * Fraction(x)) * (1 + tanh) - tanh for x in values.reshape(-1).tolist())
    ends = np.array([float((y.a if side < 0 else y.b).mid) for y in found])
    return np.nextafter(ends, side * np.inf).reshape(values.shape)
