"""The network as data: six operators over plain arrays, each node named by the digest of all that it computes.

Affine operators are maps y = W x + b.  A factor that is no dyadic rational, as batch normalisation's γ / √(σ² + ε),
is replaced by a float64 and a proved bound of what that changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import isqrt, prod

import numpy as np

AFFINE, RELAXED = ("linear", "scale", "select", "add"), ("piecewise", "sigmoid", "tanh", "max")
SCALE = ("gamma", "mean", "divisor", "variance", "eps", "beta")
Shape = tuple[int, ...]


class Unsupported(ValueError):
    """An operator that the checker does not know."""


@dataclass(frozen=True)
class Node:
    """One operator: operands by digest, output shape without the batch, float64 arrays and an integer index."""

    id: str
    op: str
    operands: tuple[str, ...]
    shape: Shape
    arrays: Mapping[str, np.ndarray] = field(repr=False)

    @cached_property
    def parts(self) -> tuple[np.ndarray | None, np.ndarray | None, tuple[np.ndarray, ...]]:
        """(W, None where it is all 0 and 1; b [1, *shape], None for 0; of a scale (δW, δb), |W − true W| ≤ δW)."""
        if self.op == "linear":
            weight, bias = self.arrays["weight"], self.arrays["bias"]
            every = np.repeat(bias, prod(self.shape) // prod(bias.shape), -1)
            return weight, every.reshape(1, *self.shape), ()
        if self.op != "scale":
            return None, None, ()
        columns = np.broadcast_arrays(*(self.arrays[name] for name in SCALE))
        rows = [_scaling(*values) for values in zip(*(c.reshape(-1).tolist() for c in columns), strict=True)]
        wide = [np.broadcast_to(np.reshape(r, columns[0].shape), self.shape) for r in zip(*rows, strict=True)]
        return wide[0], wide[1][None], (wide[2], wide[3])

    @cached_property
    def terms(self) -> int:
        """How many products an element of W x, or of a row times W, adds up at most."""
        sums = self.arrays["weight"].shape[1:] if self.op == "linear" else (len(self.operands),)
        return max(*sums, len(self.layers) if "index" in self.arrays else 1)

    @cached_property
    def layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The index in layers that name no element twice: (places in the index, elements)."""
        index = self.arrays["index"].reshape(-1)
        order = np.argsort(index, kind="stable")
        order = order[index[order] >= 0]
        named = index[order]
        rank = np.arange(len(named)) - np.searchsorted(named, named)
        return [(order[rank == r], named[rank == r]) for r in range(int(rank.max(initial=0)) + 1)]


class Network:
    """Nodes in topological order; the input's id depends on its shape alone.

    linear: weight [g, o, i] times x as [g, i, …], plus bias [g, o, 1].  scale: γ (x − mean) / (divisor √(variance +
    eps)) + β, element by element.  select: x[index], −1 for zero.  add.  piecewise: slopes between kinks, value at the
    first kink.  sigmoid.  tanh.  max: over the last axis of x[index], −1 for no element.
    """

    def __init__(self, input_shape: Shape) -> None:
        self.nodes: dict[str, Node] = {}
        self.input = self.output = self.add("input", (), input_shape, {})

    def add(self, op: str, operands: tuple[str, ...], shape: Shape, arrays: Mapping[str, np.ndarray]) -> str:
        """Appends a node and returns its id; the same computation twice is one node.  Raises Unsupported."""
        if op not in ("input", *RELAXED, *AFFINE):
            raise Unsupported(f"the checker knows no operator {op!r}")
        kept = {n: np.ascontiguousarray(a, dtype="<i8" if n == "index" else "<f8") for n, a in arrays.items()}
        told = [op, operands, shape, {name: a.shape for name, a in kept.items()}]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for name in sorted(kept):
            digest.update(kept[name].tobytes())
        self.output = digest.hexdigest()
        self.nodes.setdefault(self.output, Node(self.output, op, operands, shape, kept))
        return self.output


