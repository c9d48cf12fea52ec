"""Products summed over shared axes: matmul, bmm, mm and einsum, with one or two perturbed tensors.

If two tensors are perturbed, McCormick's planes (McCormick 1976) of all products of elements are summed.
With centres m and radii r of the factors and s ∈ [−1, 1] for each output unit, by default 0,
    X·Y ≥ (m_Y + s·r_Y)·X + (m_X + s·r_X)·Y − m_X·m_Y − r_X·r_Y − s·(m_X·r_Y + r_X·m_Y)
    X·Y ≤ (m_Y + s·r_Y)·X + (m_X − s·r_X)·Y − m_X·m_Y + r_X·r_Y − s·(m_X·r_Y − r_X·m_Y)
Every product here is itself a sum over the shared axes, so the tensor of all single products is never stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedOp
from ..graph import Call, Node, Ref, resolve
from ..interval import Interval
from ..relaxation import Images, LinearMap, Plane, Relaxation, Slope, pick, sum_to
from .affine import applied
from .rule import Affine, Alphas, Nonlinear, Rule

aten = torch.ops.aten

PRODUCTS_AT_ONCE = 1 << 22
"""Number of single products whose interval is computed at a time.  Chosen by hand."""
_FACTORS = ("self", "other", "mat2")


def factors(node: Node) -> list[Any]:
    """Return the factors of a contraction, as they stand in its arguments."""
    if node.target is aten.einsum.default:
        return list(node.arguments["tensors"])
    return [node.arguments[name] for name in _FACTORS if name in node.arguments]


def _perturbed(node: Node) -> list[str]:
    """Return the operands among the factors, in order; an operand that is both factors comes twice."""
    return [f.name for f in factors(node) if isinstance(f, Ref) and f.name in node.operands]


def rule_of(node: Node) -> Rule:
    """Return the record of a contraction.  Raises UnsupportedOp for an einsum that mixes images or has no rule."""
    two = len(_perturbed(node)) > 1
    if node.target is aten.einsum.default:
        _check_einsum(node)
        return _CONTRACTION if two else _EINSUM
    return _CONTRACTION if two else _MATMUL


# One perturbed factor


def _linear(call: Call, x: Tensor) -> Tensor:
    left, right = (x if call.is_operand(f) else resolve(f, call.network.values) for f in factors(call.node))
    return left @ right


def _magnitude(call: Call, x: Tensor) -> Tensor:
    left, right = (
        x if call.is_operand(f) else resolve(f, call.network.values).abs() for f in factors(call.node)
    )
    return left @ right


def _einsum_magnitude(call: Call, x: Tensor) -> Tensor:
    tensors = [x if call.is_operand(f) else resolve(f, call.network.values).abs() for f in factors(call.node)]
    return torch.einsum(call["equation"], *tensors)


def _terms(equation: str) -> tuple[list[str], str]:
    """Return the letters of each factor and of the result."""
    given, arrow, out = equation.replace(" ", "").partition("->")
    if not arrow:
        out = "".join(sorted(letter for letter in set(given) - {","} if given.count(letter) == 1))
    return given.split(","), out


def _check_einsum(node: Node) -> None:
    """Check that images stay separate: the batch is the first letter of each perturbed factor and of the result."""
    (terms, out), given = _terms(node.arguments["equation"]), factors(node)
    moving = [t for t, f in zip(terms, given, strict=True) if isinstance(f, Ref) and f.name in node.operands]
    still = [t for t in terms if t not in moving]
    where, batch = node.where(), out[:1]
    if "." in "".join([*terms, out]) or any(len(set(t)) < len(t) for t in [*terms, out]):
        raise UnsupportedOp(
            f"{where}: an ellipsis or a letter twice in one factor has no rule; write the axes out"
        )
    if any(t[:1] != batch for t in moving) or any(batch in t for t in still):
        raise UnsupportedOp(
            f"{where} moves or mixes the batch dimension; images must stay apart in dimension 0"
        )
    if len(moving) > 2 or (len(moving) == 2 and still):
        raise UnsupportedOp(f"{where}: a product of more than two tensors; multiply two at a time")
    if len(moving) == 2 and any(
        letter not in out and any(letter not in t for t in moving) for letter in set("".join(moving))
    ):
        raise UnsupportedOp(f"{where}: a letter of one factor alone is summed over; sum that factor first")


# Two perturbed factors, as a product of matrices


@dataclass(frozen=True)
class Layout:
    """Two factors as matrices [lead, rows, inner] and [lead, inner, columns]: the letters of each, and their sizes."""

    left: str
    """The letters of the left factor, without the batch."""
    right: str
    """The letters of the right factor."""
    out: str
    """The letters of the result."""
    sizes: dict[str, int]
    """The size of each letter."""

    @classmethod
    def of(cls, call: Call) -> Layout:
        """Return the layout of a call with two perturbed factors, without the batch."""
        names = _perturbed(call.node)
        shapes = [call.network.graph.shape(name) for name in names]
        if call.node.target is aten.einsum.default:
            terms, out = _terms(call["equation"])
            left, right, out = terms[0][1:], terms[1][1:], out[1:]
        else:
            if len(shapes[0]) != len(shapes[1]) or len(shapes[0]) < 2:
                raise UnsupportedOp(
                    f"{call.node.where()}: factors of shapes {shapes}; accepted: matrices of each image"
                )
            lead = "".join(chr(ord("A") + i) for i in range(len(shapes[0]) - 2))
            left, right, out = lead + "yk", lead + "kz", lead + "yz"
        sizes: dict[str, int] = {}
        for letters, shape in zip((left, right), shapes, strict=True):
            for letter, size in zip(letters, shape, strict=True):
                sizes[letter] = max(size, sizes.get(letter, 1))
        return cls(left, right, out, sizes)

    @property
    def lead(self) -> str:
        return "".join(x for x in self.out if x in self.left and x in self.right)

    @property
    def inner(self) -> str:
        return "".join(x for x in self.left if x not in self.out)

    def _order(self, side: int) -> tuple[str, list[str]]:
        """Return the letters of a factor (0, 1) or of the result (2), and the groups that form its matrix axes."""
        rows = "".join(x for x in self.left if x in self.out and x not in self.right)
        columns = "".join(x for x in self.right if x in self.out and x not in self.left)
        groups = [(rows, self.inner), (self.inner, columns), (rows, columns)][side]
        return (self.left, self.right, self.out)[side], [self.lead, *groups]

    def matrices(self, x: Tensor, side: int) -> Tensor:
        """Return a factor or the result as matrices: [*, *shape] -> [*, lead, a, b]."""
        letters, groups = self._order(side)
        first = x.dim() - len(letters)
        order = [first + letters.index(letter) for letter in "".join(groups)]
        x = x.permute(*range(first), *order)
        x = x.expand(*x.shape[:first], *(self.sizes[letter] for letter in "".join(groups)))
        return x.reshape(*x.shape[:first], *(prod(self.sizes[letter] for letter in g) for g in groups))

    def back(self, m: Tensor, side: int) -> Tensor:
        """Invert `matrices`, with every letter at its full size: [*, lead, a, b] -> [*, *shape]."""
        letters, groups = self._order(side)
        first, joined = m.dim() - 3, "".join(groups)
        m = m.reshape(*m.shape[:first], *(self.sizes[letter] for letter in joined))
        return m.permute(*range(first), *(first + joined.index(letter) for letter in letters))


@dataclass(frozen=True)
class Product(LinearMap):
    """The map out = Y'·X + X'·Y with Y' = m_Y + s·r_Y and X' = m_X + sign·s·r_X, for products laid out by `layout`."""

    layout: Layout
    """The axes of the factors."""
    centers: tuple[Tensor, Tensor]
    """The centres of both factors as matrices, [N, S, lead, a, b]."""
    radii: tuple[Tensor, Tensor]
    """The radii of both factors as matrices."""
    s: Tensor | None
    """The choice of planes, [N, S, lead, rows, columns]; None for zero."""
    sign: int
    """1 for the lower plane, −1 for the upper."""
    shapes: tuple[tuple[int, ...], ...]
    """The operands' shapes; a single one if both factors are the same tensor."""

    @property
    def rows(self) -> int:
        return max(t.shape[1] for t in (*self.centers, *([] if self.s is None else [self.s])))

    def transpose(self, coef: Tensor) -> tuple[Tensor, ...]:
        c = self.layout.matrices(coef, 2)
        (mx, my), (rx, ry) = self.centers, self.radii
        left, right = c @ my.mT, mx.mT @ c
        if self.s is not None:
            weighted = c * self.s
            left, right = left + weighted @ ry.mT, right + self.sign * (rx.mT @ weighted)
        shapes = self.shapes if len(self.shapes) == 2 else self.shapes * 2
        pulled = [sum_to(self.layout.back(m, i), shapes[i]) for i, m in enumerate((left, right))]
        return tuple(pulled) if len(self.shapes) == 2 else (pulled[0] + pulled[1],)

    def apply(self, *operands: Tensor | None) -> Tensor:
        (mx, my), (rx, ry) = self.centers, self.radii
        x, y = operands if len(operands) == 2 else operands * 2
        total: Tensor | None = None
        if x is not None:
            left = self.layout.matrices(x, 0)
            total = left @ my if self.s is None else left @ my + self.s * (left @ ry)
        if y is not None:
            right = self.layout.matrices(y, 1)
            other = mx @ right if self.s is None else mx @ right + self.sign * self.s * (rx @ right)
            total = other if total is None else total + other
        assert total is not None
        return self.layout.back(total, 2)

    def magnitude(self) -> Product:
        assert self.s is None, "only planes of one slope are asked for their magnitude"
        mx, my = self.centers  # where both are one tensor, |m_X| + |m_Y| is above its |m_X + m_Y|
        return Product(self.layout, (mx.abs(), my.abs()), self.radii, None, self.sign, self.shapes)

    def at(self, images: Images) -> Product:
        mx, my, rx, ry = (pick(t, images) for t in (*self.centers, *self.radii))
        s = None if self.s is None else pick(self.s, images)
        return Product(self.layout, (mx, my), (rx, ry), s, self.sign, self.shapes)


