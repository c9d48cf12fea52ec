"""The network as a value: a list of operator calls (`Graph`), and the same with its parameters (`Network`).

A `Graph` is structure only.  Parameters, and architecture variables among them, are given at `bind`, so bounds
are differentiable in both and a network is traced once, whatever its weights become.  Whatever does not depend
on the perturbed input, such as softmax(α), is evaluated at `bind` and is a constant of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bounds.errors import BoundsError, InvalidInput

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


@dataclass(frozen=True, eq=False)
class Graph:
    """A network's structure: nodes in topological order, from `input` to `output`.

    `parameters` maps a node name to the parameter's or buffer's name in the module; `defaults` holds the traced
    module's own tensors under those names (not copies), used where `bind` is given none.
    """

    input: str
    output: str
    input_shape: tuple[int, ...]
    nodes: Mapping[str, Node]
    constants: tuple[Node, ...]
    parameters: Mapping[str, str]
    defaults: Mapping[str, Tensor] = field(repr=False)
    batch_sizes: tuple[str, ...] = ()

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.nodes[self.output].shape if self.output in self.nodes else self.input_shape

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a node's value without the batch dimension."""
        return self.input_shape if name == self.input else self.nodes[name].shape

    def bind(
        self,
        params: Mapping[str, Tensor] | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        batch: Tensor | None = None,
    ) -> Network:
        """Resolve parameters and every node that does not depend on the input.

        params: name -> tensor, as in the module's `named_parameters()` and `named_buffers()`; names left out keep
        the traced module's tensors.  batch [M, *input_shape]: for a network traced in training mode, the images
        whose statistics its batch normalisations use; they count as constants.
        Raises InvalidInput for an unknown name, a wrong shape, or NaN among the parameters.
        """
        given = dict(params or {})
        unknown = sorted(set(given) - set(self.parameters.values()))
        if unknown:
            raise InvalidInput(
                f"bind: no parameter '{unknown[0]}'; the network has {sorted(self.parameters.values())[:8]} …"
            )
        values: dict[str, Any] = {}
        for node_name, name in self.parameters.items():
            tensor = given.get(name, self.defaults[name])
            if tensor.shape != self.defaults[name].shape:
                raise InvalidInput(
                    f"bind: parameter '{name}' has shape {list(tensor.shape)}, "
                    f"expected {list(self.defaults[name].shape)}"
                )
            values[node_name] = _cast(tensor, dtype, device)
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise InvalidInput(
                    f"bind: parameter '{name}' has NaN or infinite values; bounds need finite weights"
                )
        values.update({name: 1 for name in self.batch_sizes})
        like = next((v for v in values.values() if isinstance(v, Tensor) and v.is_floating_point()), None)
        run_dtype = dtype or (like.dtype if like is not None else torch.get_default_dtype())
        run_device = (
            torch.device(device)
            if device is not None
            else (like.device if like is not None else torch.device("cpu"))
        )
        for node in self.constants:
            values[node.name] = execute(node, values, run_dtype, run_device)
        network = Network(self, values, run_dtype, run_device)
        return network.with_statistics(batch) if any(_uses_batch(n) for n in self.nodes.values()) else network


def _cast(tensor: Tensor, dtype: torch.dtype | None, device: torch.device | str | None) -> Tensor:
    return tensor.to(device=device, dtype=dtype if tensor.dtype in FLOATS else None)


def _uses_batch(node: Node) -> bool:
    return node.op == "aten.batch_norm.default" and bool(node.arguments["training"])


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
    x, mean, variance = arguments["input"], arguments["running_mean"], arguments["running_var"]
    shape = (1, -1, *[1] * (x.dim() - 2))
    y = (x - mean.reshape(shape)) * torch.rsqrt(variance + arguments["eps"]).reshape(shape)
    y = y if arguments["weight"] is None else y * arguments["weight"].reshape(shape)
    return y if arguments["bias"] is None else y + arguments["bias"].reshape(shape)