def push(node: Node, operands: list[np.ndarray], w: np.ndarray | None) -> np.ndarray:
    """W x.  operands [B, *in] -> [B, *out]"""
    x = operands[0]
    if node.op == "linear" and w is not None:
        return np.matmul(w, x.reshape(len(x), w.shape[0], w.shape[2], -1)).reshape(len(x), *node.shape)
    if node.op == "select":
        return gather(x, node.arrays["index"])
    return x * w if w is not None else sum(operands[1:], start=x)


def evaluate(network: Network, x: np.ndarray) -> np.ndarray:
    """f(x) in float64, without bounds of its rounding.  [*shape] -> [*out]"""
    values = {network.input: x[None]}
    for node in list(network.nodes.values())[1:]:
        operands = [values[operand] for operand in node.operands]
        values[node.id] = _value(node, operands)
    return values[network.output][0]


def _value(node: Node, operands: list[np.ndarray]) -> np.ndarray:
    x = operands[0]
    if node.op == "max":
        index = node.arrays["index"]
        return np.where(index >= 0, gather(x, index), -np.inf).max(-1)
    if node.op == "piecewise":
        kinks, slopes = node.arrays["kinks"], node.arrays["slopes"]
        total = node.arrays["value"] + (x - kinks[0]) * slopes[0]
        return total + sum(
            np.maximum(x - k, 0) * (b - a) for k, a, b in zip(kinks, slopes, slopes[1:], strict=False)
        )
    if node.op in RELAXED:
        return np.tanh(x) if node.op == "tanh" else (1 + np.tanh(x / 2)) / 2
    weight, bias, _ = node.parts
    return push(node, operands, weight) + (0 if bias is None else bias)


def pull(node: Node, coef: np.ndarray, w: np.ndarray | None, shapes: list[Shape]) -> list[np.ndarray]:
    """coef W, one part for each operand.  [B, *out] -> [B, *in] each"""
    if node.op == "linear" and w is not None:
        rows = coef.reshape(len(coef), w.shape[0], w.shape[1], -1)
        return [np.matmul(w.swapaxes(1, 2), rows).reshape(len(coef), *shapes[0])]
    if node.op == "select":
        return [scatter(coef, node, shapes[0])]
    return [coef * w] if w is not None else [coef] * len(shapes)


def gather(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    """[B, *in] -> [B, *index's shape]; zero where the index is −1."""
    flat = np.concatenate([x.reshape(len(x), -1), np.zeros((len(x), 1), dtype=x.dtype)], 1)
    return flat[:, index]


def scatter(coef: np.ndarray, node: Node, shape: Shape) -> np.ndarray:
    """The transpose of gather."""
    flat, rows = np.zeros((len(coef), prod(shape)), dtype=coef.dtype), coef.reshape(len(coef), -1)
    for places, elements in node.layers:
        flat[:, elements] += rows[:, places]
    return flat.reshape(len(coef), *shape)


def _scaling(*values: float) -> tuple[float, ...]:
    """W = γ / (d √(σ²+ε)), b = β − μW, rounded, δW, δb.  s² ≤ 4^p / (σ²+ε) < (s + 1)² for the integer root s."""
    gamma, mean, divisor, variance, eps, beta = map(Fraction, values)
    square, w, unsure = variance + eps, gamma / divisor, Fraction(0)
    if square != 1:
        bits = 160 + abs(square.numerator.bit_length() - square.denominator.bit_length())
        w, unsure = w * Fraction(isqrt(int(4**bits / square)), 2**bits), abs(w) / 2**bits
    b = beta - mean * w
    errors = abs(w - Fraction(float(w))) + unsure, abs(b - Fraction(float(b))) + abs(mean) * unsure
    return float(w), float(b), *(float(np.nextafter(float(e), np.inf)) if e else 0.0 for e in errors)
