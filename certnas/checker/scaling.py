"""Normalisation γ (x − μ) / (d √(σ² + ε)) + β as W x + b, with float64 W and b and bounds of their errors.

The root is irrational, so W and b are no dyadic rationals. A claim about the real-valued network therefore requires
bounds of the errors of their float64 values.
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt
from typing import NamedTuple

import numpy as np


class Scaling(NamedTuple):
    """Float64 W and b with |weight − W| ≤ weight_error and |bias − b| ≤ bias_error for the real numbers W and b."""

    weight: float
    """W in float64."""
    bias: float
    """b in float64."""
    weight_error: float
    """A bound of the error of W."""
    bias_error: float
    """A bound of the error of b."""


def scaling(gamma: float, mean: float, divisor: float, variance: float, eps: float, beta: float) -> Scaling:
    """W = γ / (d √(σ² + ε)) and b = β − μ W. Raises ZeroDivisionError or ValueError if W does not exist."""
    quotient = Fraction(gamma) / Fraction(divisor)
    root, unsure = _inverse_root(Fraction(variance) + Fraction(eps))
    weight, weight_error = quotient * root, abs(quotient) * unsure
    bias, bias_error = Fraction(beta) - Fraction(mean) * weight, abs(Fraction(mean)) * weight_error
    return Scaling(
        float(weight),
        float(bias),
        _rounded_up(weight_error + _rounding(weight)),
        _rounded_up(bias_error + _rounding(bias)),
    )


def _inverse_root(square: Fraction) -> tuple[Fraction, Fraction]:
    """A rational r and an error e with r ≤ 1 / √square ≤ r + e.

    r = s / 2^p for the integer root s of 4^p / square: s² ≤ 4^p / square < (s + 1)².
    """
    if square == 1:
        return Fraction(1), Fraction(0)
    p = 160 + abs(square.numerator.bit_length() - square.denominator.bit_length())
    return Fraction(isqrt(int(4**p / square)), 2**p), Fraction(1, 2**p)


def _rounding(number: Fraction) -> Fraction:
    """The distance of a number from its float64."""
    return abs(number - Fraction(float(number)))


def _rounded_up(error: Fraction) -> float:
    """A float64 that is at least the error; 0 for no error."""
    return float(np.nextafter(float(error), np.inf)) if error else 0.0
