"""One operator's call without a trace: what a rule is given, made by hand; and its matrix, column by column."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bounds.graph import Call, Graph, Network, Node, Ref, execute

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Open:
    """A tensor that depends on the image, of this shape."""

    shape: tuple[int, ...]


def call_of(target: Any, *given: Any, dtype: torch.dtype = torch.float64, **options: Any) -> Call:
    """The call of an operator as node "y"; the operands x0, x1, … stand where `Open` does, one name for each."""
    schema = target._schema.arguments
    named = {argument.name: argument.default_value for argument in schema}
    named.update(zip((argument.name for argument in schema), given, strict=False))
    named.update(options)
    names: dict[int, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}

    def read(value: Any) -> Any:
        if isinstance(value, Open):
            name = names.setdefault(id(value), f"x{len(names)}")
            shapes[name] = value.shape
            return Ref(name)
        return [read(item) for item in value] if isinstance(value, list) else value

    node = Node("y", target, {key: read(value) for key, value in named.items()}, tuple(shapes), ())
    zeros = {name: torch.zeros(1, *shape, dtype=dtype) for name, shape in shapes.items()}
    node = replace(node, shape=tuple(execute(node, zeros, dtype, CPU).shape[1:]))
    first, *others = shapes
    clone = torch.ops.aten.clone.default
    nodes = {name: Node(name, clone, {"self": Ref(first)}, (first,), shapes[name]) for name in others}
    graph = Graph(first, "y", shapes[first], {**nodes, "y": node}, (), {}, {})
    return Network(graph, {}, dtype, CPU).call(node)


def matrices(call: Call) -> tuple[list[Tensor], Tensor]:
    """(L_k [out, in] of each operand, b [out]) of an affine call, by its value at zero and at each unit vector."""
    dtype = call.network.dtype
    zero = [torch.zeros(1, *shape, dtype=dtype) for shape in call.shapes]
    bias = call.apply(*zero).flatten()
    found = []
    for k, x in enumerate(zero):
        units = torch.eye(x.numel(), dtype=dtype).reshape(-1, *x.shape)
        columns = [call.apply(*zero[:k], unit, *zero[k + 1 :]).flatten() - bias for unit in units]
        found.append(torch.stack(columns, 1))
    return found, bias
