"""Import of ONNX graphs without a batch dimension; the whole input is one image.

A batch dimension is put before the input. Each operator is imported with a batch before its tensors: axes
move up by one, and constants align at the end. An operator whose first dimension is a batch in ONNX, such
as a convolution, is imported if that dimension is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from string import ascii_letters
from typing import Any

import torch
from torch import Tensor

from certnas.models.formats.onnx.pointwise import POINTWISE
from certnas.models.formats.onnx.recurrent import lstm
from certnas.models.formats.onnx.site import Site, Step

Importer = Callable[[Site], Step]
UNITS = POINTWISE.keys() - {"LogSoftmax", "PRelu", "Softmax"}
"""Elementwise operators, which broadcast as numpy does."""


def with_batch(site: Site, importer: Importer) -> Step:
    """The step of a node on tensors [N, *shape]; the file defines it on tensors [*shape].

    The site's computed inputs have the shapes of the file. Raises UserError for an operator that cannot be
    imported.
    """
    return WAYS.get(site.op, _units if site.op in UNITS else _images)(site, importer)


def _lifted(site: Site, rank: int | None = None) -> Site:
    """The site with a batch of one before its computed inputs, and sizes of 1 up to `rank` dimensions."""

    def lift(x: Tensor | None) -> Tensor | None:
        if x is None or not x.is_meta:
            return x
        more = 0 if rank is None else rank - x.dim()
        return torch.empty((1, *[1] * more, *x.shape), device="meta")

    return replace(site, batch=1, inputs=tuple(map(lift, site.inputs)))


def _set(site: Site, name: str, place: int | None, value: Any) -> Site:
    """The site with a setting as an attribute, even if it was an input."""
    inputs = tuple(None if i == place else x for i, x in enumerate(site.inputs))
    return replace(site, inputs=inputs, attributes={**site.attributes, name: value})


def _up(axis: int) -> int:
    """An axis behind the batch; a negative axis stays."""
    return axis + 1 if axis >= 0 else axis


def _units(site: Site, importer: Importer) -> Step:
    """Elementwise operators: computed inputs of lower rank get sizes of 1 behind the batch."""
    rank = max(x.dim() for x in site.inputs if x is not None)
    step = importer(_lifted(site, rank))
    more = [rank - site.tensor(i).dim() if site.computed(i) else 0 for i in step.inputs]
    if not any(more):
        return step

    def apply(*arguments: Tensor) -> Any:
        wide = (
            x.reshape(x.shape[0], *[1] * k, *x.shape[1:]) if k else x
            for x, k in zip(arguments, more, strict=True)
        )
        return step.function(*wide)

    return Step(apply, step.inputs)


def _images(site: Site, importer: Importer) -> Step:
    """Operators whose first dimension is a batch of one in the file; the batch of images takes its place."""
    step = importer(replace(site, batch=1))
    moving = [site.computed(i) for i in step.inputs]
    shapes = [site.shape(i) for i, moves in zip(step.inputs, moving, strict=True) if moves]
    if any(not shape or shape[0] != 1 for shape in shapes):
        raise site.refuse(f"takes {list(shapes[0])} for a batch; the network's input has no batch dimension")

    def apply(*arguments: Tensor) -> Any:
        given = (
            x.reshape(x.shape[0], *x.shape[2:]) if m else x for x, m in zip(arguments, moving, strict=True)
        )
        result = step.function(*given)
        return result.unsqueeze(1) if isinstance(result, Tensor) else tuple(y.unsqueeze(1) for y in result)

    return Step(apply, step.inputs)


def _reshaped(site: Site, importer: Importer) -> Step:
    """Operators that change the shape; the new shape is found by applying the operator to a constant."""
    given = site.tensor(0)
    step = importer(replace(site, inputs=(torch.zeros(()).expand(given.shape), *site.inputs[1:])))
    shape = step.function(given).shape
    return Step(lambda x: x.reshape(x.shape[0], *shape))


def _along(default: int) -> Callable[[Site, Importer], Step]:
    def way(site: Site, importer: Importer) -> Step:
        return importer(_set(_lifted(site), "axis", None, _up(int(site.attributes.get("axis", default)))))

    return way


def _softmax(site: Site, importer: Importer) -> Step:
    return _along(-1 if site.opset >= 13 else 1)(site, importer)


def _joined(site: Site, importer: Importer) -> Step:
    lifted = _lifted(site)
    inputs = tuple(x if x is None or x.is_meta else x.unsqueeze(0) for x in lifted.inputs)
    step = _along(1)(replace(site, inputs=site.inputs), lambda own: importer(replace(own, inputs=inputs)))
    fixed = [not site.computed(i) for i in step.inputs]

    def apply(*parts: Tensor) -> Tensor:
        given = (part.unsqueeze(0) if f else part for part, f in zip(parts, fixed, strict=True))
        return step.function(*given)

    return Step(apply, step.inputs)


def _transposed(site: Site, importer: Importer) -> Step:
    order = site.ints("perm") or list(reversed(range(len(site.shape()))))
    return importer(_set(_lifted(site), "perm", None, [0, *(axis + 1 for axis in order)]))


def _sliced(site: Site, importer: Importer) -> Step:
    axes = site.ints("axes", 3) or list(range(len(site.ints("starts", 1) or [])))
    return importer(_set(_lifted(site), "axes", 3, [_up(axis) for axis in axes]))


def _reduced(site: Site, importer: Importer) -> Step:
    axes = site.ints("axes", 1)
    if not axes and site.attributes.get("noop_with_empty_axes", 0):
        return importer(_lifted(site))
    axes = axes or list(range(len(site.shape())))
    return importer(_set(_lifted(site), "axes", 1, [_up(axis) for axis in axes]))


def _padded(site: Site, importer: Importer) -> Step:
    pads, rank = site.ints("pads", 1) or [], len(site.shape())
    axes = site.ints("axes", 3) or list(range(rank))
    return importer(_set(_set(_lifted(site), "pads", 1, pads), "axes", 3, [_up(axis) for axis in axes]))


def _expanded(site: Site, importer: Importer) -> Step:
    target = site.ints("shape", 1) or []
    rank = max(len(target), len(site.shape()))
    full = [1] * (rank + 1 - len(target)) + target
    step = importer(_set(_lifted(site, rank), "shape", 1, full))
    more = [1] * (rank - len(site.shape()))
    return Step(lambda x: step.function(x.reshape(x.shape[0], *more, *x.shape[1:])))


def _tiled(site: Site, importer: Importer) -> Step:
    return importer(_set(_lifted(site), "repeats", 1, [1, *(site.ints("repeats", 1) or [])]))


def _matmul(site: Site, importer: Importer) -> Step:
    """Matrix products.

    A constant matrix on the left moves to the right, transposed; a vector is a matrix of one row or column.
    """
    ranks = tuple(len(site.shape(i)) for i in (0, 1))
    fixed = [rank for i, rank in enumerate(ranks) if not site.computed(i)]
    if min(ranks) < 1 or any(rank > 2 for rank in fixed):
        raise site.refuse(f"of {ranks[0]} by {ranks[1]} dimensions, in a network without a batch dimension")

    def apply(a: Tensor, b: Tensor) -> Tensor:
        a = a.unsqueeze(-2) if ranks[0] == 1 else a
        b = b.unsqueeze(-1) if ranks[1] == 1 else b
        y = _product(a, b, constant_left=not site.computed(0))
        y = y.squeeze(-1) if ranks[1] == 1 else y
        return y.squeeze(-1 if ranks[1] == 1 else -2) if ranks[0] == 1 else y

    return Step(apply, (0, 1))


def _product(a: Tensor, b: Tensor, *, constant_left: bool) -> Tensor:
    """a·b of matrices behind the batch; a constant matrix has no batch."""
    return (b.transpose(-1, -2) @ a.transpose(-1, -2)).transpose(-1, -2) if constant_left else a @ b


def _gemm(site: Site, importer: Importer) -> Step:
    """alpha·A·B + beta·C, with A and B optionally transposed."""
    alpha, beta = site.attributes.get("alpha", 1.0), site.attributes.get("beta", 1.0)
    turned = [bool(site.attributes.get(name, 0)) for name in ("transA", "transB")]
    if len(site.shape(0)) != 2 or len(site.shape(1)) != 2 or (site.has(2) and len(site.shape(2)) > 2):
        raise site.refuse("takes two matrices, and a matrix to add")
    if site.has(2) and site.computed(2) and len(site.shape(2)) != 2:
        raise site.refuse("adds a tensor that depends on the image and is not a matrix")

    def apply(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = (x.transpose(-1, -2) if t else x for x, t in zip((a, b), turned, strict=True))
        y = _product(a, b, constant_left=not site.computed(0))
        y = y if alpha == 1 else y * alpha
        return y if c is None else y + (c if beta == 1 else c * beta)

    return Step(apply, site.present(3))


def _einsum(site: Site, importer: Importer) -> Step:
    """Einsum with an additional letter for the batch, in each computed input and in the result."""
    equation = site.attributes.get("equation", b"").decode().replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    free = next((letter for letter in ascii_letters if letter not in equation), "")
    if "." in equation or not free or len(terms) != len(site.inputs):
        raise site.refuse(f"equation {equation!r}; accepted: a letter for each dimension of each input")
    if not arrow:
        right = "".join(sorted(letter for letter in set(left) - {","} if left.count(letter) == 1))
    terms = [free + term if site.computed(i) else term for i, term in enumerate(terms)]
    return importer(_set(_lifted(site), "equation", None, f"{','.join(terms)}->{free}{right}".encode()))


def _recurrent(site: Site, importer: Importer) -> Step:
    """Recurrent operators: time and the file's own batch are dimensions of the image."""
    return lstm(site)


def _of_the_file(site: Site, importer: Importer) -> Step:
    """Operators that read the shape only."""
    return importer(site)


WAYS: dict[str, Callable[[Site, Importer], Step]] = {
    "Concat": _joined,
    "Einsum": _einsum,
    "Expand": _expanded,
    "Flatten": _reshaped,
    "Gather": _along(0),
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "LayerNormalization": _along(-1),
    "LogSoftmax": _softmax,
    "MatMul": _matmul,
    "Pad": _padded,
    "ReduceMax": _reduced,
    "ReduceMean": _reduced,
    "ReduceMin": _reduced,
    "ReduceSum": _reduced,
    "Reshape": _reshaped,
    "Shape": _of_the_file,
    "Size": _of_the_file,
    "Slice": _sliced,
    "Softmax": _softmax,
    "Split": _along(0),
    "Squeeze": _reshaped,
    "Tile": _tiled,
    "Transpose": _transposed,
    "Unsqueeze": _reshaped,
}
