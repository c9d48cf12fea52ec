"""What the tracer reads differently from how it was written: operators of several outputs, and constant fills."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten
Slicer = Callable[[dict[str, Any], Any], list[tuple[Any, dict[str, Any]]]]
"""For an operator of several outputs: (operator, arguments) of each that has a meaning for images apart."""


PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar)


def fill_of(target: Any, arguments: dict[str, Any]) -> float | None:
    """The value of a tensor that is filled with one, a product with a literal zero included; None for others."""
    if target in PRODUCTS:
        factors = [arguments["self"], arguments["other"]]
        return 0.0 if any(isinstance(factor, (int, float)) and factor == 0 for factor in factors) else None
    if target in (aten.full_like.default, aten.new_full.default):
        return arguments["fill_value"]
    return FILLS.get(target)


def narrows(target: Any, value: Any) -> bool:
    """Whether an operator casts to a type that holds no large numbers: no identity, whatever is rounded."""
    casts = (aten.to, aten.type_as, aten._to_copy)
    return getattr(target, "overloadpacket", None) in casts and value.dtype not in (
        torch.float32,
        torch.float64,
    )


def keeps_numbers(target: Any, value: Any) -> bool:
    """Whether an operator without a rule is the identity: a cast between floating-point types, or `detach`."""
    packet = getattr(target, "overloadpacket", None)
    return packet is aten.detach or (packet in (aten.to, aten.type_as) and value.is_floating_point())


def _slices(arguments: dict[str, Any], values: Any) -> list[tuple[Any, dict[str, Any]]]:
    dim, start, pieces = arguments["dim"], 0, []
    for value in values:
        end = start + int(value.shape[dim])
        given = {"self": arguments["self"], "dim": dim, "start": start, "end": end, "step": 1}
        pieces.append((aten.slice.Tensor, given))
        start = end
    return pieces


def _selects(arguments: dict[str, Any], values: Any) -> list[tuple[Any, dict[str, Any]]]:
    chosen = {"self": arguments["self"], "dim": arguments["dim"]}
    return [(aten.select.int, {**chosen, "index": i}) for i in range(len(values))]


def _pooled(arguments: dict[str, Any], values: Any) -> list[tuple[Any, dict[str, Any]]]:
    return [(aten.max_pool2d.default, arguments)]


def _normalised(arguments: dict[str, Any], values: Any) -> list[tuple[Any, dict[str, Any]]]:
    """Batch normalisation as functionalisation writes it; its other outputs are statistics."""
    absent = {"running_mean": None, "running_var": None, "training": False, "cudnn_enabled": False}
    return [(aten.batch_norm.default, {**absent, **arguments})]


SPLITS: dict[Any, Slicer] = {
    aten.split.Tensor: _slices,
    aten.split_with_sizes.default: _slices,
    aten.chunk.default: _slices,
    aten.unbind.int: _selects,
    aten.max_pool2d_with_indices.default: _pooled,
    aten._native_batch_norm_legit_no_training.default: _normalised,
    aten._native_batch_norm_legit_functional.default: _normalised,
    aten._native_batch_norm_legit.no_stats: _normalised,
}

FILLS = {
    aten.zero.default: 0.0,
    aten.zeros_like.default: 0.0,
    aten.ones_like.default: 1.0,
    aten.new_zeros.default: 0.0,
    aten.new_ones.default: 1.0,
}

LIKE = {
    aten.view_as.default: (aten.view.default, "size"),
    aten.reshape_as.default: (aten.reshape.default, "shape"),
    aten.expand_as.default: (aten.expand.default, "size"),
}
"""Operators that take another tensor's shape: (operator, argument) that take the shape itself."""

SYNONYMS = {
    aten.clip.default: aten.clamp.default,
    aten.clip.Tensor: aten.clamp.Tensor,
    aten.multiply.Tensor: aten.mul.Tensor,
    aten.subtract.Tensor: aten.sub.Tensor,
    aten.divide.Tensor: aten.div.Tensor,
    aten.true_divide.Tensor: aten.div.Tensor,
    aten.negative.default: aten.neg.default,
    aten.absolute.default: aten.abs.default,
    aten.concat.default: aten.cat.default,
    aten.concatenate.default: aten.cat.default,
    aten.swapaxes.default: aten.transpose.int,
    aten.swapdims.default: aten.transpose.int,
}
"""Operators under another name.  Their arguments stand in the same order."""
