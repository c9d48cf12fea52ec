"""The region R = {x' : ‖x' − x‖ ≤ ε, a ≤ x' ≤ b}: its smallest box, and a lower bound of linear forms on it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np

from certnas.checker.certificate import Certificate
from certnas.checker.numbers import Arithmetic, Numbers

HALVINGS = 60


@dataclass(frozen=True, eq=False)
class Region:
    """x [1, *shape]; down ≤ x' − x ≤ up on R; in_box: whether a box cuts the ball."""

    norm: str
    x: Numbers
    eps: Numbers
    down: Numbers
    up: Numbers
    in_box: bool
    arithmetic: Arithmetic

    @classmethod
    def of(cls, certificate: Certificate, arithmetic: Arithmetic) -> Region:
        """Raises ValueError for an unknown norm, a negative radius, or an empty box."""
        x, eps = arithmetic.read(certificate.x[None]), arithmetic.read(np.full((1,), certificate.eps))
        if certificate.norm not in ("linf", "l2", "l1") or not 0 <= certificate.eps < np.inf:
            raise ValueError(f"no ball of norm {certificate.norm!r} and radius {certificate.eps}")
        reach = eps.moved(lambda n: np.broadcast_to(n.reshape(-1, *[1] * (x.n.ndim - 1)), x.n.shape))
        down, up = -reach, reach
        if certificate.box is not None:
            sides = [arithmetic.read(np.full(x.n.shape, side)) for side in certificate.box]
            if not ((x >= sides[0]).all() and (sides[1] >= x).all()):
                raise ValueError("the image lies outside of the box")
            down = down.maximum(arithmetic.plus(sides[0], -x))
            up = up.minimum(-arithmetic.plus(-sides[1], x))
        return cls(certificate.norm, x, eps, down, up, certificate.box is not None, arithmetic)

    def box(self) -> tuple[Numbers, Numbers]:
        """Bounds of every element of x'.  [1, *shape] each"""
        return self.arithmetic.plus(self.x, self.down), -self.arithmetic.plus(-self.x, -self.up)

    def minimum(self, coef: Numbers) -> Numbers:
        """At most min over R of ⟨coef, x'⟩.  coef [S, *shape] -> [S]

        For any split coef = b + c the ball bounds ⟨b, x' − x⟩ and the box ⟨c, x' − x⟩; some split is exact (convex
        duality), and any is sound.
        """
        arithmetic = self.arithmetic
        at_x = arithmetic.dot(coef, self.x)
        if self.norm == "linf":
            return arithmetic.plus(at_x, self._in_box(coef))
        if not self.in_box:
            return arithmetic.plus(at_x, self._in_ball(coef))
        limit = arithmetic.read(self._limit(coef.nearest()))
        inner = coef.minimum(limit).maximum(-limit)
        rest = coef - inner
        spared = arithmetic.dot(
            abs(rest), self.up.maximum(-self.down)
        )  # what rounding `rest` can cost is 2u of this
        parts = arithmetic.plus(self._in_ball(inner), self._in_box(rest))
        parts = arithmetic.below(parts, 2, lambda: abs(spared) + abs(parts))
        return arithmetic.plus(at_x, parts)

    def _in_box(self, coef: Numbers) -> Numbers:
        arithmetic = self.arithmetic
        rising, falling = coef.positive(), coef.negative()
        return arithmetic.plus(arithmetic.dot(rising, self.down), arithmetic.dot(falling, self.up))

    def _in_ball(self, coef: Numbers) -> Numbers:
        """−ε times the dual norm of coef."""
        if self.norm == "l1":
            dual = abs(coef).moved(lambda n: n.reshape(len(n), -1).max(1))
        else:
            dual = self._length((coef * coef).total(), coef.n[0].size)
        return self.arithmetic.below(-(dual * self.eps), 1, lambda: dual * self.eps)

    def _length(self, square: Numbers, terms: int) -> Numbers:
        """At least the square root of a sum of `terms` squares."""
        if not self.arithmetic.exact:
            root = Numbers(np.sqrt(square.n))
            return self.arithmetic.above(root, terms + 3, lambda: root)
        k = square.k + square.k % 2 + 128
        wide = square.n * (1 << (k - square.k))
        return Numbers(np.array([isqrt(n) + 1 for n in wide.tolist()], dtype=object), k // 2)

    def _limit(self, coef: np.ndarray) -> np.ndarray:
        """How large an element of b may be, near the best split: μ in l1, ν·room in l2.  Any value is sound."""
        room = np.where(coef > 0, -self.down.nearest(), self.up.nearest()).reshape(len(coef), -1)
        size, eps = np.abs(coef).reshape(len(coef), -1), float(self.eps.nearest()[0])
        low = np.zeros((len(coef), 1))
        high = size.max(1, keepdims=True)
        if self.norm == "l2":
            high = np.linalg.norm(size, axis=1, keepdims=True) / max(eps, 2.0**-500)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if self.norm == "l1":
                spent = np.where(size > middle, room, 0).sum(1, keepdims=True)
            else:
                moved = np.minimum(room, size / np.maximum(middle, 2.0**-500))
                spent = np.linalg.norm(moved, axis=1, keepdims=True)
            low, high = np.where(spent > eps, middle, low), np.where(spent > eps, high, middle)
        limit = high * (np.ones_like(room) if self.norm == "l1" else room)
        return limit.reshape(coef.shape)
