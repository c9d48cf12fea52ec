"""One operator call of a graph, and its evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .batch_norm import by_channel, scale_and_shift

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Ref:
    """The value of another node, in a node's arguments."""

    name: str


@dataclass(frozen=True)
class Node:
    """One operator call.

    `arguments` follow the operator's schema by name, defaults filled in; `operands` are the nodes among them that
    depend on the perturbed input, in order; `shape` is the output's without its batch dimension.
    """

    name: str
    target: Callable[..., Any]
    arguments: Mapping[str, Any]
    operands: tuple[str, ...]
    shape: tuple[int, ...]
    module: str = ""

    @property
    def op(self) -> str:
        return str(self.target)

    def where(self) -> str:
        """The node in words, for messages."""
        shape = ["N", *self.shape]
        return (
            f"{self.op} at node '{self.name}' (output {shape}{f', in {self.module}' if self.module else ''})"
        )


def resolve(value: Any, values: Mapping[str, Any]) -> Any:
    """`value` with every `Ref` in it replaced by what `values` holds for it."""
    if isinstance(value, Ref):
        return values[value.name]
    if isinstance(value, (list, tuple)):
        return type(value)(resolve(item, values) for item in value)
    return value


def execute(node: Node, values: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> Any:
    """The operator itself on resolved values, in the run's own dtype and device."""
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
    """Batch normalisation by statistics that are functions of parameters, which torch's own cannot differentiate."""
    x = arguments["input"]
    scale, shift = scale_and_shift(
        *(arguments[key] for key in ("running_mean", "running_var", "weight", "bias", "eps"))
    )
    return x * by_channel(scale, x.dim()) + by_channel(shift, x.dim())