def _sides(operands: tuple[Interval, ...]) -> tuple[Interval, Interval]:
    return operands if len(operands) == 2 else (operands[0], operands[0])


def _interval(call: Call, *operands: Interval) -> Interval:
    """Return the sum of the exact ranges of all single products, computed for some inner positions at a time."""
    layout = Layout.of(call)
    x, y = _sides(operands)
    (lx, ux), (ly, uy) = (
        (layout.matrices(z.lower, side), layout.matrices(z.upper, side)) for side, z in ((0, x), (1, y))
    )
    at_once = max(1, PRODUCTS_AT_ONCE // max(1, lx[..., 0].numel() * ly.shape[-1]))
    low, high = torch.zeros_like(lx[..., :1] @ ly[..., :1, :]), torch.zeros_like(lx[..., :1] @ ly[..., :1, :])
    for first in range(0, lx.shape[-1], at_once):
        part = slice(first, first + at_once)
        xs = [t[..., part].unsqueeze(-1) for t in (lx, ux)]
        ys = [t[..., part, :].unsqueeze(-3) for t in (ly, uy)]
        corners = torch.stack([a * b for a in xs for b in ys])
        low, high = low + corners.amin(0).sum(-2), high + corners.amax(0).sum(-2)
    return Interval(layout.back(low, 2), layout.back(high, 2))


def _relax(call: Call, slope: Slope, alphas: Alphas, *operands: Interval) -> Relaxation:
    layout = Layout.of(call)
    sides = _sides(operands)
    mx, my = (layout.matrices(z.center, side) for side, z in enumerate(sides))
    rx, ry = (layout.matrices(z.radius, side) for side, z in enumerate(sides))
    middle, error = mx @ my, rx @ ry

    def plane(sign: int, s: Tensor | None) -> Plane:
        """Return the lower plane for sign 1, the upper plane for sign −1."""
        bias = -middle - sign * error
        if s is not None:
            bias = bias - s * (mx @ ry + sign * (rx @ my))
        return Plane(Product(layout, (mx, my), (rx, ry), s, sign, call.shapes), layout.back(bias, 2))

    if slope is Slope.PARALLEL or not alphas:
        lower = plane(1, None)
        return Relaxation(lower, Plane(lower.map, layout.back(-middle + error, 2)))
    low, high = (layout.matrices(2 * t - 1, 2) for t in alphas)
    return Relaxation(plane(1, low), plane(-1, high))


def _alphas(call: Call, *operands: Interval) -> Alphas:
    lower = operands[0].lower
    n, s = lower.shape[:2]
    half = torch.full((n, s, *call.shape), 0.5, dtype=lower.dtype, device=lower.device)
    return half, half.clone()


def _work(call: Call) -> int:
    """Return the length of the sums, read from the constant factor."""
    constant = next((f for f in factors(call.node) if not call.is_operand(f)), None)
    if constant is None:
        return 1
    weight = resolve(constant, call.network.values)
    return weight.shape[-1 if weight.dim() < 2 else -2]


_MATMUL = Affine(_linear, magnitude=_magnitude, work=_work)
_EINSUM = Affine(applied, magnitude=_einsum_magnitude)
_CONTRACTION = Nonlinear(_interval, _relax, _alphas, elementwise=False, variadic=True)

CONTRACTIONS = (aten.matmul.default, aten.mm.default, aten.bmm.default, aten.einsum.default)
