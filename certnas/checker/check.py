"""The theorem, and the check that proves it.

Theorem.  Let f be the real-valued function of a `Network` whose digest is the certificate's: its operators in real
arithmetic, its weights the rational numbers that their float64 values are.  If `check(certificate, network)` returns,
then no x' of a claim's area meets any of its clauses: for each clause c some s has rows_cs·f(x') > offsets_cs.  (Where
every clause is one row and its offset 0, all rows of f are positive on the area.)

Proof, as it is computed.  (a) A box around a node's value follows from boxes around its operands, by interval
arithmetic rounded outward, and from the area at the input.  (b) Two planes sandwich a nonlinear node where
`sandwiched` decides so, exactly, on its operand's box; on one true box is for every value of the node.  (c) A linear
form of a node's value is at least a linear form of its operands' values plus a constant: by W and b where it is affine,
by the lower plane for positive coefficients and the upper plane for negative ones where it is not; so, node by node,
at least a linear form of x', whose minimum over the area is bounded below.  (d) A claimed box is accepted where (a)
or (c) imply it, and then tightens what was known.  (e) A split makes two parts of a part of the area: where a unit z of
some tensor, or of the input, is ≤ p and where it is ≥ p.  Every point lies in one of them, so a clause that is refuted
in both is refuted in the part; what was known of the part is known in both; where z's box leaves no room, no point is.
(f) In a part with splits σ_j (z_j − p_j) ≥ 0 a clause c is refuted where, for mix_s ≥ 0 and multipliers β_j ≥ 0,
Σ_s mix_s (rows_cs·f − offsets_cs) − Σ_j β_j σ_j (z_j − p_j) is positive by (c): then so is the first sum.
In float64 each step of (c) is moved down by a bound of its rounding: with |x| ≤ M for a node's operands, coefficients
rounded in a sum of m products change the form by at most γ_m |coef| |W| M.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import reduce
from math import prod
from typing import Any

import numpy as np

from certnas.checker.certificate import Certificate, Planes, Refutation, Split, Step
from certnas.checker.network import RELAXED, Network, Node, gather, pull, push, scatter
from certnas.checker.numbers import GUARD, LARGE, Arithmetic, Numbers, dyadic
from certnas.checker.region import Region
from certnas.checker.relaxations import corners, greatest, sandwiched, sigma_end, value

Box = tuple[np.ndarray, np.ndarray]
Pending = dict[str, Numbers]
CHUNK = 1 << 22
MALFORMED = (ValueError, KeyError, IndexError, TypeError, OverflowError, ZeroDivisionError, RecursionError)


class Rejected(Exception):
    """The certificate does not prove its claim; the text says where."""


def _demand(holds: object, otherwise: str) -> None:
    if not holds:
        raise Rejected(otherwise)


def check(certificate: Certificate, network: Network, *, exact: bool = False, spare: int = 1) -> np.ndarray:
    """Proves the theorem above, in integers (exact) or in float64; the bound by which each clause is refuted, [C].

    spare: by what factor more rounding of float64 is assumed, so that sums in any other order prove it too.
    Raises Rejected where the certificate proves nothing about this network.
    """
    _demand(certificate.network == network.output, "it is about another network: the digests differ")
    try:
        _well_formed(certificate)
        found = Known(certificate, network, Arithmetic(exact, spare)).refuted(0)
        clauses = range(len(certificate.rows))
    except MALFORMED as error:
        raise Rejected(f"the certificate is malformed: {type(error).__name__}: {error}") from error
    _demand(clauses and set(clauses) <= set(found), f"only clauses {sorted(found)} are refuted")
    return np.array([found[c] for c in clauses])


def _well_formed(of: Certificate) -> None:
    """Raises Rejected where the area is unbounded or a clause stands twice."""
    area = (*(array for array in (of.x, *of.box)), np.array(of.eps))
    _demand(all((np.abs(side) <= LARGE).all() for side in area), "its area is not bounded by finite numbers")
    _demand(of.eps >= 0, "its radius is negative")
    said = {
        ((row + 0.0).tobytes(), (offset + 0.0).tobytes())
        for row, offset in zip(of.rows, of.offsets, strict=True)
    }
    _demand(len(said) == len(of.rows), "one of its clauses stands twice")


def _dot(coef: np.ndarray, size: np.ndarray) -> np.ndarray:
    """⟨|coef|, size⟩.  [S, *shape], [1, *shape] -> [S]"""
    return (np.abs(coef) * size).reshape(len(coef), -1).sum(1)


class Known:
    """What is known of one part of an area: boxes of tensors, planes that hold, the splits (z, σ, p)."""

    def __init__(self, certificate: Certificate, network: Network, arithmetic: Arithmetic) -> None:
        self.certificate, self.network, self.arithmetic = certificate, network, arithmetic
        shapes = {network.nodes[network.input].shape, *(a.shape for a in (certificate.x, *certificate.box))}
        _demand(len(shapes) == 1, "the area does not have the shape of the network's input")
        self.region = Region.of(certificate, self.arithmetic)
        self.claimed: dict[str, Box] = {network.input: (certificate.box[0][None], certificate.box[1][None])}
        self.boxes: dict[str, Box] = dict(self.claimed)
        self.sound: set[tuple[str, str]] = set()
        self.splits: tuple[Any, ...] = ()  # (tensor, index, σ, p)

    def refuted(self, number: int) -> dict[int, float]:
        """The clauses that a part of the certificate refutes here, and by how much."""
        part, where, found = self.certificate.parts[number], f"part {number}", dict[int, float]()
        for step in part.steps:
            self._claim(step, where)
        for given in part.refutations:
            found |= self._refutes(given, where)
        for split in part.splits:
            _demand(number < min(split.halves), f"{where}: it is split into earlier parts")
            below, above = (self._half(split, side) for side in (0, 1))
            found |= {c: min(below[c], above[c]) for c in below if c in above}
        return found

    def _half(self, split: Split, above: int) -> dict[int, float]:
        """(e)"""
        low, high = (end.copy() for end in self.box(split.tensor))
        at = np.unravel_index(split.unit, low.shape[1:])
        end, best = (low, np.maximum) if above else (high, np.minimum)
        end[0][at] = best(end[0][at], split.point)
        if low[0][at] > high[0][at]:
            return dict.fromkeys(range(len(self.certificate.rows)), np.inf)
        half, now = copy(self), {split.tensor: (low, high)}
        half.splits = (*self.splits, (split.tensor, at, above * 2.0 - 1, split.point))
        half.claimed, half.boxes, half.sound = self.claimed | now, self.boxes | now, set(self.sound)
        if split.tensor == self.network.input:
            area = replace(self.certificate, box=(low[0], high[0]))
            half.region, half.boxes = Region.of(area, self.arithmetic), dict(half.claimed)
        return half.refuted(split.halves[above])

    def _refutes(self, given: Refutation, where: str) -> dict[int, float]:
        """(f)"""
        of, mix, beta, clauses = self.certificate, given.mix, given.multipliers, list(given.clauses)
        rows, offsets, output = of.rows[clauses], of.offsets[clauses], self.network.output
        read, dot, count = self.arithmetic.read, self.arithmetic.dot, len(rows)
        out = self.network.nodes[output].shape
        sizes = mix.shape, (*mix.shape, *out), (count, len(self.splits)), (count,)
        fits = sizes == tuple(array.shape for array in (offsets, rows, beta, given.bounds))
        signs = (mix >= 0).all() and (beta >= 0).all() and (given.bounds > 0).all()
        _demand(fits and signs, f"{where}: a share or multiplier is missing or below 0, or a bound not above")
        terms = read(mix.reshape(*mix.shape, *[1] * (rows.ndim - 2))) * read(rows)
        pending, size = {output: terms.moved(lambda n: n.sum(1))}, terms.moved(lambda n: np.abs(n).sum(1))
        total = self._cost(dot(read(-mix), read(offsets)), mix.shape[1] + 1, size, output)
        for (tensor, at, side, point), column in zip(self.splits, beta.T, strict=True):
            coef = np.zeros((count, *self.network.nodes[tensor].shape))
            coef[(slice(None), *at)] = -side * column
            total = self._add(pending, tensor, read(coef), total)
            edge = dot(read(side * column[:, None]), read(np.full((1, 1), point)))
            total = self.arithmetic.plus(total, edge)
        derived = self._rows(pending, total, given.planes, where)
        _demand((derived >= read(given.bounds)).all(), f"{where}: a bound does not follow from the planes")
        return dict(zip(clauses, derived.nearest().tolist(), strict=True))

    def _claim(self, step: Step, where: str) -> None:
        """(d)"""
        (low, high), read = self.box(step.target), self.arithmetic.read
        fits = step.lower.shape == step.upper.shape == low.shape[1:] and (step.lower <= step.upper).all()
        _demand(fits, f"{where}: the claimed bounds are no interval of the tensor's shape")
        many = max(1, CHUNK // max(prod(node.shape) for node in self.network.nodes.values()))
        for sign, claim, known in ((1.0, step.lower, low[0]), (-1.0, -step.upper, -high[0])):
            unproved = np.flatnonzero(~(known >= claim))
            for first in range(0, len(unproved), many):
                units = unproved[first : first + many]
                rows = np.zeros((len(units), claim.size))
                rows[np.arange(len(units)), units] = sign
                pending = {step.target: read(rows.reshape(-1, *claim.shape))}
                found = self._rows(pending, read(np.zeros(len(units))), step.planes, where)
                proved = (found >= read(claim.reshape(-1)[units])).all()
                _demand(proved, f"{where}: a claimed bound does not follow from the planes before it")
        self.claimed[step.target] = np.maximum(low, step.lower), np.minimum(high, step.upper)
        self.boxes = dict(self.claimed)

    def box(self, name: str) -> Box:
        """(a)  [1, *shape] each"""
        for node in (node for node in self.network.nodes.values() if node.id not in self.boxes):
            if name in self.boxes:
                break
            low, high = self._interval(node, [self.boxes[operand] for operand in node.operands])
            fits = (low >= -LARGE) & (low <= high) & (high <= LARGE)
            _demand(fits.all(), f"the values of a {node.op} grow beyond 2^100")
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
        plus = None if weight is None else np.maximum(weight, 0)
        low, high = push(node, lows, plus), push(node, highs, plus)
        if weight is not None:
            minus = np.minimum(weight, 0)
            low, high = low + push(node, highs, minus), high + push(node, lows, minus)
        size, shift, unsure = self._size(node), np.zeros(()) if bias is None else bias, self._unsure(node)
        size, terms = size + np.abs(shift) + unsure, 2 * node.terms + 4
        lowered = self.arithmetic.lowered
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
        if node.op != "scale":
            return np.zeros((1, *node.shape))
        weight, shift = node.parts[2]
        return GUARD * (weight * self._most(node.operands[0]) + shift)

    def _rows(self, pending: Pending, total: Numbers, planes: Mapping[str, str], where: str) -> Numbers:
        """(c)  Lower bounds of total + Σ ⟨coef, tensor⟩ of the pending tensors.  coef [S, *shape], total [S] -> [S]"""
        for node in list(self.network.nodes.values())[:0:-1]:  # the input is the first
            rows = pending.pop(node.id, None)
            if rows is None or not rows.n.any():
                continue
            both = self._planes(node, planes, len(rows.n), where) if node.op in RELAXED else None
            parts, const = self._relaxed(node, rows, both) if both else self._affine(node, rows)
            total = self.arithmetic.plus(total, const)
            for operand, part in zip(node.operands, parts, strict=True):
                total = self._add(pending, operand, part, total)
        if self.network.input in pending:
            total = self.arithmetic.plus(total, self.region.minimum(pending[self.network.input]))
        return total

    def _add(self, pending: Pending, name: str, coef: Numbers, total: Numbers) -> Numbers:
        """Adds to the pending coefficients of a tensor; `total` less what their rounding can change."""
        if name in pending:
            coef = pending[name] + coef
            total = self._cost(total, 1, coef, name)
        pending[name] = coef
        return total

    def _cost(self, total: Numbers, terms: int, coef: Numbers, operand: str) -> Numbers:
        """`total` less what coefficients, rounded so often, can change."""
        return self.arithmetic.below(total, terms, lambda: _dot(coef.n, self._most(operand)))

    def _affine(self, node: Node, rows: Numbers) -> tuple[list[Numbers], Numbers]:
        arithmetic, (weight, bias, _) = self.arithmetic, node.parts
        w = None if weight is None else arithmetic.read(weight)
        shapes = [self.network.nodes[operand].shape for operand in node.operands]
        parts = pull(node, rows.n, None if w is None else w.n, shapes)
        const = (
            arithmetic.read(np.zeros(len(rows.n)))
            if bias is None
            else arithmetic.dot(rows, arithmetic.read(bias))
        )
        if node.op == "scale":
            const = arithmetic.plus(const, arithmetic.dot(-abs(rows), arithmetic.read(self._unsure(node))))
        const = arithmetic.below(const, node.terms, lambda: _dot(rows.n, self._size(node)))
        return [Numbers(part, rows.k + (0 if w is None else w.k)) for part in parts], const

    def _relaxed(self, node: Node, rows: Numbers, planes: Planes) -> tuple[list[Numbers], Numbers]:
        (operand,), low, high = node.operands, planes.lower, planes.upper
        rising, falling = rows.positive(), rows.negative()
        read, dot = self.arithmetic.read, self.arithmetic.dot
        const = self.arithmetic.plus(dot(rising, read(low.bias)), dot(falling, read(high.bias)))
        if node.op == "max":
            rising, falling = rising.at((..., None)), falling.at((..., None))
        coef = rising * read(low.slope) + falling * read(high.slope)
        size, shape = abs(coef), self.network.nodes[operand].shape
        if node.op == "max":
            coef, size = (form.moved(lambda n: scatter(n, node, shape)) for form in (coef, size))
        return [coef], self._cost(const, node.terms + 1, size, operand)

    def _planes(self, node: Node, planes: Mapping[str, str], rows: int, where: str) -> Planes:
        """(b)"""
        _demand(node.id in planes, f"{where}: no planes for a {node.op} on the way")
        key = planes[node.id]
        both = self.certificate.planes[key]
        wide = node.arrays["index"].shape if node.op == "max" else node.shape
        for plane in (both.lower, both.upper):
            shapes = plane.bias.shape == (len(plane.bias), *node.shape), plane.slope.shape[1:] == wide
            fits = all(shapes) and len(plane.bias) == len(plane.slope) and len(plane.bias) in (1, rows)
            _demand(fits, f"{where}: a plane does not have the shape of its node")
        if (node.id, key) not in self.sound:
            holds = sandwiched(node, both, *(dyadic(side[0]) for side in self.box(node.operands[0])))
            _demand(holds, f"{where}: planes of a {node.op} do not hold on its box")
            self.sound.add((node.id, key))
        return both
