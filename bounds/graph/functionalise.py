"""An exported program without in-place operators: every read sees what was written before, also through views."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten

FRESH = {
    aten.conv1d.default, aten.conv2d.default, aten.conv2d.padding, aten.linear.default, aten.batch_norm.default,
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.cat.default, aten.max_pool2d.default,
    aten.avg_pool2d.default,
}  # fmt: skip
"""Operators whose result is always new memory and never a view."""


def functional(program: Any) -> Any:
    """Return an equivalent program without in-place operators, by torch's functionalisation if it is necessary.

    In-place operators that can be read as their out-of-place forms need no functionalisation, see `reads_alone`.
    """
    if not any(node.target in REWRITTEN or _writes(node) for node in program.graph.nodes):
        return program
    _select_instead_of_unbind(program)
    program = program.run_decompositions(REWRITTEN)
    _slice_before_cat(program)
    return program


def without_modes(program: Any) -> None:
    """Replace blocks that switch gradients on or off by their contents; no value depends on the switch."""
    graph, module = program.graph, program.graph_module
    blocks = [
        node for node in graph.nodes if node.target is torch.ops.higher_order.wrap_with_set_grad_enabled
    ]
    for block in blocks:
        _, inner, *operands = block.args
        body = getattr(module, inner.target).graph
        inputs = (node for node in body.nodes if node.op == "placeholder")
        with graph.inserting_before(block):
            copied = graph.graph_copy(body, dict(zip(inputs, operands, strict=True)))
        for output in list(block.users):
            output.replace_all_uses_with(copied[output.args[1]])
            graph.erase_node(output)
        graph.erase_node(block)
        graph.erase_node(inner)
        delattr(module, inner.target)
    if blocks:
        module.recompile()


def mutable(target: Any) -> bool:
    """Return whether an operator writes to one of its arguments."""
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def reads_alone(node: fx.Node) -> bool:
    """Return whether an in-place operator is the only reader of new memory, so that no other node sees its write.

    The result is then the same memory under a new name, and the operator is read as its out-of-place form.  The same
    holds for a counter that nothing reads.
    """
    written = node.args[0] if node.args else None
    if not isinstance(written, fx.Node) or len(written.users) > 1 or not _of_one_argument(node.target):
        return False
    if written.op == "placeholder":
        return not node.users
    return written.target in FRESH or (mutable(written.target) and reads_alone(written))


def out_of_place(target: Any) -> Any:
    """Return the out-of-place form of an in-place operator; None if there is none with the same arguments."""
    name, overload = target._schema.name.split("::")[1], target._overloadname
    found = getattr(getattr(aten, name.rstrip("_"), None), overload, None)
    kinds = [[str(a.type) for a in form._schema.arguments] for form in (target, found) if form is not None]
    return found if len(kinds) == 2 and kinds[0] == kinds[1] else None


def _of_one_argument(target: Any) -> bool:
    """Return whether an operator writes to its first argument alone, and has an out-of-place form."""
    written = [a.alias_info is not None and a.alias_info.is_write for a in target._schema.arguments]
    form = out_of_place(target)
    return written[0] and not any(written[1:]) and form is not None and form not in REWRITTEN


def _writes(node: fx.Node) -> bool:
    """Return whether another node may see what a node writes."""
    if mutable(node.target):
        return not reads_alone(node)
    if node.target in (aten.batch_norm.default, aten.instance_norm.default):
        # in training mode it writes to its statistics, which its schema does not say
        return node.args[5] is True and any(
            isinstance(statistics, fx.Node) and len(statistics.users) > 1 for statistics in node.args[3:5]
        )
    return False


def _select_instead_of_unbind(program: Any) -> None:
    """Replace unbind by selects, because torch's functionalisation of unbind fixes the size of the batch."""
    graph = program.graph
    for node in list(graph.nodes):
        if node.target is not aten.unbind.int:
            continue
        source, dim = node.args[0], node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        for piece in list(node.users):
            if piece.target is not operator.getitem:
                break
            with graph.inserting_before(piece):
                select = graph.call_function(aten.select.int, (source, dim, piece.args[1]))
            select.meta = dict(piece.meta)
            piece.replace_all_uses_with(select)
            graph.erase_node(piece)
        else:
            graph.erase_node(node)
    program.graph_module.recompile()


def _slice_before_cat(program: Any) -> None:
    """Replace a slice of a concatenation by slices of its parts, so that overwritten parts are not read any more."""
    graph = program.graph
    for node in list(graph.nodes):
        if node.target is aten.slice.Tensor and _is_whole(*node.args[2:]):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
            continue
        span = _span(node)
        if span is None or node.args[0].target is not aten.cat.default:
            continue
        joined, dim, start, end = node.args[0], *span
        value, axis = joined.meta["val"], joined.args[1] if len(joined.args) > 1 else 0
        if axis % value.dim() != dim:
            continue
        pieces, position = [], 0
        for part in joined.args[0]:
            length = part.meta["val"].shape[dim]
            first, last = max(start - position, 0), min(end - position, length)
            if first < last:
                pieces.append(_part(graph, node, part, dim, first, last))
            position += length
        with graph.inserting_before(node):
            whole = pieces[0] if len(pieces) == 1 else graph.call_function(aten.cat.default, (pieces, dim))
        if len(pieces) > 1:
            whole.meta = dict(node.meta)
        node.replace_all_uses_with(whole)
        graph.erase_node(node)
    for node in list(graph.nodes):  # a concatenation of concatenations is one
        if node.target is aten.cat.default:
            dim = (node.args[1] if len(node.args) > 1 else 0) % node.meta["val"].dim()
            flat: list[fx.Node] = []
            for part in node.args[0]:
                same = part.target is aten.cat.default and part.args[1:] == (dim,)
                flat += part.args[0] if same else [part]
            node.args = (flat, dim)
    program.graph_module.recompile()


