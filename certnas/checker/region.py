"""The region R = {x' : ‖x' − x‖ ≤ ε, a ≤ x' ≤ b}, and lower bounds of linear forms on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

import numpy as np

from certnas.checker.certificate import Certificate
from certnas.checker.numbers import Arithmetic, Numbers

NORMS = ("linf", "l2", "l1")
HALVINGS = 60
"""The number of bisection steps."""
SMALL = 2.0**-500
"""An upper bound of the root of what fewer than 2^70 squares lose by underflow."""


@dataclass(frozen=True, eq=False)
class CheckedRegion:
    """The intersection of a ball and a box."""

    norm: str
    """The name of the norm."""
    x: Numbers
    """The centre, [1, *shape]."""
    eps: Numbers
    """The radius."""
    down: Numbers
    """A lower bound of x' − x on the region, [1, *shape]."""
    up: Numbers
    """An upper bound of x' − x on the region, [1, *shape]."""
    arithmetic: Arithmetic
    """The arithmetic of the check."""

    @classmethod
    def of(cls, given: Certificate, arithmetic: Arithmetic) -> CheckedRegion:
        """The area of a certificate. Raises ValueError for an unknown norm or a negative radius.

        In every norm |x' − x| ≤ ε holds element by element, so `down` and `up` bound box and ball together.
        """
        if given.norm not in NORMS or not given.eps >= 0:
            raise ValueError(f"no ball of norm {given.norm!r} and radius {given.eps}")
        x, low, high = (arithmetic.read(side[None]) for side in (given.x, *given.box))
        ball = arithmetic.read(np.full((1, *given.x.shape), given.eps))
        down = arithmetic.plus(low, -x).maximum(-ball)
        up = (-arithmetic.plus(-high, x)).minimum(ball)
        return cls(given.norm, x, arithmetic.read(np.full(1, given.eps)), down, up, arithmetic)

    def minimum(self, coef: Numbers) -> Numbers:
        """A lower bound of min over R of ⟨coef, x'⟩.  coef [S, *shape] -> [S]

        For any split coef = b + c, the ball bounds ⟨b, x' − x⟩ and the box bounds ⟨c, x' − x⟩. Every split is sound,
        and some split is exact (convex duality). In l∞ the box includes the ball, and b is 0.
        """
        plus, dot = self.arithmetic.plus, self.arithmetic.dot
        at_image = dot(coef, self.x)
        if self.norm == "linf":
            return self._in_box(at_image, coef - self.arithmetic.read(np.zeros(())))
        limit = self.arithmetic.read(self._limit(coef.nearest()))
        ball = coef.minimum(limit).maximum(-limit)
        return plus(self._in_box(at_image, coef - ball), self._in_ball(ball))

    def _in_box(self, total: Numbers, coef: Numbers) -> Numbers:
        """total + min ⟨coef, x' − x⟩ over down ≤ x' − x ≤ up, minus the effect of rounding coef."""
        plus, dot = self.arithmetic.plus, self.arithmetic.dot
        far = self.up.maximum(-self.down)
        total = plus(total, dot(coef.positive(), self.down))
        total = plus(total, dot(coef.negative(), self.up))
        return self.arithmetic.below(total, 1, lambda: (abs(coef) * far).total().n)

    def _in_ball(self, coef: Numbers) -> Numbers:
        """A lower bound of ⟨coef, x' − x⟩ on the ball: −ε times the dual norm of coef (Hölder's inequality)."""
        dual = self._greatest(coef) if self.norm == "l1" else self._length(coef)
        return self.arithmetic.below(-(dual * self.eps), 1, lambda: (dual * self.eps).n)

    @staticmethod
    def _greatest(coef: Numbers) -> Numbers:
        """max |coef|, exactly: the dual norm of l1."""
        return abs(coef).moved(lambda n: n.reshape(len(n), -1).max(1))

    def _length(self, coef: Numbers) -> Numbers:
        """An upper bound of ‖coef‖₂, the dual norm of l2."""
        if self.arithmetic.exact:
            square = (coef * coef).total()
            k = square.k + square.k % 2 + 128  # even, so that the root of 2^k is a power of two
            return Numbers(np.array([isqrt(n) + 1 for n in square.over(k).tolist()], dtype=object), k // 2)
        root = np.sqrt((coef.n * coef.n).reshape(len(coef.n), -1).sum(1))
        return Numbers(SMALL - self.arithmetic.lowered(-root, coef.n[0].size + 3, root))

    def _limit(self, coef: np.ndarray) -> np.ndarray:
        """The largest size of an element of b near the best split: μ in l1, ν·room in l2. Any value is sound."""
        eps = float(self.eps.nearest()[0])
        room = np.where(coef > 0, -self.down.nearest(), self.up.nearest()).reshape(len(coef), -1)
        size = np.abs(coef).reshape(len(coef), -1)
        if self.norm == "l1":
            limit = _bisected(size.max(1, keepdims=True), eps, lambda level: _spent_l1(level, size, room))
            return np.broadcast_to(limit, size.shape).reshape(coef.shape)
        steepest = np.linalg.norm(size, axis=1, keepdims=True) / max(eps, SMALL)
        limit = _bisected(steepest, eps, lambda level: _spent_l2(level, size, room))
        return (limit * room).reshape(coef.shape)


def _bisected(high: np.ndarray, eps: float, spent: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The level between 0 and `high` at which the decreasing function `spent` equals ε.  [S, 1]"""
    low = np.zeros_like(high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = spent(middle) > eps
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return high


def _spent_l1(level: np.ndarray, size: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The l1 length of the move that uses all room where |coef| is above the level."""
    return np.where(size > level, room, 0).sum(1, keepdims=True)


def _spent_l2(level: np.ndarray, size: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The l2 length of the move |coef| / level, clamped to the room."""
    moved = np.minimum(room, size / np.maximum(level, SMALL))
    return np.linalg.norm(moved, axis=1, keepdims=True)
