"""The theorem, and the check that proves it.

Theorem.  Let f be the real-valued function of a `Network` whose digest is the certificate's: its operators in real
arithmetic, its weights the rational numbers that their float64 values are.  If `check(certificate, network)` returns,
then rows_s·f(x') ≥ bounds_s > 0 for every row s and every x' of the certificate's region.

Proof, as it is computed.  (a) A box around a node's value follows from boxes around its operands (interval arithmetic),
and from the region at the input.  (b) Two planes sandwich a nonlinear node where `sandwiched` decides so, exactly, on
its operand's box.  (c) A linear form of a node's value is at least a linear form of its operands' values plus a
constant: by W and b where it is affine, by the lower plane for positive coefficients and the upper plane for negative
ones where it is not; so, node by node, at least a linear form of x', whose minimum over the region is bounded below.
(d) A claimed box is accepted where (a) or (c) imply it, and then replaces what was known; boxes only shrink, so planes
stay valid.  (e) The rows are bounded by (c).  In float64 each step is moved down by a bound of its rounding: with
|x| ≤ M for a node's operands, coefficients rounded in a sum of m products change the form by at most γ_m |coef||W|M.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from certnas.checker.certificate import Certificate, Plane, Planes, Step
from certnas.checker.network import AFFINE, RELAXED, Network, Node, gather, repeats, scatter
from certnas.checker.numbers import LARGE, Arithmetic, Numbers, exactly
from certnas.checker.region import Region
from certnas.checker.relaxations import corners, greatest, sandwiched, sigma_range, value

Box = tuple[Numbers, Numbers]
EXACT_WORK = 30_000_000
"""Products up to which integers are used where the caller does not say."""
CHUNK = 1 << 22


class Rejected(ValueError):
    """The certificate does not prove its claim; the text says where."""


@dataclass(frozen=True)
class Checked:
    """What was proved: rows·f ≥ bounds on the region; derived: the bounds that the check arrived at.  [S]"""

    bounds: np.ndarray
    derived: np.ndarray
    exact: bool


def check(certificate: Certificate, network: Network, *, exact: bool | None = None) -> Checked:
    """Proves the theorem above, in integers (exact), in float64, or in whichever the size suggests (None).

    Raises Rejected where the certificate proves nothing about this network.
    """
    if certificate.network != network.output:
        raise Rejected("the certificate is about another network: the digests differ")
    if exact is None:
        exact = _work(certificate, network) <= EXACT_WORK
    try:
        return _Check(certificate, network, Arithmetic(exact)).run()
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, ZeroDivisionError) as error:
        if isinstance(error, Rejected):
            raise
        raise Rejected(f"the certificate is malformed: {type(error).__name__}: {error}") from error


def enclosure(network: Network, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of f(x) in real arithmetic at one image x [*shape].  [K] each"""
    nothing = np.zeros((0, 0))
    point = Certificate(network.output, "linf", x, 0.0, None, nothing, nothing, (), {}, {}, {})
    low, high = _Check(point, network, Arithmetic(False)).box(network.output)
    return low.n[0], high.n[0]


def _work(certificate: Certificate, network: Network) -> int:
    """About how many products the check multiplies."""
    rows = len(certificate.rows) + 2 * sum(step.lower.size for step in certificate.steps if step.planes)
    once = 0
    for node in network.nodes.values():
        terms = AFFINE[node.op].terms(node)[0] if node.op in AFFINE else 4
        once += int(np.prod(node.shape)) * terms
    return rows * once


