"""The network as a value: a list of operator calls (`Graph`), and the same with its parameters (`Network`).

A `Graph` holds the structure only.  Parameters, architecture variables included, are given at `bind`, so bounds are
differentiable in both, and a network is traced once whatever its weights become.  A node that does not depend on the
perturbed input, such as softmax(α), is evaluated at `bind` and is a constant of the call.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import BoundsError, InvalidInput
from .batch_norm import normalised
from .node import FLOATS, Node, Ref, execute, resolve, upstream


@dataclass(frozen=True, eq=False)
class Graph:
    """A network's structure: operator calls in topological order, from `input` to `output`."""

    input: str
    """The name of the input."""
    output: str
    """The name of the output node."""
    input_shape: tuple[int, ...]
    """The input's shape without the batch dimension."""
    nodes: Mapping[str, Node]
    """The nodes that depend on the input, in topological order, by name."""
    constants: tuple[Node, ...]
    """The nodes that do not depend on the input, in topological order."""
    parameters: Mapping[str, str]
    """The name of the parameter or buffer in the module, by node name."""
    defaults: Mapping[str, Tensor] = field(repr=False)
    """The traced module's own tensors by parameter name (not copies), as they were when it was traced."""
    batch_sizes: tuple[str, ...] = ()
    """The names of the values that are the size of the batch."""
    owner: nn.Module | None = field(default=None, repr=False)
    """The traced module; `bind` reads its present tensors for the parameters that it is not given."""
    owned: frozenset[str] = frozenset()
    """The names of the module's parameters and buffers."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The output's shape without the batch dimension."""
        return self.nodes[self.output].shape if self.output in self.nodes else self.input_shape

    @cached_property
    def last_reads(self) -> Mapping[str, tuple[str, ...]]:
        """The operands that no later node reads, by node, without the output: they may be dropped after that node."""
        last = {operand: name for name, node in self.nodes.items() for operand in node.operands}
        last.pop(self.output, None)
        found: dict[str, tuple[str, ...]] = {}
        for operand, name in last.items():
            found[name] = (*found.get(name, ()), operand)
        return found

    @cached_property
    def has_finite_arguments(self) -> bool:
        """Whether every number among the arguments of the nodes is finite."""
        numbers = (value for node in self.nodes.values() for value in node.arguments.values())
        return all(isfinite(value) for value in numbers if isinstance(value, float))

    @cached_property
    def with_fixed_statistics(self) -> Graph:
        """The graph in which training-mode batch normalisations use the constants "NODE.mean" and "NODE.var"."""
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

    def upstream(self, start: Iterable[str], stop: Callable[[str], bool] | None = None) -> frozenset[str]:
        """Return the tensors `start` and all tensors that they are computed from, the input among them.

        stop: whether the walk ends at a tensor.  That tensor is returned, and those before it are not.
        """
        return upstream(self.nodes, start, stop)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a node's value without the batch dimension."""
        return self.input_shape if name == self.input else self.nodes[name].shape

    def bind(
        self,
        params: Mapping[str, Tensor] | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        batch: Tensor | None = None,
    ) -> Network:
        """Return the network with its parameters, and evaluate every node that does not depend on the input.

        params: tensors by their names in the module's `named_parameters()` and `named_buffers()`; the others keep the
        traced module's present tensors.  dtype, device: those of the computation; by default those of the parameters.
        batch [M, *input_shape]: for a network traced in training mode, the images whose statistics its batch
        normalisations use, as constants.
        Raises InvalidInput for an unknown name, a name that the module no longer has, a wrong shape, NaN among the
        parameters, a batch normalisation by a variance that is not above 0, or a missing batch.

        >>> import torch
        >>> import bounds
        >>> network = bounds.trace(torch.nn.Linear(2, 1), torch.zeros(1, 2)).bind({"bias": torch.ones(1)})
        >>> network(torch.zeros(1, 2)).detach()
        tensor([[1.]])
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
        """Return the module's present tensor of this name, or the traced one for a constant of the module's code."""
        tensor: Any = self.owner
        for part in name.split("."):
            tensor = getattr(tensor, part, None)
        if isinstance(tensor, Tensor):
            return tensor
        if name in self.owned:
            raise InvalidInput(
                f"bind: the traced module has no parameter '{name}' any more; trace it again, or give one"
            )
        return self.defaults[name]

    def _check_variances(self, values: Mapping[str, Any]) -> None:
        """Raise InvalidInput for a batch normalisation that divides by the root of a number that is not above 0."""
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
    """A graph with its parameters: one function f, ready to be evaluated and bounded."""

    graph: Graph
    """The structure."""
    values: Mapping[str, Any] = field(repr=False)
    """The parameters and the values of constant nodes, by node name."""
    dtype: torch.dtype
    """The precision of the computation."""
    device: torch.device
    """The device of the computation."""
    batch_output: Tensor | None = field(default=None, repr=False)
    """The outputs for the batch whose statistics f normalises by; None if there is none."""

    @cached_property
    def is_finite(self) -> bool:
        """Whether every constant and every number among the arguments is finite; `bind` has checked the parameters."""
        constants = (self.values[node.name] for node in self.graph.constants)
        return self.graph.has_finite_arguments and all(
            bool(torch.isfinite(value).all())
            for value in constants
            if isinstance(value, Tensor) and value.is_floating_point()
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Return f(x).  x [N, *input_shape]; returns [N, *output_shape]."""
        *_, last = self.run(x)
        return last[1]

    def run(
        self,
        x: Tensor,
        normalise: Callable[[Node, Tensor], Tensor] | None = None,
        read_as: Callable[[Node, Tensor], Tensor] | None = None,
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield every node's name and value.

        normalise: evaluates the batch normalisations that use batch statistics.  read_as: the value that later nodes
        read in place of a node's value.
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
        """Return a node with its constant arguments resolved."""
        return Call(node, self)

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> Network:
        """Return the same function in another dtype or on another device."""
        target = torch.device(device) if device is not None else self.device
        values = {
            name: _cast(v, dtype, target)
            if isinstance(v, Tensor)
            else tuple(_cast(t, dtype, target) for t in v)
            if isinstance(v, tuple)
            else v
            for name, v in self.values.items()
        }
        return Network(self.graph, values, dtype, target)

    def with_statistics(self, batch: Tensor | None) -> Network:
        """Return the network whose training-mode batch normalisations use the statistics of `batch` as constants."""
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
    """One node of one network: its constant arguments are resolved, its operands are not."""

    node: Node
    """The node."""
    network: Network
    """The network that holds the constants."""

    def __getitem__(self, argument: str) -> Any:
        """Return a constant argument by its schema name; None for an operand."""
        value = self.node.arguments[argument]
        return resolve(value, self.network.values) if not self.is_operand(value) else None

    def is_operand(self, value: Any) -> bool:
        """Return whether an argument is an operand."""
        return isinstance(value, Ref) and value.name in self.node.operands

    @property
    def shape(self) -> tuple[int, ...]:
        """The output's shape without the batch dimension."""
        return self.node.shape

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The operands' shapes without the batch dimension."""
        return tuple(self.network.graph.shape(name) for name in self.node.operands)

    def apply(self, *operands: Tensor) -> Any:
        """Apply the operator to these operands, of any batch size."""
        given = dict(zip(self.node.operands, operands, strict=True))
        values = ChainMap(given, cast(dict[str, Any], self.network.values))
        return execute(self.node, values, self.network.dtype, self.network.device)