@dataclass(frozen=True, eq=False)
class Network:
    """A graph with its parameters: one function f, ready to be evaluated and bounded."""

    graph: Graph
    values: Mapping[str, Any] = field(repr=False)
    dtype: torch.dtype
    device: torch.device

    def __call__(self, x: Tensor) -> Tensor:
        """f(x).  x [N, *input_shape]; returns [N, *output_shape]."""
        *_, last = self._run(x)
        return last[1]

    def _run(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        graph = self.graph
        if tuple(x.shape[1:]) != graph.input_shape:
            expected = ", ".join(["N", *map(str, graph.input_shape)])
            raise InvalidInput(f"network: input has shape {list(x.shape)}, expected [{expected}]")
        x = x.to(device=self.device, dtype=self.dtype)
        values = {**self.values, graph.input: x}
        if graph.batch_sizes:
            values.update({name: len(x) for name in graph.batch_sizes})
            for node in graph.constants:
                values[node.name] = execute(node, values, self.dtype, self.device)
        yield graph.input, x
        for node in graph.nodes.values():
            try:
                values[node.name] = execute(node, values, self.dtype, self.device)
            except RuntimeError as error:
                raise BoundsError(f"evaluating {node.where()}: {str(error).splitlines()[0]}") from error
            yield node.name, values[node.name]

    def call(self, node: Node) -> Call:
        return Call(node, self)

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> Network:
        """The same function in another dtype or on another device."""
        place = torch.device(device) if device is not None else self.device
        values = {
            name: _cast(v, dtype, place)
            if isinstance(v, Tensor)
            else tuple(_cast(t, dtype, place) for t in v)
            if isinstance(v, tuple)
            else v
            for name, v in self.values.items()
        }
        return Network(self.graph, values, dtype, place)

    def with_statistics(self, batch: Tensor | None) -> Network:
        """Fix every training-mode batch normalisation to the statistics that `batch` gives it, as constants."""
        if batch is None:
            raise InvalidInput(
                "bind: the network was traced in training mode and normalises by batch statistics; "
                "give batch=images, or call model.eval() before trace"
            )
        nodes, values, seen = dict(self.graph.nodes), dict(self.values), {}
        for name, value in self._run(batch):
            seen[name] = value
            if name in nodes and _uses_batch(nodes[name]):
                operand = seen[nodes[name].operands[0]]
                axes = [d for d in range(operand.dim()) if d != 1]
                values[f"{name}.mean"] = operand.mean(axes)
                values[f"{name}.var"] = operand.var(axes, unbiased=False)
                fixed = {
                    "running_mean": Ref(f"{name}.mean"),
                    "running_var": Ref(f"{name}.var"),
                    "training": False,
                }
                nodes[name] = replace(nodes[name], arguments={**nodes[name].arguments, **fixed})
        return Network(replace(self.graph, nodes=nodes), values, self.dtype, self.device)


@dataclass(frozen=True)
class Call:
    """One node inside one network: its constants resolved, its operands left open."""

    node: Node
    network: Network

    def __getitem__(self, argument: str) -> Any:
        """A constant argument by its schema name; None where an operand stands."""
        value = self.node.arguments[argument]
        return resolve(value, self.network.values) if not self.is_operand(value) else None

    def is_operand(self, value: Any) -> bool:
        return isinstance(value, Ref) and value.name in self.node.operands

    @property
    def shape(self) -> tuple[int, ...]:
        return self.node.shape

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Operand shapes without the batch dimension."""
        return tuple(self.network.graph.shape(name) for name in self.node.operands)

    def apply(self, *operands: Tensor) -> Any:
        """The operator itself with these operands, any batch size."""
        given = dict(zip(self.node.operands, operands, strict=True))
        return execute(self.node, {**self.network.values, **given}, self.network.dtype, self.network.device)