class _Check:
    def __init__(self, certificate: Certificate, network: Network, arithmetic: Arithmetic) -> None:
        self.certificate, self.network, self.arithmetic = certificate, network, arithmetic
        self.order = list(network.nodes)
        self.region = Region.of(certificate, arithmetic)
        if certificate.x.shape != network.nodes[network.input].shape:
            raise Rejected("the image does not have the shape of the network's input")
        self.claimed: dict[str, Box] = {network.input: self.region.box()}
        self.boxes: dict[str, Box] = dict(self.claimed)
        self.sound: set[tuple[str, str]] = set()

    def run(self) -> Checked:
        certificate = self.certificate
        rows, bounds = certificate.rows, certificate.bounds
        if rows.ndim != 2 or not len(rows) or bounds.shape != rows.shape[:1] or not (bounds > 0).all():
            raise Rejected("the claimed bounds are not one positive number a row")
        for number, step in enumerate(certificate.steps):
            self._claim(step, f"step {number}")
        coef = self.arithmetic.read(rows)
        derived = self._rows(self.network.output, coef, certificate.final, "the rows")
        if not (derived >= self.arithmetic.read(bounds)).all():
            raise Rejected("the bounds of the rows do not follow from the planes")
        return Checked(bounds, derived.nearest(), self.arithmetic.exact)

    def _claim(self, step: Step, where: str) -> None:
        """(d): a claimed box, by (a) where that implies it and else by (c)."""
        known = self.box(step.target)
        shape = known[0].n.shape
        if (
            step.lower.shape != shape[1:]
            or step.upper.shape != shape[1:]
            or not (step.lower <= step.upper).all()
        ):
            raise Rejected(f"{where}: the claimed bounds are no interval of the tensor's shape")
        lower, upper = (self.arithmetic.read(side[None]) for side in (step.lower, step.upper))
        for sign, side, old in ((1, lower, known[0]), (-1, -upper, -known[1])):
            open_ = np.flatnonzero(~(old >= side).reshape(-1))
            size = max(1, CHUNK // max(int(np.prod(node.shape)) for node in self.network.nodes.values()))
            for first in range(0, len(open_), size):
                units = open_[first : first + size]
                rows = np.zeros((len(units), old.n.size))
                rows[np.arange(len(units)), units] = sign
                coef = self.arithmetic.read(rows.reshape(-1, *shape[1:]))
                found = self._rows(step.target, coef, step.planes, where)
                if not (found >= side.moved(np.ravel).at(units)).all():
                    raise Rejected(f"{where}: a claimed bound does not follow from the planes before it")
        self.claimed[step.target] = known[0].maximum(lower), known[1].minimum(upper)
        self.boxes = dict(self.claimed)

    def box(self, name: str) -> Box:
        """(a).  [1, *shape] each"""
        for node in self._between(name, self.boxes):
            found = self._interval(node)
            if not (_bounded(found[0]) and _bounded(found[1])):
                raise Rejected(f"the values of a {node.op} grow beyond 2^100")
            self.boxes[node.id] = found
        return self.boxes[name]

    def _between(self, name: str, known: Mapping[str, Box]) -> Iterator[Node]:
        """The nodes that `name` needs and that are not known, in order."""
        wanted, stack = set(), [name]
        while stack:
            current = stack.pop()
            if current not in known and current not in wanted:
                wanted.add(current)
                stack += self.network.nodes[current].operands
        return (self.network.nodes[name] for name in self.order if name in wanted)

    def _interval(self, node: Node) -> Box:
        operands = [self.box(operand) for operand in node.operands]
        if node.op in AFFINE:
            return self._affine_interval(node, operands)
        low, high = operands[0]
        if node.op == "max":
            index = node.arrays["index"]
            return greatest(low.moved(lambda n: gather(n, index)), index >= 0), greatest(
                high.moved(lambda n: gather(n, index)), index >= 0
            )
        if node.op == "piecewise":
            ends = [value(node, point) for point in corners(node, exactly(low), exactly(high))]
            least, most = reduce(Numbers.minimum, ends), reduce(Numbers.maximum, ends)
            return self.arithmetic.lower_of(least), self.arithmetic.upper_of(most)
        outer = np.nextafter(low.nearest(), -np.inf), np.nextafter(high.nearest(), np.inf)
        sides = sigma_range(node.op == "tanh", *outer)
        return self.arithmetic.read(sides[0]), self.arithmetic.read(sides[1])

    def _affine_interval(self, node: Node, operands: list[Box]) -> Box:
        """W⁺l + W⁻u + b and W⁺u + W⁻l + b."""
        rule, arithmetic = AFFINE[node.op], self.arithmetic
        lows, highs = [low for low, _ in operands], [high for _, high in operands]
        weight, bias = self._parts(node)
        if weight is None:
            low, high = (self._push(node, side, None) for side in (lows, highs))
        else:
            plus, minus = weight.positive(), weight.negative()
            low = self._push(node, lows, plus) + self._push(node, highs, minus)
            high = self._push(node, highs, plus) + self._push(node, lows, minus)
        magnitude = self._magnitude(node)
        if bias is not None:
            low, high, magnitude = low + bias, high + bias, magnitude + abs(bias)
        slack = self._slack(node)
        if slack is not None:
            low, high, magnitude = low - slack, high + slack, magnitude + slack
        terms = 2 * rule.terms(node)[0] + 4
        return arithmetic.below(low, terms, lambda: magnitude), arithmetic.above(
            high, terms, lambda: magnitude
        )

    def _parts(self, node: Node) -> tuple[Numbers | None, Numbers | None]:
        rule = AFFINE[node.op]
        parts = [rule.weight(node), rule.bias(node)]
        weight, bias = (None if part is None else self.arithmetic.read(part) for part in parts)
        return weight, bias

    def _push(self, node: Node, operands: list[Numbers], weight: Numbers | None) -> Numbers:
        """W x in one scale for all operands."""
        k = max(x.k for x in operands)
        raw = [x.n * (1 << (k - x.k)) if x.k < k else x.n for x in operands]
        pushed = AFFINE[node.op].push(node, raw, None if weight is None else weight.n)
        return Numbers(pushed, k + (0 if weight is None else weight.k))

    def _magnitude(self, node: Node) -> Numbers:
        """|W| M for |operands| ≤ M.  [1, *out]"""
        weight, _ = self._parts(node)
        most = [abs(low).maximum(abs(high)) for low, high in (self.box(name) for name in node.operands)]
        return self._push(node, most, None if weight is None else abs(weight))

    def _slack(self, node: Node) -> Numbers | None:
        """What b and W rounded to float64 can change: δW M + δb."""
        slack = AFFINE[node.op].slack(node)
        if slack is None or not (slack[0].any() or slack[1].any()):
            return None
        low, high = self.box(node.operands[0])
        delta, shift = (self.arithmetic.read(part) for part in slack)
        change = abs(low).maximum(abs(high)) * delta + shift
        return self.arithmetic.above(change, 2, lambda: change)

    def _rows(self, target: str, coef: Numbers, planes: Mapping[str, str], where: str) -> Numbers:
        """(c): lower bounds of ⟨coef, target⟩.  coef [S, *shape] -> [S]"""
        if coef.n.shape[1:] != self.network.nodes[target].shape:
            raise Rejected(f"{where}: the rows do not have the tensor's shape")
        self.box(target)
        arithmetic = self.arithmetic
        total = arithmetic.read(np.zeros(len(coef.n)))
        pending = {target: coef}
        for name in reversed(self.order[1:]):
            if name not in pending:
                continue
            rows, node = pending.pop(name), self.network.nodes[name]
            if node.op in RELAXED:
                parts, const = self._relaxed(node, rows, planes, where)
            else:
                parts, const = self._affine(node, rows)
            total = arithmetic.plus(total, const)
            for operand, part in zip(node.operands, parts, strict=True):
                if operand in pending:
                    merged = pending[operand] + part
                    total = arithmetic.plus(total, self._rounded(abs(merged), 1, operand))
                    part = merged
                pending[operand] = part
        if self.network.input in pending:
            total = arithmetic.plus(total, self.region.minimum(pending[self.network.input]))
        return total

    def _rounded(self, size: Numbers, terms: int, operand: str) -> Numbers:
        """−γ_terms ⟨size, M⟩: what coefficients of that size, rounded so often, can cost.  Zero in integers."""
        nothing = self.arithmetic.read(np.zeros(len(size.n)))
        low, high = self.box(operand)
        most = abs(low).maximum(abs(high))
        return self.arithmetic.below(nothing, terms, lambda: -self.arithmetic.dot(-size, most))

    def _affine(self, node: Node, rows: Numbers) -> tuple[list[Numbers], Numbers]:
        rule, arithmetic = AFFINE[node.op], self.arithmetic
        weight, bias = self._parts(node)
        raw = None if weight is None else weight.n
        parts = rule.pull(node, rows.n, raw, self.network.shapes(node))
        k = rows.k + (0 if weight is None else weight.k)
        const = arithmetic.read(np.zeros(len(rows.n)))
        if bias is not None:
            const = arithmetic.dot(rows, bias.moved(lambda n: np.broadcast_to(n, (1, *node.shape))))
        slack = self._slack(node)
        if slack is not None:
            const = arithmetic.plus(const, arithmetic.dot(-abs(rows), slack))
        cost = arithmetic.below(
            const, rule.terms(node)[1] + 1, lambda: -arithmetic.dot(-abs(rows), self._magnitude(node))
        )
        return [Numbers(part, k) for part in parts], cost

    def _relaxed(
        self, node: Node, rows: Numbers, planes: Mapping[str, str], where: str
    ) -> tuple[list[Numbers], Numbers]:
        arithmetic = self.arithmetic
        both = self._planes(node, planes, len(rows.n), where)
        rising, falling = rows.positive(), rows.negative()
        slopes = [arithmetic.read(plane.slope) for plane in (both.lower, both.upper)]
        bias = [arithmetic.read(plane.bias) for plane in (both.lower, both.upper)]
        const = arithmetic.plus(arithmetic.dot(rising, bias[0]), arithmetic.dot(falling, bias[1]))
        if node.op == "max":
            rising, falling = (side.at((..., None)) for side in (rising, falling))
        coef = rising * slopes[0] + falling * slopes[1]
        terms = 1
        if node.op == "max":
            index, shape = node.arrays["index"], self.network.shapes(node)[0]
            terms += repeats(node)
            size = abs(coef).moved(lambda n: scatter(n, index, shape))
            coef = coef.moved(lambda n: scatter(n, index, shape))
        else:
            size = abs(coef)
        return [coef], arithmetic.plus(const, self._rounded(size, terms, node.operands[0]))

    def _planes(self, node: Node, planes: Mapping[str, str], rows: int, where: str) -> Planes:
        """(b): the planes that a step names for a node, once they are proved."""
        if node.id not in planes:
            raise Rejected(f"{where}: no planes for a {node.op} on the way")
        key = planes[node.id]
        both = self.certificate.planes[key]
        wide = (node.arrays["index"].shape[-1],) if node.op == "max" else ()
        for plane in (both.lower, both.upper):
            _shaped(plane, node.shape, wide, rows, where)
        if (node.id, key) not in self.sound:
            low, high = (exactly(side).at(0) for side in self.box(node.operands[0]))
            if not sandwiched(node, both, low, high):
                raise Rejected(f"{where}: planes of a {node.op} do not hold on its box")
            self.sound.add((node.id, key))
        return both


def _shaped(plane: Plane, shape: tuple[int, ...], wide: tuple[int, ...], rows: int, where: str) -> None:
    count = len(plane.bias)
    if count not in (1, rows) or plane.bias.shape != (count, *shape):
        raise Rejected(f"{where}: a plane does not have the shape of its node")
    if plane.slope.shape != (count, *shape, *wide):
        raise Rejected(f"{where}: a plane's slopes do not have the shape of its node")


def _bounded(x: Numbers) -> bool:
    return bool((np.abs(x.nearest()) <= LARGE).all())
