"""Boxes around the values of a network's nodes, claimed or derived by interval arithmetic with outward rounding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from certnas.checker.curves import curve_end
from certnas.checker.network import AffineMap, CheckedNetwork, CheckedNode, gather, push
from certnas.checker.numbers import GUARD, LARGE, Arithmetic, dyadic
from certnas.checker.rejected import demand
from certnas.checker.relaxations import corners, greatest, value

Box = tuple[np.ndarray, np.ndarray]
"""low ≤ value ≤ high.  [1, *shape] each"""


class Boxes:
    """The box of each tensor: a claimed box that was proved, or one derived from the boxes before it."""

    def __init__(
        self,
        network: CheckedNetwork,
        arithmetic: Arithmetic,
        claimed: Mapping[str, Box],
        derived: Mapping[str, Box] | None = None,
    ) -> None:
        self.network, self.arithmetic, self.claimed = network, arithmetic, claimed
        self.found: dict[str, Box] = {**(derived or {}), **claimed}

    def of(self, name: str) -> Box:
        """The box of a tensor; the boxes of the nodes before it are derived and kept."""
        if name not in self.found:
            for node in self.network.nodes.values():
                if node.id not in self.found:
                    self.found[node.id] = self._derived(node)
                if node.id == name:
                    break
        return self.found[name]

    def claiming(self, name: str, box: Box) -> Boxes:
        """The boxes with a proved box of a tensor; derived boxes are derived again, since they may become tighter."""
        return Boxes(self.network, self.arithmetic, {**self.claimed, name: box})

    def halving(self, name: str, box: Box) -> Boxes:
        """The boxes with a smaller box of one tensor; derived boxes still hold, and are kept."""
        return Boxes(self.network, self.arithmetic, {**self.claimed, name: box}, self.found)

    def most(self, name: str) -> np.ndarray:
        """M, an upper bound of the size of each element of a tensor.  [1, *shape]"""
        low, high = self.of(name)
        return np.maximum(np.abs(low), np.abs(high))

    def size(self, node: CheckedNode) -> np.ndarray:
        """|W| M of an affine node, an upper bound of Σ |W x|.  [1, *out]"""
        weight = node.affine.weight
        most = [self.most(operand) for operand in node.operands]
        return push(node, most, None if weight is None else np.abs(weight))

    def unsure(self, node: CheckedNode) -> np.ndarray:
        """δW M + δb, an upper bound of the error of W x + b that the rounding of W and b causes.  [1, *out]"""
        weight_error, bias_error = node.affine.weight_error, node.affine.bias_error
        if weight_error is None or bias_error is None:
            return np.zeros((1, *node.shape))
        return GUARD * (weight_error * self.most(node.operands[0]) + bias_error)

    def _derived(self, node: CheckedNode) -> Box:
        """(a)  The box of a node's value, from the boxes of its operands."""
        low, high = self._interval(node)
        fits = (low >= -LARGE) & (low <= high) & (high <= LARGE)
        demand(fits.all(), f"the values of a {node.op} grow beyond 2^100")
        return low, high

    def _interval(self, node: CheckedNode) -> Box:
        low, high = self.found[node.operands[0]]
        match node.op:
            case "max":
                return _max(node, low), _max(node, high)
            case "piecewise":
                return _piecewise(node, low, high)
            case "sigmoid" | "tanh":
                tanh = node.op == "tanh"
                return curve_end(tanh, low, up=False), curve_end(tanh, high, up=True)
        return self._affine(node, node.affine)

    def _affine(self, node: CheckedNode, affine: AffineMap) -> Box:
        """The lower end W⁺ low + W⁻ high + b and the upper end W⁺ high + W⁻ low + b, rounded outward.

        Each adds 2m products for the m weights of a row of W, then the bias and the error of W and b.
        """
        boxes = [self.found[operand] for operand in node.operands]
        low, high = _weighted(node, affine.weight, [low for low, _ in boxes], [high for _, high in boxes])
        shift, unsure = np.zeros(()) if affine.bias is None else affine.bias, self.unsure(node)
        size, terms = self.size(node) + np.abs(shift) + unsure, 2 * node.terms + 4
        lowered = self.arithmetic.lowered
        return lowered(low + shift - unsure, terms, size), -lowered(-high - shift - unsure, terms, size)


def _weighted(
    node: CheckedNode, weight: np.ndarray | None, lows: list[np.ndarray], highs: list[np.ndarray]
) -> Box:
    """W x for lows ≤ x ≤ highs, as float64 computes it."""
    if weight is None:
        return push(node, lows, None), push(node, highs, None)
    positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
    low = push(node, lows, positive) + push(node, highs, negative)
    return low, push(node, highs, positive) + push(node, lows, negative)


def _max(node: CheckedNode, side: np.ndarray) -> np.ndarray:
    """The maximum over windows of one side of the operand's box, exactly."""
    index = node.arrays["index"]
    return greatest(gather(side, index), index >= 0)


def _piecewise(node: CheckedNode, low: np.ndarray, high: np.ndarray) -> Box:
    """The least and the greatest value over ends and kinks, computed exactly and rounded outward."""
    least = most = None
    for x in corners(node, dyadic(low), dyadic(high)):
        exact = value(node, x)
        least = exact if least is None else least.minimum(exact)
        most = exact if most is None else most.maximum(exact)
    assert least is not None and most is not None
    return least.down(), most.up()
