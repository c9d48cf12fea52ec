"""Operators that are read as several which have rules: layer normalisation, extremes along axes, recurrent layers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import prod
from typing import Any

from torch import fx, ops

from bounds.errors import UnsupportedOp

aten = ops.aten


class Writer:
    """Writes operator calls before a node of an exported graph, in its place and its module's name."""

    def __init__(self, node: fx.Node) -> None:
        self._node = node

    def __call__(self, target: Any, *arguments: Any) -> fx.Node:
        """target(*arguments), with the value's shape as `export` notes it."""
        graph = self._node.graph
        with graph.inserting_before(self._node):
            made = graph.call_function(target, arguments)
        made.meta = {key: self._node.meta[key] for key in ("nn_module_stack",) if key in self._node.meta}
        made.meta["val"] = target(*fx.map_arg(arguments, lambda node: node.meta["val"]))
        return made


def shape(node: fx.Node) -> tuple[int, ...]:
    """Its sizes without the batch's."""
    return tuple(int(size) for size in node.meta["val"].shape[1:])


def compose(program: Any) -> None:
    """Writes every call of `COMPOSED` in an exported program out, in place."""
    nodes = [node for node in program.graph.nodes if node.target in COMPOSED]
    for node in nodes:
        found = COMPOSED[node.target](Writer(node), *node.args, **node.kwargs)
        if isinstance(found, fx.Node):
            node.replace_all_uses_with(found)
        else:
            _replace_pieces(node, found)
        if not node.users:
            program.graph.erase_node(node)
    if nodes:
        program.graph_module.recompile()


def _replace_pieces(node: fx.Node, found: tuple[fx.Node, ...]) -> None:
    """An operator of several outputs; where one is read that is not in `found`, it stays, and has no rule then."""
    for user in list(node.users):
        if user.target is operator.getitem and user.args[1] in range(len(found)):
            user.replace_all_uses_with(found[user.args[1]])  # type: ignore[index]
        if not user.users:
            user.graph.erase_node(user)


def _layer_norm(
    write: Writer,
    x: fx.Node,
    normalized_shape: list[int],
    weight: fx.Node | None = None,
    bias: fx.Node | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> fx.Node:
    """(x − mean) / √(mean of (x − mean)² + ε) · weight + bias over the last axes.  Ba, Kiros, Hinton 2016."""
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


def _greatest(write: Writer, x: fx.Node, dim: list[int] | int = (), keepdim: bool = False) -> fx.Node:  # type: ignore[assignment]
    """The greatest along some axes: max pooling with a window of all of them."""
    sizes = shape(x)
    rank = len(sizes) + 1
    dims = sorted({d % rank for d in ([dim] if isinstance(dim, int) else dim or range(rank))})
    if 0 in dims:
        return write(aten.amax.default, x, dim, keepdim)  # of several images, which the trace refuses
    rest = [d for d in range(1, rank) if d not in dims]
    count, others = prod(sizes[d - 1] for d in dims), prod(sizes[d - 1] for d in rest)
    moved = write(aten.permute.default, x, [0, *dims, *rest])
    columns = write(aten.reshape.default, moved, [-1, 1, count, others])
    found = write(aten.max_pool2d.default, columns, [count, 1])
    kept = [1 if d in dims else sizes[d - 1] for d in range(1, rank) if keepdim or d not in dims]
    return write(aten.reshape.default, found, [-1, *kept])


def _least(write: Writer, x: fx.Node, dim: list[int] | int = (), keepdim: bool = False) -> fx.Node:  # type: ignore[assignment]
    negative = write(aten.neg.default, x)
    return write(aten.neg.default, _greatest(write, negative, dim, keepdim))


def _values(extreme: Callable[..., fx.Node]) -> Callable[..., tuple[fx.Node, ...]]:
    """Reads an operator that returns values and places as one that returns the values."""

    def composed(write: Writer, x: fx.Node, dim: int, keepdim: bool = False) -> tuple[fx.Node, ...]:
        return (extreme(write, x, dim, keepdim),)

    return composed


COMPOSED: dict[Any, Callable[..., Any]] = {
    aten.layer_norm.default: _layer_norm,
    aten.amax.default: _greatest,
    aten.amin.default: _least,
    aten.max.dim: _values(_greatest),
    aten.min.dim: _values(_least),
}
"""operator -> what it is read as, from a `Writer` and the call's arguments."""
