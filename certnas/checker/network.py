"""A network as data: a few operators on plain arrays, each node named by the digest of its whole computation.

Affine operators are maps y = W x + b. A factor that is no dyadic rational, such as batch normalisation's γ / √(σ² +
ε), is replaced by a float64 number and a proved bound of the error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np

from certnas.checker.scaling import Scaling, scaling

AFFINE, RELAXED = ("linear", "scale", "select", "add"), ("piecewise", "sigmoid", "tanh", "max")
SCALE = ("gamma", "mean", "divisor", "variance", "eps", "beta")
Shape = tuple[int, ...]


class Unsupported(ValueError):
    """The checker has no such operator."""


@dataclass(frozen=True)
class AffineMap:
    """W x + b of an affine node, and bounds of the error of its float64 numbers against the real-valued network."""

    weight: np.ndarray | None = None
    """W; None if it contains only 0 and 1."""
    bias: np.ndarray | None = None
    """b, [1, *shape]; None for 0."""
    weight_error: np.ndarray | None = None
    """The error of W, [*shape]; None if there is none."""
    bias_error: np.ndarray | None = None
    """The error of b, [*shape]; None if there is none."""


@dataclass(frozen=True)
class CheckedNode:
    """One operator of a network."""

    id: str
    """The digest of the computation."""
    op: str
    """The name of the operator."""
    operands: tuple[str, ...]
    """The digests of the operands."""
    shape: Shape
    """The shape of the output, without the batch."""
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    """The float64 arrays of the operator, and an integer array `index`."""

    @cached_property
    def affine(self) -> AffineMap:
        """W and b of an affine operator."""
        if self.op == "linear":
            return self._linear()
        return self._scale() if self.op == "scale" else AffineMap()

    def _linear(self) -> AffineMap:
        bias = self.arrays["bias"]
        every = np.repeat(bias, prod(self.shape) // prod(bias.shape), -1)
        return AffineMap(self.arrays["weight"], every.reshape(1, *self.shape))

    def _scale(self) -> AffineMap:
        columns = np.broadcast_arrays(*(self.arrays[name] for name in SCALE))
        flat = np.stack(columns, -1).reshape(-1, len(SCALE))
        units = [scaling(*values) for values in flat.tolist()]

        def wide(name: str) -> np.ndarray:
            values = np.array([getattr(unit, name) for unit in units], dtype=np.float64)
            return np.broadcast_to(values.reshape(columns[0].shape), self.shape)

        weight, bias, weight_error, bias_error = map(wide, Scaling._fields)
        return AffineMap(weight, bias[None], weight_error, bias_error)

    @cached_property
    def terms(self) -> int:
        """The largest number of products in an element of W x, or of a row times W."""
        if self.op == "linear":
            return max(self.arrays["weight"].shape[1:])
        return len(self.layers) if "index" in self.arrays else len(self.operands)

    @cached_property
    def layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The index in layers that contain each element at most once: (positions in the index, elements)."""
        index = self.arrays["index"].reshape(-1)
        places = np.argsort(index, kind="stable")
        places = places[index[places] >= 0]
        elements = index[places]  # in ascending order, so that the positions of an element are adjacent
        rank = np.arange(len(elements)) - np.searchsorted(elements, elements)
        count = int(rank.max(initial=0)) + 1
        return [(places[rank == layer], elements[rank == layer]) for layer in range(count)]


