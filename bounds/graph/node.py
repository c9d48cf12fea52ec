"""One operator call of a graph, and its evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .batch_norm import by_channel, scale_and_shift

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The floating-point types."""


@dataclass(frozen=True)
class Ref:
    """A reference to the value of another node, in a node's arguments."""

    name: str
    """The other node's name."""


@dataclass(frozen=True)
class Node:
    """One operator call."""

    name: str
    """The node's name in the graph."""
    target: Callable[..., Any]
    """The operator, such as `torch.ops.aten.relu.default`."""
    arguments: Mapping[str, Any]
    """The arguments by their names in the operator's schema, defaults filled in."""
    operands: tuple[str, ...]
    """The names of the nodes among the arguments that depend on the perturbed input, in order."""
    shape: tuple[int, ...]
    """The output's shape without the batch dimension."""
    module: str = ""
    """The path of the user's module that makes the call."""

    @property
    def op(self) -> str:
        """The operator's name."""
        return str(self.target)

    def where(self) -> str:
        """Return a description of the node for messages."""
        shape = ["N", *self.shape]
        return (
            f"{self.op} at node '{self.name}' (output {shape}{f', in {self.module}' if self.module else ''})"
        )


def upstream(
    nodes: Mapping[str, Node], start: Iterable[str], stop: Callable[[str], bool] | None = None
) -> frozenset[str]:
    """Return the names `start` and all names that they are computed from, those that are no node among them.

    stop: whether the walk ends at a name.  That name is returned, and those before it are not.
    """
    found: set[str] = set()
    stack = list(start)
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            if name in nodes and not (stop and stop(name)):
                stack += nodes[name].operands
    return frozenset(found)


def resolve(value: Any, values: Mapping[str, Any]) -> Any:
    """Return `value` with every `Ref` in it replaced by its entry in `values`."""
    if isinstance(value, Ref):
        return values[value.name]
    if isinstance(value, (list, tuple)):
        return type(value)(resolve(item, values) for item in value)
    return value


def execute(node: Node, values: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> Any:
    """Evaluate the operator on resolved values, in the given dtype and device."""
    arguments = {key: resolve(value, values) for key, value in node.arguments.items()}
    if arguments.get("dtype") in FLOATS:
        arguments["dtype"] = dtype
    if arguments.get("device") is not None:
        arguments["device"] = device
    mean = arguments.get("running_mean")
    if isinstance(mean, Tensor) and mean.requires_grad:
        return _normalise(arguments)
    if not hasattr(node.target, "_schema"):
        return node.target(*arguments.values())
    schema = node.target._schema
    positional = [arguments.pop(a.name) for a in schema.arguments if not a.kwarg_only]
    return node.target(*positional, **arguments)


def _normalise(arguments: Mapping[str, Any]) -> Tensor:
    """Apply batch normalisation with differentiable statistics, which torch's own operator does not differentiate."""
    x = arguments["input"]
    scale, shift = scale_and_shift(
        *(arguments[key] for key in ("running_mean", "running_var", "weight", "bias", "eps"))
    )
    return x * by_channel(scale, x.dim()) + by_channel(shift, x.dim())
