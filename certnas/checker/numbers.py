"""Arrays of numbers in two arithmetics: integers over a power of two, and float64 with bounded rounding.

Every float64 is a dyadic rational, so sums and products of weights, slopes and pixels are n / 2^k exactly. Where that
is too slow, n is float64 and k = 0, and each result is lowered by a bound of its rounding: a sum of m products, in
any order, is within γ_m Σ|aᵢbᵢ| of the exact sum, with γ_m = mu / (1 − mu) and u = 2⁻⁵³ (Higham 2002, Accuracy and
Stability of Numerical Algorithms, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

UNIT = 2.0**-53
TINY = 2.0**-900
"""An upper bound of all underflow in fewer than 2^50 products of numbers below LARGE."""
LARGE = 2.0**100
GUARD = 1.001
"""A factor that covers the rounding of an error bound itself."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """The numbers n / 2^k, element by element."""

    n: np.ndarray
    """Python integers, or float64 if k = 0."""
    k: int = 0
    """The exponent of the denominator."""

    def __post_init__(self) -> None:
        n: object = self.n
        if not isinstance(n, np.ndarray):  # numpy returns a single element as a scalar
            object.__setattr__(self, "n", np.asarray(n, dtype=float if isinstance(n, float) else object))

    def at(self, index: Any) -> Numbers:
        """The elements at a numpy index."""
        return Numbers(self.n[index], self.k)

    def moved(self, f: Callable[[np.ndarray], np.ndarray]) -> Numbers:
        """Applies f to n, where f moves, negates, selects or sums elements."""
        return Numbers(f(self.n), self.k)

    def over(self, k: int) -> np.ndarray:
        """n for a larger exponent k."""
        return self.n if self.k == k else self.n * (1 << (k - self.k))

    def __add__(self, other: Numbers) -> Numbers:
        k = max(self.k, other.k)
        return Numbers(self.over(k) + other.over(k), k)

    def __sub__(self, other: Numbers) -> Numbers:
        return self + -other

    def __mul__(self, other: Numbers) -> Numbers:
        return Numbers(self.n * other.n, self.k + other.k)

    def __neg__(self) -> Numbers:
        return Numbers(-self.n, self.k)

    def __abs__(self) -> Numbers:
        return Numbers(np.abs(self.n), self.k)

    def __ge__(self, other: Numbers) -> np.ndarray:
        k = max(self.k, other.k)
        return np.asarray(self.over(k) >= other.over(k), dtype=bool)

    def maximum(self, other: Numbers) -> Numbers:
        """The elementwise maximum."""
        k = max(self.k, other.k)
        return Numbers(np.maximum(self.over(k), other.over(k)), k)

    def minimum(self, other: Numbers) -> Numbers:
        """The elementwise minimum."""
        return -(-self).maximum(-other)

    def positive(self) -> Numbers:
        """The positive part."""
        return Numbers(np.maximum(self.n, 0), self.k)

    def negative(self) -> Numbers:
        """The negative part, which is ≤ 0."""
        return Numbers(np.minimum(self.n, 0), self.k)

    def total(self) -> Numbers:
        """The sum over all axes but the first."""
        return self.moved(lambda n: n.reshape(len(n), -1).sum(-1))

    def nearest(self) -> np.ndarray:
        """The numbers as float64, rounded to nearest."""
        return self.n if self.n.dtype != object else np.asarray(self.n / (1 << self.k), dtype=np.float64)

    def down(self) -> np.ndarray:
        """The numbers as float64, rounded down; n must hold integers."""
        near = self.nearest()
        return np.where(self >= dyadic(near), near, np.nextafter(near, -np.inf))

    def up(self) -> np.ndarray:
        """The numbers as float64, rounded up; n must hold integers."""
        return -(-self).down()


def dyadic(values: np.ndarray) -> Numbers:
    """Float64 values as integers over their least common power of two. Raises ValueError for a value that is not
    finite.
    """
    fraction, exponent = np.frexp(np.asarray_chkfinite(values, dtype=np.float64))
    whole = (fraction * 2.0**53).astype(
        np.int64
    )  # values = whole · 2^(exponent − 53), and all bits are in `whole`
    low_bit = np.where(whole == 0, 1, whole & -whole)  # the greatest power of two that divides it
    shift = np.frexp(low_bit.astype(np.float64))[1] - 1
    power = np.where(whole == 0, 0, exponent - 53 + shift)  # values = (whole / low_bit) · 2^power
    k = max(0, -int(power.min(initial=0)))
    n = (whole // low_bit).astype(object) * 2 ** (power + k).astype(object)
    return Numbers(np.asarray(n, dtype=object).reshape(whole.shape), k)


def lowered(value: np.ndarray, terms: int, magnitude: np.ndarray) -> np.ndarray:
    """A lower bound of the exact result behind `value`, whose error is ≤ γ_terms · magnitude."""
    gamma = terms * UNIT / (1 - terms * UNIT)
    return np.nextafter(value - (GUARD * gamma * magnitude + TINY), -np.inf)


@dataclass(frozen=True)
class Arithmetic:
    """The arithmetic of a check: exact integers, or float64 in which each result is a proved lower bound."""

    exact: bool
    """Whether to compute in integers."""
    spare: int = 1
    """The factor by which rounding is overestimated; the result then also holds for other orders of the sums."""

    def read(self, values: np.ndarray) -> Numbers:
        """Float64 values as Numbers, unchanged."""
        return dyadic(values) if self.exact else Numbers(np.asarray(values, dtype=np.float64))

    def below(self, value: Numbers, terms: int, magnitude: Callable[[], np.ndarray]) -> Numbers:
        """Lowers a value by its rounding in float64; integers stay unchanged, since nothing is rounded."""
        return value if self.exact else Numbers(self.lowered(value.n, terms, magnitude()))

    def lowered(self, value: np.ndarray, terms: int, magnitude: np.ndarray) -> np.ndarray:
        """Applies `lowered` with `spare` times the rounding."""
        return lowered(value, terms * self.spare, magnitude)

    def dot(self, a: Numbers, b: Numbers) -> Numbers:
        """A lower bound of ⟨a, b⟩ for each row.  a [S, *shape], b [1 or S, *shape] -> [S]"""
        products = a * b
        return self.below(products.total(), a.n[:1].size + 1, lambda: abs(products).total().n)

    def plus(self, a: Numbers, b: Numbers) -> Numbers:
        """A lower bound of a + b."""
        return self.below(a + b, 1, lambda: np.abs(a.n + b.n))
