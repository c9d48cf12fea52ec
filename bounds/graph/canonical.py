"""Every rewrite of the traced graph.

Operators with several outputs become slices, products with a literal zero become constants, and operators such as layer
normalisation become several operators that have rules.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import fx

from ..errors import UnsupportedOp

aten = torch.ops.aten
Slicer = Callable[[dict[str, Any], Any], list[tuple[Any, dict[str, Any]]]]
"""For an operator with several outputs: (operator, arguments) for each output."""


PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar)
"""Products with a tensor or a number."""


def fill_of(target: Any, arguments: dict[str, Any]) -> float | None:
    """Return the value that fills a tensor, such as 0 for a product with a literal zero; None for other tensors."""
    if target in PRODUCTS:
        factors = [arguments["self"], arguments["other"]]
        return 0.0 if any(isinstance(factor, (int, float)) and factor == 0 for factor in factors) else None
    if target in (aten.full_like.default, aten.new_full.default):
        return arguments["fill_value"]
    return FILLS.get(target)


def narrows(target: Any, value: Any) -> bool:
    """Return whether an operator casts to a type without large numbers: it rounds, so it is not the identity."""
    casts = (aten.to, aten.type_as, aten._to_copy)
    return getattr(target, "overloadpacket", None) in casts and value.dtype not in (
        torch.float32,
        torch.float64,
    )


def keeps_numbers(target: Any, value: Any) -> bool:
    """Return whether an operator without a rule is the identity: a cast between floating-point types, or `detach`."""
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
    """Return the batch normalisation that functionalisation writes with three outputs; the other two are statistics."""
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
"""Operators with several outputs."""

FILLS = {
    aten.zero.default: 0.0,
    aten.zeros_like.default: 0.0,
    aten.ones_like.default: 1.0,
    aten.new_zeros.default: 0.0,
    aten.new_ones.default: 1.0,
}
"""Operators whose result is filled with one value."""

LIKE = {
    aten.view_as.default: (aten.view.default, "size"),
    aten.reshape_as.default: (aten.reshape.default, "shape"),
    aten.expand_as.default: (aten.expand.default, "size"),
}
"""Operators that use the shape of another tensor: the (operator, argument) that use the shape itself."""

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
"""Operators with several names.  Their arguments have the same order."""


# Operators that are replaced by several operators with rules


class _CallWriter:
    """Inserts operator calls before a node of an exported graph, under the same user's module."""

    def __init__(self, node: fx.Node) -> None:
        self._node = node

    def __call__(self, target: Any, *arguments: Any) -> fx.Node:
        """Insert the call target(*arguments), with the value's shape as `export` records it."""
        graph = self._node.graph
        with graph.inserting_before(self._node):
            made = graph.call_function(target, arguments)
        made.meta = {key: self._node.meta[key] for key in ("nn_module_stack",) if key in self._node.meta}
        made.meta["val"] = target(*fx.map_arg(arguments, lambda node: node.meta["val"]))
        return made


def _shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's value without the batch dimension."""
    return tuple(int(size) for size in node.meta["val"].shape[1:])


def compose(program: Any) -> None:
    """Replace every call of an operator of `COMPOSED` in an exported program, in place."""
    nodes = [node for node in program.graph.nodes if node.target in COMPOSED]
    for node in nodes:
        found = COMPOSED[node.target](_CallWriter(node), *node.args, **node.kwargs)
        if isinstance(found, fx.Node):
            node.replace_all_uses_with(found)
        else:
            _replace_pieces(node, found)
        if not node.users:
            program.graph.erase_node(node)
    if nodes:
        program.graph_module.recompile()


def _replace_pieces(node: fx.Node, found: tuple[fx.Node, ...]) -> None:
    """Replace the outputs of an operator; it stays, and has no rule, if an output is read that is not in `found`."""
    for user in list(node.users):
        if user.target is operator.getitem and user.args[1] in range(len(found)):
            user.replace_all_uses_with(found[user.args[1]])  # type: ignore[index]
        if not user.users:
            user.graph.erase_node(user)


def _layer_norm(
    write: _CallWriter,
    x: fx.Node,
    normalized_shape: list[int],
    weight: fx.Node | None = None,
    bias: fx.Node | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> fx.Node:
    """Write (x − mean) / √(mean of (x − mean)² + ε) · weight + bias over the last axes.  Ba, Kiros, Hinton 2016."""
    if not eps > 0:
        raise UnsupportedOp(
            f"trace: aten.layer_norm.default with eps={eps:g}: where all numbers are equal it divides by zero, or by "
            "what rounding leaves; accepted: eps > 0"
        )
    dims = list(range(-len(normalized_shape), 0))
    centered = write(aten.sub.Tensor, x, write(aten.mean.dim, x, dims, True))
    variance = write(aten.mean.dim, write(aten.square.default, centered), dims, True)
    inverse = write(aten.rsqrt.default, write(aten.add.Tensor, variance, eps))
    y = write(aten.mul.Tensor, centered, inverse)
    y = y if weight is None else write(aten.mul.Tensor, y, weight)
    return y if bias is None else write(aten.add.Tensor, y, bias)


def _maximum(write: _CallWriter, x: fx.Node, dim: list[int] | int = (), keepdim: bool = False) -> fx.Node:  # type: ignore[assignment]
    """Write the maximum over some axes as a max pooling whose window covers all of them."""
    sizes = _shape_of(x)
    rank = len(sizes) + 1
    dims = sorted({d % rank for d in ([dim] if isinstance(dim, int) else dim or range(rank))})
    if 0 in dims:
        return write(aten.amax.default, x, dim, keepdim)  # mixes images, which `trace` refuses
    rest = [d for d in range(1, rank) if d not in dims]
    count, others = prod(sizes[d - 1] for d in dims), prod(sizes[d - 1] for d in rest)
    moved = write(aten.permute.default, x, [0, *dims, *rest])
    columns = write(aten.reshape.default, moved, [-1, 1, count, others])
    found = write(aten.max_pool2d.default, columns, [count, 1])
    shape = [1 if d in dims else sizes[d - 1] for d in range(1, rank) if keepdim or d not in dims]
    return write(aten.reshape.default, found, [-1, *shape])


def _minimum(write: _CallWriter, x: fx.Node, dim: list[int] | int = (), keepdim: bool = False) -> fx.Node:  # type: ignore[assignment]
    negative = write(aten.neg.default, x)
    return write(aten.neg.default, _maximum(write, negative, dim, keepdim))


def _values(extreme: Callable[..., fx.Node]) -> Callable[..., tuple[fx.Node, ...]]:
    """Return the rewrite of an operator that returns values and indices: one that returns the values alone."""

    def composed(write: _CallWriter, x: fx.Node, dim: int, keepdim: bool = False) -> tuple[fx.Node, ...]:
        return (extreme(write, x, dim, keepdim),)

    return composed


COMPOSED: dict[Any, Callable[..., Any]] = {
    aten.layer_norm.default: _layer_norm,
    aten.amax.default: _maximum,
    aten.amin.default: _minimum,
    aten.max.dim: _values(_maximum),
    aten.min.dim: _values(_minimum),
}
"""The rewrite of each operator: a function of a `_CallWriter` and the call's arguments that returns the new output."""
