"""The region R = {x' : ‖x' − x‖ ≤ ε, a ≤ x' ≤ b}, and a lower bound of linear forms on it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np

from certnas.checker.certificate import Certificate
from certnas.checker.numbers import Arithmetic, Numbers

HALVINGS = 60
SMALL = 2.0**-500
"""More than the root of what squares lose where they underflow, of fewer than 2^70 numbers."""


@dataclass(frozen=True, eq=False)
class Region:
    """x [1, *shape]; down ≤ x' − x ≤ up on R."""

    norm: str
    x: Numbers
    eps: Numbers
    down: Numbers
    up: Numbers
    arithmetic: Arithmetic

    @classmethod
    def of(cls, given: Certificate, arithmetic: Arithmetic) -> Region:
        """Raises ValueError for an unknown norm or a negative radius."""
        if given.norm not in ("linf", "l2", "l1") or not given.eps >= 0:
            raise ValueError(f"no ball of norm {given.norm!r} and radius {given.eps}")
        sides = (given.x, *given.box, np.full(given.x.shape, given.eps), np.full((), given.eps))
        x, low, high, ball, eps = (arithmetic.read(side[None]) for side in sides)
        down, up = arithmetic.plus(low, -x).maximum(-ball), (-arithmetic.plus(-high, x)).minimum(ball)
        return cls(given.norm, x, eps, down, up, arithmetic)

    def minimum(self, coef: Numbers) -> Numbers:
        """At most min over R of ⟨coef, x'⟩.  coef [S, *shape] -> [S]

        For any split coef = b + c the ball bounds ⟨b, x' − x⟩ and the box ⟨c, x' − x⟩; some split is exact (convex
        duality), and any is sound.
        """
        arithmetic = self.arithmetic
        limit = arithmetic.read(np.zeros(()) if self.norm == "linf" else self._limit(coef.nearest()))
        ball = coef.minimum(limit).maximum(-limit)
        rest, far = coef - ball, self.up.maximum(-self.down)
        total = arithmetic.plus(arithmetic.dot(coef, self.x), arithmetic.dot(rest.positive(), self.down))
        total = arithmetic.plus(total, arithmetic.dot(rest.negative(), self.up))
        total = arithmetic.below(total, 1, lambda: (abs(rest) * far).total().n)
        return total if self.norm == "linf" else arithmetic.plus(total, self._in_ball(ball))

    def _in_ball(self, coef: Numbers) -> Numbers:
        """−ε times the dual norm of coef."""
        if self.norm == "l1":
            dual = abs(coef).moved(lambda n: n.reshape(len(n), -1).max(1))
        elif self.arithmetic.exact:
            square = (coef * coef).total()
            k = square.k + square.k % 2 + 128
            dual = Numbers(np.array([isqrt(n) + 1 for n in square.over(k).tolist()], dtype=object), k // 2)
        else:
            root = np.sqrt((coef.n * coef.n).reshape(len(coef.n), -1).sum(1))
            dual = Numbers(SMALL - self.arithmetic.lowered(-root, coef.n[0].size + 3, root))
        return self.arithmetic.below(-(dual * self.eps), 1, lambda: (dual * self.eps).n)

    def _limit(self, coef: np.ndarray) -> np.ndarray:
        """How large an element of b may be, near the best split: μ in l1, ν·room in l2.  Any value is sound."""
        room = np.where(coef > 0, -self.down.nearest(), self.up.nearest()).reshape(len(coef), -1)
        size, eps = np.abs(coef).reshape(len(coef), -1), float(self.eps.nearest()[0])
        low, high = np.zeros((len(coef), 1)), size.max(1, keepdims=True)
        if self.norm == "l2":
            high = np.linalg.norm(size, axis=1, keepdims=True) / max(eps, SMALL)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            spent = np.where(size > middle, room, 0).sum(1, keepdims=True)
            if self.norm == "l2":
                moved = np.minimum(room, size / np.maximum(middle, SMALL))
                spent = np.linalg.norm(moved, axis=1, keepdims=True)
            low, high = np.where(spent > eps, middle, low), np.where(spent > eps, high, middle)
        return (high * (room if self.norm == "l2" else np.ones_like(room))).reshape(coef.shape)
