"""The network as data: a few operators over plain arrays, each node named by the digest of all that it computes.

Affine operators are maps y = W x + b.  A factor that is no dyadic rational, as batch normalisation's γ / √(σ² + ε),
is replaced by a float64 and a proved bound of what that changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import isqrt, prod

import numpy as np

RELAXED = ("piecewise", "sigmoid", "tanh", "max")
SCALE = ("gamma", "mean", "divisor", "variance", "eps", "beta")


class Unsupported(ValueError):
    """An operator that the checker does not know."""


@dataclass(frozen=True)
class Node:
    """One operator: operands by digest, output shape without the batch, integers and float64 or index arrays."""

    id: str
    op: str
    operands: tuple[str, ...]
    shape: tuple[int, ...]
    settings: Mapping[str, tuple[int, ...]]
    arrays: Mapping[str, np.ndarray] = field(repr=False)

    @cached_property
    def scaling(self) -> tuple[np.ndarray, ...]:
        """(W, b, δW, δb) of a scale."""
        columns = np.broadcast_arrays(*(self.arrays[name] for name in SCALE))
        rows = [_norm(*values) for values in zip(*(c.reshape(-1).tolist() for c in columns), strict=True)]
        return tuple(np.array(row).reshape(columns[0].shape) for row in zip(*rows, strict=True))


class Network:
    """Nodes in topological order; the input's id depends on its shape alone.

    linear: weight [o, i], bias [o].  conv: weight [o, i/groups, h, w], bias [o], stride, dilation, groups, and pads
    (top, bottom, left, right).  scale: γ (x − mean) / (divisor √(variance + eps)) + β, element-wise.  add, reshape.
    cat: axis.  select: x[index], −1 for zero.  piecewise: slopes between kinks, value at the first kink.  sigmoid,
    tanh.  max: over the last axis of x[index], −1 for no element.
    """

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        self.nodes: dict[str, Node] = {}
        self.input = self.output = self.add("input", (), input_shape)

    def add(
        self,
        op: str,
        operands: tuple[str, ...],
        shape: tuple[int, ...],
        arrays: Mapping[str, np.ndarray] | None = None,
        settings: Mapping[str, tuple[int, ...]] | None = None,
    ) -> str:
        """Appends a node and returns its id; the same computation twice is one node.  Raises Unsupported."""
        if op not in ("input", *RELAXED, *AFFINE):
            raise Unsupported(f"the checker knows no operator {op!r}")
        arrays = {
            name: np.ascontiguousarray(a, dtype="<i8" if name == "index" else "<f8")
            for name, a in (arrays or {}).items()
        }
        told = [op, operands, shape, dict(settings or {}), {name: a.shape for name, a in arrays.items()}]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for name in sorted(arrays):
            digest.update(arrays[name].tobytes())
        node = Node(digest.hexdigest(), op, operands, shape, dict(settings or {}), arrays)
        self.nodes.setdefault(node.id, node)
        self.output = node.id
        return node.id

    def shapes(self, node: Node) -> list[tuple[int, ...]]:
        return [self.nodes[name].shape for name in node.operands]


Shapes = list[tuple[int, ...]]


@dataclass(frozen=True)
class Affine:
    """push(node, operands [B, *in], W): W x.  pull(node, coef [B, *out], W, shapes): coef W, one part an operand.

    terms(node): how many products an output of push and of pull adds up.  weight: W, None where all are 0 or 1.
    bias: b.  slack: (δW, δb) with |W − true W| ≤ δW, |b − true b| ≤ δb, for element-wise W alone.
    """

    push: Callable[..., np.ndarray]
    pull: Callable[..., list[np.ndarray]]
    terms: Callable[[Node], tuple[int, int]]
    weight: Callable[[Node], np.ndarray | None] = lambda node: None
    bias: Callable[[Node], np.ndarray | None] = lambda node: None
    slack: Callable[[Node], tuple[np.ndarray, np.ndarray] | None] = lambda node: None


def _weight(node: Node) -> np.ndarray:
    return node.arrays["weight"]


def _bias(node: Node) -> np.ndarray:
    bias = node.arrays["bias"]
    return bias if node.op == "linear" else bias.reshape(-1, 1, 1)


def _linear_pull(node: Node, coef: np.ndarray, w: np.ndarray, shapes: Shapes) -> list[np.ndarray]:
    return [np.matmul(coef, w)]


def _taps(node: Node, grouped: np.ndarray, w: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each tap of the kernel: its weights [groups, o, i], and the pixels it reads of a padded image, a view."""
    (groups,), (sh, sw), (dh, dw) = (node.settings[key] for key in ("groups", "stride", "dilation"))
    (o, i, kh, kw), (oh, ow) = w.shape, node.shape[1:]
    by_group = w.reshape(groups, o // groups, i, kh, kw)
    return [
        (
            by_group[..., y, x],
            grouped[
                ...,
                y * dh : y * dh + (oh - 1) * sh + 1 : sh,
                x * dw : x * dw + (ow - 1) * sw + 1 : sw,
            ],
        )
        for y in range(kh)
        for x in range(kw)
    ]


def _padded(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    (groups,), (top, bottom, left, right) = node.settings["groups"], node.settings["pads"]
    return groups, shape[0] // groups, shape[1] + top + bottom, shape[2] + left + right


def _conv_push(node: Node, operands: list[np.ndarray], w: np.ndarray) -> np.ndarray:
    (x,) = operands
    top, _, left, _ = node.settings["pads"]
    grouped = np.zeros((len(x), *_padded(node, x.shape[1:])), dtype=x.dtype)
    padded = grouped.reshape(*x.shape[:2], *grouped.shape[3:])
    padded[..., top : top + x.shape[2], left : left + x.shape[3]] = x
    parts = [np.matmul(k, v.reshape(*v.shape[:3], -1)) for k, v in _taps(node, grouped, w)]
    return sum(parts[1:], start=parts[0]).reshape(len(x), *node.shape)


def _conv_pull(node: Node, coef: np.ndarray, w: np.ndarray, shapes: Shapes) -> list[np.ndarray]:
    (c, height, width), (top, _, left, _) = shapes[0], node.settings["pads"]
    grouped = np.zeros((len(coef), *_padded(node, shapes[0])), dtype=coef.dtype)
    rows = coef.reshape(len(coef), grouped.shape[1], -1, prod(node.shape[1:]))
    for k, view in _taps(node, grouped, w):
        view += np.matmul(k.swapaxes(1, 2), rows).reshape(view.shape)
    image = grouped.reshape(len(coef), c, *grouped.shape[3:])
    return [image[..., top : top + height, left : left + width]]


def _conv_terms(node: Node) -> tuple[int, int]:
    o, i, kh, kw = node.arrays["weight"].shape
    return i * kh * kw, o // node.settings["groups"][0] * kh * kw


def _select_push(node: Node, operands: list[np.ndarray], w: None) -> np.ndarray:
    return gather(operands[0], node.arrays["index"])


def gather(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    """[B, *in] -> [B, *index's shape]; zero where the index is −1."""
    flat = np.concatenate([x.reshape(len(x), -1), np.zeros((len(x), 1), dtype=x.dtype)], 1)
    return flat[:, index]


def scatter(coef: np.ndarray, index: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The transpose of gather."""
    flat = np.zeros((len(coef), prod(shape) + 1), dtype=coef.dtype)
    np.add.at(flat.T, index.reshape(-1), coef.reshape(len(coef), -1).T)
    return flat[:, :-1].reshape(len(coef), *shape)


def _select_pull(node: Node, coef: np.ndarray, w: None, shapes: Shapes) -> list[np.ndarray]:
    return [scatter(coef, node.arrays["index"], shapes[0])]


def repeats(node: Node) -> int:
    """How often an index names one element at most."""
    index = node.arrays["index"]
    return int(np.bincount(index[index >= 0].reshape(-1), minlength=1).max())


def _cat_push(node: Node, operands: list[np.ndarray], w: None) -> np.ndarray:
    return np.concatenate(operands, node.settings["axis"][0] + 1)


def _cat_pull(node: Node, coef: np.ndarray, w: None, shapes: Shapes) -> list[np.ndarray]:
    (axis,) = node.settings["axis"]
    return np.split(coef, np.cumsum([shape[axis] for shape in shapes])[:-1], axis + 1)


def _norm(g: float, mean: float, divisor: float, var: float, eps: float, beta: float) -> tuple[float, ...]:
    """W = γ / (d √(σ²+ε)) and b = β − μW rounded, δW, δb.  s² ≤ 4^p / (σ²+ε) < (s + 1)² for s the integer root."""
    square, bits = Fraction(var) + Fraction(eps), 160
    if square <= 0 or divisor == 0:
        raise Unsupported("a normalisation or quotient divides by zero or by the root of a negative number")
    bits += abs(square.numerator.bit_length() - square.denominator.bit_length())
    known = Fraction(g) / Fraction(divisor)
    root = Fraction(isqrt(int(4**bits / square)), 2**bits) if square != 1 else Fraction(1)
    w, unsure = known * root, abs(known) / 2**bits if square != 1 else Fraction(0)
    b = Fraction(beta) - Fraction(mean) * w
    errors = abs(w - Fraction(float(w))) + unsure, abs(b - Fraction(float(b))) + abs(Fraction(mean)) * unsure
    return float(w), float(b), *(float(np.nextafter(float(e), np.inf)) if e else 0.0 for e in errors)


AFFINE: dict[str, Affine] = {
    "linear": Affine(
        lambda node, operands, w: np.matmul(operands[0], w.T),
        _linear_pull,
        lambda node: (_weight(node).shape[1], _weight(node).shape[0]),
        _weight,
        _bias,
    ),
    "conv": Affine(_conv_push, _conv_pull, _conv_terms, _weight, _bias),
    "scale": Affine(
        lambda node, operands, w: operands[0] * w,
        lambda node, coef, w, shapes: [coef * w],
        lambda node: (1, 1),
        lambda node: node.scaling[0],
        lambda node: node.scaling[1],
        lambda node: (node.scaling[2], node.scaling[3]),
    ),
    "add": Affine(
        lambda node, operands, w: sum(operands[1:], start=operands[0]),
        lambda node, coef, w, shapes: [coef] * len(shapes),
        lambda node: (len(node.operands), 1),
    ),
    "cat": Affine(_cat_push, _cat_pull, lambda node: (1, 1)),
    "reshape": Affine(
        lambda node, operands, w: operands[0].reshape(len(operands[0]), *node.shape),
        lambda node, coef, w, shapes: [coef.reshape(len(coef), *shapes[0])],
        lambda node: (1, 1),
    ),
    "select": Affine(_select_push, _select_pull, lambda node: (1, repeats(node))),
}