def _is_whole(start: Any = None, end: Any = None, step: Any = 1) -> bool:
    """Return whether a slice leaves nothing out, whatever the length."""
    return start in (0, None) and step == 1 and (end is None or (isinstance(end, int) and end >= 2**62))


def _span(node: fx.Node) -> tuple[int, int, int] | None:
    """Return (dimension, start, end) of a slice of fixed length without steps."""
    if node.target is not aten.slice.Tensor or not isinstance(node.args[0], fx.Node):
        return None
    given = [*node.args[1:], *[None] * (5 - len(node.args))]
    value = node.args[0].meta["val"]
    dim = (given[0] or 0) % value.dim()
    if given[3] not in (None, 1) or isinstance(value.shape[dim], torch.SymInt):
        return None
    if any(isinstance(bound, fx.Node) for bound in given[1:3]):
        return None
    start, end, _ = slice(given[1], given[2]).indices(value.shape[dim])
    return (dim, start, end) if start < end else None


def _part(graph: fx.Graph, before: fx.Node, part: fx.Node, dim: int, first: int, last: int) -> fx.Node:
    """Return the part from `first` to `last` of one piece of a concatenation."""
    value = part.meta["val"]
    if (first, last) == (0, value.shape[dim]):
        return part
    inner = _span(part)
    if inner is not None and inner[0] == dim:  # a slice of a slice
        part, first, last = part.args[0], first + inner[1], last + inner[1]  # type: ignore[assignment]
    with graph.inserting_before(before):
        piece = graph.call_function(aten.slice.Tensor, (part, dim, first, last))
    piece.meta = {**before.meta, "val": value.narrow(dim, 0, last - first)}
    return piece


# Operators that functionalisation produces, written by operators that have rules


def _slice_scatter(
    self: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    """Return the tensor with a slice replaced, as a concatenation of its old and new parts."""
    dim = dim % self.dim()
    size: Any = self.shape[dim]
    if _is_whole(start, end, step):
        return _cast(src, self)
    if isinstance(size, torch.SymInt):
        return NotImplemented
    first, last, _ = slice(start, end, step).indices(size)
    pieces, position = [], 0
    for i, index in enumerate(range(first, last, step)):
        if step == 1:
            break
        pieces += [self.narrow(dim, position, index - position), src.narrow(dim, i, 1)]
        position = index + 1
    if step == 1 and last > first:
        pieces, position = [self.narrow(dim, 0, first), src], last
    pieces.append(self.narrow(dim, position, size - position))
    pieces = [_cast(piece, self) for piece in pieces if piece.shape[dim]]
    return torch.cat(pieces, dim) if len(pieces) > 1 else pieces[0]


def _select_scatter(self: Tensor, src: Tensor, dim: int, index: int) -> Any:
    dim = dim % self.dim()
    if isinstance(self.shape[dim], torch.SymInt):
        return NotImplemented
    index = index % self.shape[dim]
    return _slice_scatter(self, src.unsqueeze(dim), dim, index, index + 1)


def _copy(self: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    return _cast(src, self) if src.shape == self.shape else _cast(src, self).expand_as(self)


def _fill(self: Tensor, value: Any) -> Tensor:
    return torch.full_like(self, value)


def _fill_by_tensor(self: Tensor, value: Tensor) -> Tensor:
    return _cast(value, self).expand_as(self)


def _index_put(self: Tensor, indices: list[Tensor | None], values: Tensor, accumulate: bool = False) -> Any:
    """Return the tensor with some positions of one dimension replaced, as a selection from all old and new ones."""
    dims = [dim for dim, index in enumerate(indices) if index is not None]
    if len(dims) != 1 or accumulate or dims[0] == 0:
        return NotImplemented
    index, size = indices[dims[0]], self.shape[dims[0]]
    assert index is not None
    if index.dim() != 1 or index.dtype is torch.bool:
        return NotImplemented
    shape = [*self.shape]
    shape[dims[0]] = index.shape[0]
    positions = torch.arange(size, device=index.device).index_copy(
        0, index % size, size + torch.arange(index.shape[0], device=index.device)
    )
    both = torch.cat([self, _cast(values, self).expand(shape)], dims[0])
    return both.index_select(dims[0], positions)


def _index_fill(self: Tensor, dim: int, index: Tensor, value: Any) -> Any:
    if dim % self.dim() == 0:
        return NotImplemented
    new = torch.full_like(self.narrow(dim, 0, 1), value)
    return _index_put(self, [*[None] * (dim % self.dim()), index], new)


def _cast(tensor: Tensor, like: Tensor) -> Tensor:
    return tensor if tensor.dtype == like.dtype else tensor.to(like.dtype)


REWRITTEN: dict[Any, Callable[..., Any]] = {
    aten.slice_scatter.default: _slice_scatter,
    aten.select_scatter.default: _select_scatter,
    aten.copy.default: _copy,
    aten.fill.Scalar: _fill,
    aten.fill.Tensor: _fill_by_tensor,
    aten.index_put.default: _index_put,
    aten.index_fill.int_Scalar: _index_fill,
}
"""The decompositions of the operators that functionalisation produces."""
