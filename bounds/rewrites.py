"""What the tracer reads differently from how it was written: several outputs, constant fills, views."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten
Slicer = Callable[[dict[str, Any], Any], list[tuple[Any, dict[str, Any]]]]
"""For an operator of several outputs: (operator, arguments besides `self`) of each."""


def fill_of(target: Any, arguments: dict[str, Any]) -> float | None:
    """The value of a tensor that is filled with one, a product with a literal zero included; None for others."""
    if target in (aten.mul.Tensor, aten.mul.Scalar):
        factors = [arguments["self"], arguments["other"]]
        return 0.0 if any(isinstance(factor, (int, float)) and factor == 0 for factor in factors) else None
    if target in (aten.full_like.default, aten.new_full.default):
        return arguments["fill_value"]
    return FILLS.get(target)


def moves_images(target: Any, arguments: dict[str, Any], rank: int) -> bool:
    """Whether an operator that keeps the batch's size may still take images out of their order."""
    if target in (aten.flip.default, aten.roll.default):
        return not arguments["dims"] or any(dim % rank == 0 for dim in arguments["dims"])
    if target is aten.index.Tensor:
        return arguments["indices"][0] is not None
    return target is aten.index_select.default and arguments["dim"] % rank == 0


def _slices(arguments: dict[str, Any], values: Any) -> list[tuple[Any, dict[str, Any]]]:
    dim, start, pieces = arguments["dim"], 0, []
    for value in values:
        end = start + int(value.shape[dim])
        pieces.append((aten.slice.Tensor, {"dim": dim, "start": start, "end": end, "step": 1}))
        start = end
    return pieces


def _selects(arguments: dict[str, Any], values: Any) -> list[tuple[Any, dict[str, Any]]]:
    return [(aten.select.int, {"dim": arguments["dim"], "index": i}) for i in range(len(values))]


def _pooled(arguments: dict[str, Any], values: Any) -> list[tuple[Any, dict[str, Any]]]:
    rest = {key: value for key, value in arguments.items() if key != "self"}
    return [(aten.max_pool2d.default, rest)]


SPLITS: dict[Any, Slicer] = {
    aten.split.Tensor: _slices,
    aten.split_with_sizes.default: _slices,
    aten.chunk.default: _slices,
    aten.unbind.int: _selects,
    aten.max_pool2d_with_indices.default: _pooled,
}

FILLS = {
    aten.zeros_like.default: 0.0,
    aten.ones_like.default: 1.0,
    aten.new_zeros.default: 0.0,
    aten.new_ones.default: 1.0,
}

VIEWS = {
    aten.view.default,
    aten.view_as.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.slice.Tensor,
    aten.select.int,
    aten.narrow.default,
    aten.transpose.int,
    aten.t.default,
    aten.permute.default,
    aten.movedim.int,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.unsqueeze.default,
    aten.expand.default,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.unbind.int,
    aten.alias.default,
    aten.contiguous.default,
    operator.getitem,
}
"""Operators whose output may share memory with their input."""
