"""The network as a value: a list of operator calls (`Graph`), and the same with its parameters (`Network`).

A `Graph` is structure only.  Parameters, and architecture variables among them, are given at `bind`, so bounds
are differentiable in both and a network is traced once, whatever its weights become.  Whatever does not depend
on the perturbed input, such as softmax(α), is evaluated at `bind` and is a constant of the call.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import BoundsError, InvalidInput
from .batch_norm import normalised
from .node import FLOATS, Node, Ref, execute, resolve


@dataclass(frozen=True, eq=False)
class Graph:
    """A network's structure: nodes in topological order, from `input` to `output`.

    `parameters` maps a node name to the parameter's or buffer's name in the module; `defaults` holds the traced
    module's own tensors under those names (not copies), as they were when it was traced.  Where `bind` is given none,
    it takes those that `owner`, the module, has under the names then; `owned` are its parameters and buffers.
    """

    input: str
    output: str
    input_shape: tuple[int, ...]
    nodes: Mapping[str, Node]
    constants: tuple[Node, ...]
    parameters: Mapping[str, str]
    defaults: Mapping[str, Tensor] = field(repr=False)
    batch_sizes: tuple[str, ...] = ()
    owner: nn.Module | None = field(default=None, repr=False)
    owned: frozenset[str] = frozenset()

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.nodes[self.output].shape if self.output in self.nodes else self.input_shape

    @cached_property
    def last_reads(self) -> Mapping[str, tuple[str, ...]]:
        """For each node the operands that no later node reads and that are not the output: they may be dropped."""
        last = {operand: name for name, node in self.nodes.items() for operand in node.operands}
        last.pop(self.output, None)
        found: dict[str, tuple[str, ...]] = {}
        for operand, name in last.items():
            found[name] = (*found.get(name, ()), operand)
        return found

    @cached_property
    def has_finite_arguments(self) -> bool:
        """Whether every number among the arguments of its nodes is finite."""
        numbers = (value for node in self.nodes.values() for value in node.arguments.values())
        return all(isfinite(value) for value in numbers if isinstance(value, float))

    @cached_property
    def with_fixed_statistics(self) -> Graph:
        """The same with every training-mode batch normalisation by constants, "NODE.mean" and "NODE.var"."""
        nodes = {
            name: replace(
                node,
                arguments={
                    **node.arguments,
                    "running_mean": Ref(f"{name}.mean"),
                    "running_var": Ref(f"{name}.var"),
                    "training": False,
                },
            )
            if _uses_batch(node)
            else node
            for name, node in self.nodes.items()
        }
        return replace(self, nodes=nodes)

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
        the traced module's tensors, also where they were replaced.  batch [M, *input_shape]: for a network traced in
        training mode, the images whose statistics its batch normalisations use; they count as constants.
        Raises InvalidInput for an unknown name, one that the module has no longer, a wrong shape, NaN among the
        parameters, or a batch normalisation by a variance that is not above 0.
        """
        given = dict(params or {})
        unknown = sorted(set(given) - set(self.parameters.values()))
        if unknown:
            raise InvalidInput(
                f"bind: no parameter '{unknown[0]}'; the network has {sorted(self.parameters.values())[:8]} …"
            )
        values: dict[str, Any] = {}
        for node_name, name in self.parameters.items():
            tensor = given[name] if name in given else self._current(name)
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
        self._check_variances(values)
        network = Network(self, values, run_dtype, run_device)
        return network.with_statistics(batch) if any(_uses_batch(n) for n in self.nodes.values()) else network

    def _current(self, name: str) -> Tensor:
        """What the traced module has under a name now; what a constant of its code was when it was traced."""
        found: Any = self.owner
        for part in name.split("."):
            found = getattr(found, part, None)
        if isinstance(found, Tensor):
            return found
        if name in self.owned:
            raise InvalidInput(
                f"bind: the traced module has no parameter '{name}' any more; trace it again, or give one"
            )
        return self.defaults[name]

    def _check_variances(self, values: Mapping[str, Any]) -> None:
        """Raises InvalidInput for a batch normalisation that divides by the root of what is not above 0."""
        for node in self.nodes.values():
            if node.op != "aten.batch_norm.default" or node.arguments["training"]:
                continue
            variance = resolve(node.arguments["running_var"], values)
            if not bool((variance + node.arguments["eps"] > 0).all()):
                raise InvalidInput(
                    f"bind: {node.where()} divides by the root of a variance + eps of "
                    f"{float((variance + node.arguments['eps']).min()):g}; accepted: numbers above 0"
                )


def _cast(tensor: Tensor, dtype: torch.dtype | None, device: torch.device | str | None) -> Tensor:
    return tensor.to(device=device, dtype=dtype if tensor.dtype in FLOATS else None)


def _uses_batch(node: Node) -> bool:
    return node.op == "aten.batch_norm.default" and bool(node.arguments["training"])


@dataclass(frozen=True, eq=False)
class Network:
    """A graph with its parameters: one function f, ready to be evaluated and bounded.

    batch_output: where f normalises by the statistics of a batch, what it says of that batch.
    """

    graph: Graph
    values: Mapping[str, Any] = field(repr=False)
    dtype: torch.dtype
    device: torch.device
    batch_output: Tensor | None = field(default=None, repr=False)

    @cached_property
    def is_finite(self) -> bool:
        """Whether every constant is, and every number among the arguments; parameters are, as `bind` sees to it."""
        constants = (self.values[node.name] for node in self.graph.constants)
        return self.graph.has_finite_arguments and all(
            bool(torch.isfinite(value).all())
            for value in constants
            if isinstance(value, Tensor) and value.is_floating_point()
        )

    def __call__(self, x: Tensor) -> Tensor:
        """f(x).  x [N, *input_shape]; returns [N, *output_shape]."""
        *_, last = self.run(x)
        return last[1]

    def run(
        self,
        x: Tensor,
        normalise: Callable[[Node, Tensor], Tensor] | None = None,
        read_as: Callable[[Node, Tensor], Tensor] | None = None,
    ) -> Iterator[tuple[str, Tensor]]:
        """Every node and its value; `normalise` evaluates the batch normalisations by batch statistics.

        read_as: what later nodes read in place of a node's value.
        """
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
                if normalise is not None and _uses_batch(node):
                    values[node.name] = normalise(node, values[node.operands[0]])
                else:
                    values[node.name] = execute(node, values, self.dtype, self.device)
            except RuntimeError as error:
                raise BoundsError(f"evaluating {node.where()}: {str(error).splitlines()[0]}") from error
            if read_as is not None:
                values[node.name] = read_as(node, values[node.name])
            yield node.name, values[node.name]
            for operand in graph.last_reads.get(node.name, ()):
                del values[operand]

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
        found: dict[str, Any] = {}

        def normalise(node: Node, x: Tensor) -> Tensor:
            call = self.call(node)
            y, mean, variance = normalised(x, call["weight"], call["bias"], call["eps"])
            found.update({f"{node.name}.mean": mean, f"{node.name}.var": variance})
            return y

        *_, last = self.run(batch, normalise)
        graph = self.graph.with_fixed_statistics
        return Network(graph, {**self.values, **found}, self.dtype, self.device, last[1])


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
        values = ChainMap(given, cast(dict[str, Any], self.network.values))
        return execute(self.node, values, self.network.dtype, self.network.device)
