"""Rigorous enclosures of σ and tanh: their values at the ends of an interval, and a test of their planes."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from mpmath.ctx_iv import MPIntervalContext

from certnas.checker.certificate import ClaimedPlane, Planes

REALS = MPIntervalContext()
"""Intervals [a, b] of 100 bits with outward rounding; p ≤ q is certain if p.b ≤ q.a."""
REALS.prec = 100


class Line(NamedTuple):
    """The claim that slope·x + bias ≥ σ(x) for all x in [low, high]."""

    slope: Fraction
    """The slope."""
    bias: Fraction
    """The bias."""
    low: Fraction
    """The lower end of the interval."""
    high: Fraction
    """The upper end of the interval."""


def curve_between(tanh: bool, planes: Planes, low: np.ndarray, high: np.ndarray) -> bool:
    """Whether lower(x) ≤ σ(x) ≤ upper(x) on [low, high], or the same for tanh.  [*shape] each

    Planes of tanh and lower planes are transformed to upper planes of σ: tanh(x) = 2σ(2x) − 1, and σ(−x) = 1 − σ(x).
    """
    upper, lower = _lines(planes.upper, low, high), _lines(planes.lower, low, high)
    if tanh:
        upper, lower = map(_of_tanh, upper), map(_of_tanh, lower)
    return all(map(_above_sigmoid, upper)) and all(map(_above_sigmoid, map(_mirrored, lower)))


def _lines(plane: ClaimedPlane, low: np.ndarray, high: np.ndarray) -> Iterable[Line]:
    """The claim of a plane for every row and unit, on the unit's interval."""
    columns = np.broadcast_arrays(plane.slope, plane.bias, low, high)
    exact = [map(Fraction, column.reshape(-1).tolist()) for column in columns]
    return map(Line._make, zip(*exact, strict=True))


def _of_tanh(line: Line) -> Line:
    """Transforms slope·x + bias ≥ tanh(x) into a claim about σ at 2x."""
    return Line(line.slope / 4, (line.bias + 1) / 2, 2 * line.low, 2 * line.high)


def _mirrored(line: Line) -> Line:
    """Transforms slope·x + bias ≤ σ(x) into a claim about σ at −x."""
    return Line(line.slope, 1 - line.bias, -line.high, -line.low)


def _above_sigmoid(line: Line) -> bool:
    """Whether slope·x + bias ≥ σ(x) on [low, high].

    σ(x) − s·x is largest at an end, or where σ' = s on the concave side x ≥ 0. For 0 < s < 1/4 that is x* = 2 ln c −
    ln s with c = σ(x*) = (1 + √(1 − 4s)) / 2.
    """
    slope, bias, low, high = line
    for end in (low, high):
        if not _sigma(end).b <= _real(slope * end + bias).a:
            return False
    if not 0 < 4 * slope < 1:
        return True
    top = (1 + REALS.sqrt(1 - 4 * _real(slope))) / 2
    turn = 2 * REALS.log(top) - REALS.log(_real(slope))
    if turn.b < _real(low).a or turn.a > _real(high).b:
        return True
    return bool((top - _real(slope) * turn).b <= _real(bias).a)


def _real(q: Fraction):  # type: ignore[no-untyped-def]
    """An interval that contains a rational number."""
    return REALS.mpf(q.numerator) / REALS.mpf(q.denominator)


def _sigma(q: Fraction):  # type: ignore[no-untyped-def]
    """An interval that contains σ at a rational number."""
    return 1 / (1 + REALS.exp(-_real(q)))


def curve_end(tanh: bool, values: np.ndarray, *, up: bool) -> np.ndarray:
    """σ or tanh in float64, rounded up or down."""
    ends = []
    for x in values.reshape(-1).tolist():
        found = 2 * _sigma(2 * Fraction(x)) - 1 if tanh else _sigma(Fraction(x))
        ends.append(float((found.b if up else found.a).mid))
    return np.nextafter(np.array(ends), np.inf if up else -np.inf).reshape(values.shape)