class CheckedNetwork:
    """Nodes in topological order; the id of the input depends only on its shape.

    The operators: linear: weight [g, o, i] times x as [g, i, …], plus bias [g, o, 1]. scale: γ (x − mean) / (divisor
    √(variance + eps)) + β, element by element. select: x[index], with 0 where the index is −1. add. piecewise: slopes
    between kinks, and the value at the first kink. sigmoid. tanh. max: over the last axis of x[index], without the
    elements whose index is −1.
    """

    def __init__(self, input_shape: Shape) -> None:
        self.nodes: dict[str, CheckedNode] = {}
        self.input = self.output = self.add("input", (), input_shape, {})

    def add(self, op: str, operands: tuple[str, ...], shape: Shape, arrays: Mapping[str, np.ndarray]) -> str:
        """Appends a node and returns its id; the same computation is stored once. Raises Unsupported for an unknown
        operator.
        """
        if op not in ("input", *RELAXED, *AFFINE):
            raise Unsupported(f"the checker knows no operator {op!r}")
        kept = {n: np.ascontiguousarray(a, dtype="<i8" if n == "index" else "<f8") for n, a in arrays.items()}
        header = [op, operands, shape, {name: a.shape for name, a in kept.items()}]
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        for name in sorted(kept):
            digest.update(kept[name].tobytes())
        self.output = digest.hexdigest()
        self.nodes.setdefault(self.output, CheckedNode(self.output, op, operands, shape, kept))
        return self.output


def push(node: CheckedNode, operands: list[np.ndarray], weight: np.ndarray | None) -> np.ndarray:
    """W x of an affine node, for its weight or a replacement of it.  operands [B, *in] -> [B, *out]"""
    x = operands[0]
    if node.op == "linear" and weight is not None:
        groups, _, inputs = weight.shape
        return np.matmul(weight, x.reshape(len(x), groups, inputs, -1)).reshape(len(x), *node.shape)
    if node.op == "select":
        return gather(x, node.arrays["index"])
    return x * weight if weight is not None else sum(operands[1:], start=x)


def pull(
    node: CheckedNode, coef: np.ndarray, weight: np.ndarray | None, shapes: list[Shape]
) -> list[np.ndarray]:
    """coef W of an affine node, one part for each operand.  [B, *out] -> [B, *in] each"""
    if node.op == "linear" and weight is not None:
        groups, outputs, _ = weight.shape
        rows = coef.reshape(len(coef), groups, outputs, -1)
        return [np.matmul(weight.swapaxes(1, 2), rows).reshape(len(coef), *shapes[0])]
    if node.op == "select":
        return [scatter(coef, node, shapes[0])]
    return [coef * weight] if weight is not None else [coef] * len(shapes)


def gather(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Selects elements: [B, *in] -> [B, *index's shape], with 0 where the index is −1."""
    flat = np.concatenate([x.reshape(len(x), -1), np.zeros((len(x), 1), dtype=x.dtype)], 1)
    return flat[:, index]


def scatter(coef: np.ndarray, node: CheckedNode, shape: Shape) -> np.ndarray:
    """The transpose of `gather`."""
    flat, rows = np.zeros((len(coef), prod(shape)), dtype=coef.dtype), coef.reshape(len(coef), -1)
    for places, elements in node.layers:
        flat[:, elements] += rows[:, places]
    return flat.reshape(len(coef), *shape)


def evaluate(network: CheckedNetwork, x: np.ndarray) -> np.ndarray:
    """Evaluates f(x) in float64, without bounds of its rounding.  [*shape] -> [*out]"""
    values = {network.input: x[None]}
    for node in list(network.nodes.values())[1:]:
        operands = [values[operand] for operand in node.operands]
        values[node.id] = _value(node, operands)
    return values[network.output][0]


def _value(node: CheckedNode, operands: list[np.ndarray]) -> np.ndarray:
    x = operands[0]
    match node.op:
        case "max":
            index = node.arrays["index"]
            return np.where(index >= 0, gather(x, index), -np.inf).max(-1)
        case "piecewise":
            return _piecewise(node, x)
        case "tanh":
            return np.tanh(x)
        case "sigmoid":
            return (1 + np.tanh(x / 2)) / 2
    bias = node.affine.bias
    return push(node, operands, node.affine.weight) + (0 if bias is None else bias)


def _piecewise(node: CheckedNode, x: np.ndarray) -> np.ndarray:
    kinks, slopes = node.arrays["kinks"], node.arrays["slopes"]
    total = node.arrays["value"] + (x - kinks[0]) * slopes[0]
    for i, kink in enumerate(kinks):
        total = total + np.maximum(x - kink, 0) * (slopes[i + 1] - slopes[i])
    return total
