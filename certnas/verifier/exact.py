"""Bounds in rational arithmetic, for a strict inequality that holds exactly at its bound.

In float64 a lower bound of 0 does not prove ≥ 0; here nothing is rounded. Intervals are propagated forward, and rows
backward through planes. The slopes of the planes are chosen; their offsets follow exactly from the corners of the
function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from torch import Tensor

from certnas import bounds
from certnas.checker.network import CheckedNetwork, CheckedNode, gather, pull, push
from certnas.checker.relaxations import greatest
from certnas.errors import UserError
from certnas.proofs.extract import plain
from certnas.verifier.property import Clause, Constraint, Property

LARGEST = 100_000
"""The most weights and units of a network; a bound of a network of this size takes about a second."""
Array = np.ndarray[Any, np.dtype[Any]]
"""An array of rational numbers, unless stated otherwise."""
Ends = tuple[Array, Array]
"""The lower and the upper end of intervals."""
LOWER_SLOPES = ("chord", "least", "greatest")
"""The slope of an unstable unit's lower plane: that of its upper plane, or of its least or greatest piece."""


Equal = Callable[[int, Tensor, Tensor], bool]
"""Maps the index of a clause and a box, lower and upper [n], to whether no input of the box satisfies the clause."""


def equal_bounds(network: bounds.Network, prop: Property) -> Equal | None:
    """A test that decides clauses with a strict constraint in rational arithmetic.

    network: the network of `problem_of` for the property.
    Returns None if no clause has a strict constraint, or if the network has no exact bounds.
    """
    if not any(constraint.strict for clause in prop.clauses for constraint in clause.constraints):
        return None
    exact = _exact(network)
    if exact is None:
        return None

    def settled(clause: int, lower: Tensor, upper: Tensor) -> bool:
        own = prop.clauses[clause]
        if not any(constraint.strict for constraint in own.constraints):
            return False
        return exact.impossible(own, lower.cpu().numpy(), upper.cpu().numpy(), relational=prop.relational)

    return settled


def _exact(network: bounds.Network) -> Exact | None:
    """The exact bounds of a network; None if it is too large, or if a weight or an operator has no exact form."""
    elements = sum(value.numel() for value in network.values.values() if hasattr(value, "numel"))
    units = sum(int(np.prod(node.shape)) for node in network.graph.nodes.values())
    if elements + units > LARGEST:
        return None
    try:
        found = plain(network).network
    except UserError:  # the checker has no such operator
        return None
    errors = [e for node in found.nodes.values() for e in (node.affine.weight_error, node.affine.bias_error)]
    rounded = any(error is not None and error.any() for error in errors)
    return None if rounded else Exact(found)


@dataclass(frozen=True)
class Exact:
    """Bounds of a network in rational arithmetic."""

    network: CheckedNetwork
    """The network in the checker's operators."""

    def impossible(self, clause: Clause, lower: Array, upper: Array, *, relational: bool) -> bool:
        """Whether no input of the clause's box with lower ≤ X ≤ upper [n] satisfies the clause.

        This holds if some constraint never holds: a strict one if its excess is at least 0, any other if it is above
        0.
        relational: whether the network's output is followed by its inputs.
        """
        shape = self.network.nodes[self.network.input].shape
        sides = [
            (max(Fraction(low), least), min(Fraction(high), most))
            for low, high, (least, most) in zip(lower.tolist(), upper.tolist(), clause.box.sides, strict=True)
        ]
        if any(low > high for low, high in sides):
            return True
        ends = tuple(_array([side[k] for side in sides]).reshape(1, *shape) for k in (0, 1))
        boxes = self._boxes((ends[0], ends[1]))
        return any(
            excess > 0 or (constraint.strict and excess == 0)
            for constraint in clause.constraints
            for excess in self._excess(constraint, boxes, len(sides) * relational)
        )

    def _boxes(self, area: Ends) -> dict[str, Ends]:
        """The interval of every tensor, [1, *shape] each."""
        known: dict[str, Ends] = {self.network.input: area}
        for node in self.network.nodes.values():
            if node.op != "input":
                known[node.id] = _interval(node, [known[name] for name in node.operands])
        return known

    def _excess(self, constraint: Constraint, boxes: Mapping[str, Ends], inputs: int) -> Iterator[Fraction]:
        """Lower bounds of Σ coef·Y + Σ inputs·X − bound, one for each rule of choosing slopes."""
        shape = self.network.nodes[self.network.output].shape
        row = _array([Fraction(0)] * int(np.prod(shape)))
        outputs = len(row) - inputs
        for place, value in constraint.coef:
            row[place] += value
        for place, value in constraint.inputs:
            row[outputs + place] += value
        for choice in LOWER_SLOPES:
            yield self._least(row.reshape(1, *shape), boxes, choice) - constraint.bound

    def _least(self, row: Array, boxes: Mapping[str, Ends], choice: str) -> Fraction:
        """A lower bound of a linear form [1, *output] over the box."""
        nodes, total = self.network.nodes, Fraction(0)
        pending = {self.network.output: row}
        for node in reversed(nodes.values()):
            coef = pending.pop(node.id, None)
            if coef is None:
                continue
            if node.op in ("sigmoid", "tanh", "max", "input"):
                total += _times(coef, boxes[node.id])
                continue
            if node.op == "piecewise":
                slope, offset = _planes(node, boxes[node.operands[0]], coef, choice)
                total += Fraction((coef * offset).sum())
                parts = [coef * slope]
            else:
                weight, bias = node.affine.weight, node.affine.bias
                if bias is not None:
                    total += Fraction((coef * _array(bias)).sum())
                shapes = [nodes[name].shape for name in node.operands]
                parts = pull(node, coef, None if weight is None else _array(weight), shapes)
            for name, part in zip(node.operands, parts, strict=True):
                pending[name] = pending[name] + part if name in pending else part
        return total


