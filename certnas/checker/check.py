"""The theorem, and the check that proves it.

Theorem.  Let f be the real-valued function of a `Network` whose digest is the certificate's: its operators in real
arithmetic, its weights the rational numbers that their float64 values are.  If `check(certificate, network)` returns,
then rows_s·f(x') ≥ bounds_s > 0 for every row s and every x' of the certificate's region.

Proof, as it is computed.  (a) A box around a node's value follows from boxes around its operands, by interval
arithmetic rounded outward, and from the region at the input.  (b) Two planes sandwich a nonlinear node where
`sandwiched` decides so, exactly, on its operand's box; on one true box is for every value of the node.  (c) A linear
form of a node's value is at least a linear form of its operands' values plus a constant: by W and b where it is affine,
by the lower plane for positive coefficients and the upper plane for negative ones where it is not; so, node by node,
at least a linear form of x', whose minimum over the region is bounded below.  (d) A claimed box is accepted where (a)
or (c) imply it, and then tightens what was known.  (e) The rows are bounded by (c).  In float64 each step of (c) is
moved down by a bound of its rounding: with |x| ≤ M for a node's operands, coefficients rounded in a sum of m products
change the form by at most γ_m |coef| |W| M.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from certnas.checker.certificate import Certificate, Planes, Step
from certnas.checker.network import RELAXED, Network, Node, gather, pull, push, scatter
from certnas.checker.numbers import GUARD, LARGE, Arithmetic, Numbers, dyadic, lowered
from certnas.checker.region import Region
from certnas.checker.relaxations import corners, greatest, sandwiched, sigma_end, value

Box = tuple[np.ndarray, np.ndarray]
EXACT_WORK = 1_000_000
"""Rows times units up to which integers are used where the caller does not say."""
CHUNK = 1 << 22
MALFORMED = (ValueError, KeyError, IndexError, TypeError, OverflowError, ZeroDivisionError)


class Rejected(Exception):
    """The certificate does not prove its claim; the text says where."""


@dataclass(frozen=True)
class Checked:
    """derived: the bounds of the rows that the check arrived at, no less than those claimed.  [S]"""

    derived: np.ndarray
    exact: bool


def check(certificate: Certificate, network: Network, *, exact: bool | None = None) -> Checked:
    """Proves the theorem above, in integers (exact), in float64, or in whichever the size suggests (None).

    Raises Rejected where the certificate proves nothing about this network.
    """
    if certificate.network != network.output:
        raise Rejected("the certificate is about another network: the digests differ")
    try:
        if exact is None:
            rows = len(certificate.rows) + sum(
                2 * step.lower.size for step in certificate.steps if step.planes
            )
            exact = rows * sum(int(np.prod(node.shape)) for node in network.nodes.values()) <= EXACT_WORK
        return _Check(certificate, network, Arithmetic(exact)).run()
    except MALFORMED as error:
        raise Rejected(f"the certificate is malformed: {type(error).__name__}: {error}") from error


def enclosure(network: Network, x: np.ndarray) -> Box:
    """Bounds of f(x) in real arithmetic at one image x [*shape].  [K] each"""
    point = Certificate(network.output, "linf", x, 0.0, None, x, x, (), {}, {}, {})
    low, high = _Check(point, network, Arithmetic(False)).box(network.output)
    return low[0], high[0]


def _dot(coef: np.ndarray, size: np.ndarray) -> np.ndarray:
    """⟨|coef|, size⟩.  [S, *shape], [1, *shape] -> [S]"""
    return (np.abs(coef) * size).reshape(len(coef), -1).sum(1)


class _Check:
    def __init__(self, certificate: Certificate, network: Network, arithmetic: Arithmetic) -> None:
        self.certificate, self.network, self.arithmetic = certificate, network, arithmetic
        self.region = Region.of(certificate, arithmetic)
        if certificate.x.shape != network.nodes[network.input].shape:
            raise Rejected("the image does not have the shape of the network's input")
        exact = Region.of(certificate, Arithmetic(True))
        ends = (exact.x + exact.down).down(), -(-exact.x - exact.up).down()
        self.claimed: dict[str, Box] = {network.input: ends}
        self.boxes: dict[str, Box] = dict(self.claimed)
        self.sound: set[tuple[str, str]] = set()

    def run(self) -> Checked:
        rows, bounds = self.certificate.rows, self.certificate.bounds
        shaped = rows.ndim == 2 and len(rows) and bounds.shape == rows.shape[:1]
        if not (shaped and (bounds > 0).all() and np.isfinite(rows).all()):
            raise Rejected("the claimed bounds are not one positive number a row")
        for number, step in enumerate(self.certificate.steps):
            self._claim(step, f"step {number}")
        coef = self.arithmetic.read(rows)
        derived = self._rows(self.network.output, coef, self.certificate.final, "the rows")
        if not (derived >= self.arithmetic.read(bounds)).all():
            raise Rejected("the bounds of the rows do not follow from the planes")
        return Checked(derived.nearest(), self.arithmetic.exact)

    def _claim(self, step: Step, where: str) -> None:
        """(d)"""
        low, high = self.box(step.target)
        shape = low.shape[1:]
        if not (step.lower.shape == step.upper.shape == shape and (step.lower <= step.upper).all()):
            raise Rejected(f"{where}: the claimed bounds are no interval of the tensor's shape")
        many = max(1, CHUNK // max(int(np.prod(node.shape)) for node in self.network.nodes.values()))
        for sign, claim, known in ((1.0, step.lower, low[0]), (-1.0, -step.upper, -high[0])):
            unproved = np.flatnonzero(~(known >= claim))
            for first in range(0, len(unproved), many):
                units = unproved[first : first + many]
                rows = np.zeros((len(units), claim.size))
                rows[np.arange(len(units)), units] = sign
                coef = self.arithmetic.read(rows.reshape(-1, *shape))
                found = self._rows(step.target, coef, step.planes, where)
                if not (found >= self.arithmetic.read(claim.reshape(-1)[units])).all():
                    raise Rejected(f"{where}: a claimed bound does not follow from the planes before it")
        self.claimed[step.target] = np.maximum(low, step.lower), np.minimum(high, step.upper)
        self.boxes = dict(self.claimed)

    # (a)

    def box(self, name: str) -> Box:
        """[1, *shape] each"""
        wanted, stack = set(), [name]
        while stack:
            current = stack.pop()
            if current not in self.boxes and current not in wanted:
                wanted.add(current)
                stack += self.network.nodes[current].operands
        for node in [self.network.nodes[known] for known in self.network.nodes if known in wanted]:
            low, high = self._interval(node, [self.boxes[operand] for operand in node.operands])
            if not ((low >= -LARGE) & (low <= high) & (high <= LARGE)).all():
                raise Rejected(f"the values of a {node.op} grow beyond 2^100")
            self.boxes[node.id] = low, high
        return self.boxes[name]

    def _interval(self, node: Node, operands: list[Box]) -> Box:
        lows, highs = [low for low, _ in operands], [high for _, high in operands]
        if node.op == "max":
            index = node.arrays["index"]
            return greatest(gather(lows[0], index), index >= 0), greatest(gather(highs[0], index), index >= 0)
        if node.op == "piecewise":
            ends = [value(node, point) for point in corners(node, dyadic(lows[0]), dyadic(highs[0]))]
            return reduce(Numbers.minimum, ends).down(), -(-reduce(Numbers.maximum, ends)).down()
        if node.op in RELAXED:
            return sigma_end(node.op == "tanh", lows[0], -1), sigma_end(node.op == "tanh", highs[0], 1)
        weight, bias, _ = node.parts
        if weight is None:
            low, high = push(node, lows, None), push(node, highs, None)
        else:
            plus, minus = np.maximum(weight, 0), np.minimum(weight, 0)
            low = push(node, lows, plus) + push(node, highs, minus)
            high = push(node, highs, plus) + push(node, lows, minus)
        size, shift, unsure = self._size(node), np.zeros(()) if bias is None else bias, self._unsure(node)
        size, terms = size + np.abs(shift) + unsure, 2 * node.terms + 4
        return lowered(low + shift - unsure, terms, size), -lowered(-high - shift - unsure, terms, size)

    def _most(self, name: str) -> np.ndarray:
        """M: no element of the node's value is greater.  [1, *shape]"""
        low, high = self.box(name)
        return np.maximum(np.abs(low), np.abs(high))

    def _size(self, node: Node) -> np.ndarray:
        """|W| M.  [1, *out]"""
        weight = node.parts[0]
        return push(node, list(map(self._most, node.operands)), None if weight is None else np.abs(weight))

    def _unsure(self, node: Node) -> np.ndarray:
        """What the rounding of W and b to float64 can change: δW M + δb.  [1, *out]"""
        slack = node.parts[2]
        if slack is None or not (slack[0].any() or slack[1].any()):
            return np.zeros((1, *node.shape))
        return GUARD * (slack[0] * self._most(node.operands[0]) + slack[1])

    # (c)

    def _rows(self, target: str, coef: Numbers, planes: Mapping[str, str], where: str) -> Numbers:
        """Lower bounds of ⟨coef, target⟩.  coef [S, *shape] -> [S]"""
        if coef.n.shape[1:] != self.network.nodes[target].shape:
            raise Rejected(f"{where}: the rows do not have the tensor's shape")
        self.box(target)
        total, pending = self.arithmetic.read(np.zeros(len(coef.n))), {target: coef}
        for node in reversed(self.network.nodes.values()):
            if node.id not in pending or node.id == self.network.input:
                continue
            rows = pending.pop(node.id)
            found = (
                self._relaxed(node, rows, planes, where) if node.op in RELAXED else self._affine(node, rows)
            )
            total = self.arithmetic.plus(total, found[1])
            for operand, part in zip(node.operands, found[0], strict=True):
                if operand in pending:
                    part = pending[operand] + part
                    total = self._cost(total, 1, part, operand)
                pending[operand] = part
        if self.network.input in pending:
            total = self.arithmetic.plus(total, self.region.minimum(pending[self.network.input]))
        return total

    def _cost(self, total: Numbers, terms: int, coef: Numbers, operand: str) -> Numbers:
        """`total` less what coefficients, rounded so often, can change."""
        return self.arithmetic.below(total, terms, lambda: _dot(coef.n, self._most(operand)))

    def _affine(self, node: Node, rows: Numbers) -> tuple[list[Numbers], Numbers]:
        arithmetic, (weight, bias, _) = self.arithmetic, node.parts
        w = None if weight is None else arithmetic.read(weight)
        shapes = [self.network.nodes[operand].shape for operand in node.operands]
        parts = pull(node, rows.n, None if w is None else w.n, shapes)
        const = arithmetic.dot(rows, arithmetic.read(np.zeros((1, *node.shape)) if bias is None else bias))
        const = arithmetic.plus(const, arithmetic.dot(-abs(rows), arithmetic.read(self._unsure(node))))
        const = arithmetic.below(const, node.terms, lambda: _dot(rows.n, self._size(node)))
        return [Numbers(part, rows.k + (0 if w is None else w.k)) for part in parts], const

    def _relaxed(
        self, node: Node, rows: Numbers, planes: Mapping[str, str], where: str
    ) -> tuple[list[Numbers], Numbers]:
        both, (operand,) = self._planes(node, planes, len(rows.n), where), node.operands
        rising, falling = rows.positive(), rows.negative()
        read, dot = self.arithmetic.read, self.arithmetic.dot
        low, high = both.lower, both.upper
        const = self.arithmetic.plus(dot(rising, read(low.bias)), dot(falling, read(high.bias)))
        if node.op == "max":
            rising, falling = rising.at((..., None)), falling.at((..., None))
        coef = rising * read(low.slope) + falling * read(high.slope)
        size, shape = abs(coef), self.network.nodes[operand].shape
        if node.op == "max":
            coef, size = (form.moved(lambda n: scatter(n, node, shape)) for form in (coef, size))
        return [coef], self._cost(const, node.terms + 1, size, operand)

    # (b)

    def _planes(self, node: Node, planes: Mapping[str, str], rows: int, where: str) -> Planes:
        if node.id not in planes:
            raise Rejected(f"{where}: no planes for a {node.op} on the way")
        key = planes[node.id]
        both = self.certificate.planes[key]
        wide = node.arrays["index"].shape if node.op == "max" else node.shape
        for plane in (both.lower, both.upper):
            count = len(plane.bias)
            fits = plane.bias.shape == (count, *node.shape) and plane.slope.shape == (count, *wide)
            if not fits or count not in (1, rows):
                raise Rejected(f"{where}: a plane does not have the shape of its node")
        if (node.id, key) not in self.sound:
            low, high = (dyadic(side[0]) for side in self.box(node.operands[0]))
            if not sandwiched(node, both, low, high):
                raise Rejected(f"{where}: planes of a {node.op} do not hold on its box")
            self.sound.add((node.id, key))
        return both