def _array(values: Any) -> Array:
    """The values as rational numbers, element by element."""
    given = np.asarray(values)
    found = np.empty(given.shape, dtype=object)
    found.reshape(-1)[:] = [Fraction(value) for value in given.reshape(-1).tolist()]
    return found


def _times(coef: Array, ends: Ends) -> Fraction:
    """The minimum of ⟨coef, x⟩ over a box."""
    return Fraction(np.where(coef > 0, coef * ends[0], coef * ends[1]).sum())


def _interval(node: CheckedNode, operands: list[Ends]) -> Ends:
    """The interval of a node's value."""
    low, high = operands[0]
    if node.op in ("sigmoid", "tanh"):
        ends = (_array(np.full(low.shape, -1.0 if node.op == "tanh" else 0.0)), _array(np.ones(low.shape)))
        return ends
    if node.op == "max":
        index = node.arrays["index"]
        least, most = (greatest(gather(side, index), index >= 0) for side in (low, high))
        return least, most
    if node.op == "piecewise":
        values = [_value(node, x) for x in _corners(node, low, high)]
        return _extreme(np.minimum, values), _extreme(np.maximum, values)
    weight, bias = node.affine.weight, node.affine.bias
    if weight is None:
        return push(node, [low for low, _ in operands], None), push(
            node, [high for _, high in operands], None
        )
    w = _array(weight)
    up, down = np.where(w > 0, w, 0 * w), np.where(w > 0, 0 * w, w)
    shift = 0 if bias is None else _array(bias)
    least = push(node, [low], up) + push(node, [high], down) + shift
    return least, push(node, [high], up) + push(node, [low], down) + shift


def _extreme(best: Any, values: list[Array]) -> Array:
    found = values[0]
    for value in values[1:]:
        found = best(found, value)
    return found


def _value(node: CheckedNode, x: Array) -> Array:
    """The piecewise linear function."""
    kinks, slopes = _array(node.arrays["kinks"]), _array(node.arrays["slopes"])
    total = _array(node.arrays["value"]).reshape(-1)[0] + (x - kinks[0]) * slopes[0]
    for i, kink in enumerate(kinks):
        total = total + np.maximum(x - kink, _array(0)) * (slopes[i + 1] - slopes[i])
    return total


def _corners(node: CheckedNode, low: Array, high: Array) -> list[Array]:
    """The ends of the interval, and the kinks clamped to it: a piecewise linear function is extreme only there."""
    kinks = [Fraction(kink) for kink in node.arrays["kinks"].reshape(-1).tolist()]
    return [low, high, *(np.minimum(np.maximum(low, _array(kink)), high) for kink in kinks)]


def _planes(node: CheckedNode, ends: Ends, coef: Array, choice: str) -> Ends:
    """The slope and offset of the plane for each coefficient: a lower plane if it is positive, otherwise an upper
    plane.

    A plane with any slope is valid if its offset is the least (greatest) value of f(x) − slope·x over the corners.
    """
    corners = _corners(node, *ends)
    values = [_value(node, x) for x in corners]
    wide = ends[1] > ends[0]
    width = np.where(wide, ends[1] - ends[0], _array(1))
    slope = np.where(wide, (values[1] - values[0]) / width, _array(0))
    if choice != "chord":
        bent = _extreme(np.logical_or, [(ends[0] < x) & (x < ends[1]) for x in corners[2:]])
        pieces = _array(node.arrays["slopes"])
        own = min(pieces) if choice == "least" else max(pieces)
        slope = np.where(bent & (coef > 0), own, slope)
    rests = [value - slope * x for value, x in zip(values, corners, strict=True)]
    return slope, np.where(coef > 0, _extreme(np.minimum, rests), _extreme(np.maximum, rests))
