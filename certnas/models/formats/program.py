"""A network that a file gives as a list of torch operators. Only operators on an allowlist are called."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from certnas.bounds.extend import RULES
from certnas.errors import UserError
from certnas.faithful import OWN, difference
from certnas.models.formats.eager import evaluated
from certnas.models.formats.operation import Operation, resolved

aten = torch.ops.aten


def _convolution(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int,
) -> Tensor:  # fmt: skip
    """aten.convolution as the operator before decomposition."""
    n = weight.dim() - 2
    if transposed:
        one, two = aten.conv_transpose1d.default, aten.conv_transpose2d.input
        return (one if n == 1 else two)(
            input, weight, bias, stride, padding, output_padding, groups, dilation
        )
    return (aten.conv1d.default if n == 1 else aten.conv2d.default)(
        input, weight, bias, stride, padding, dilation, groups
    )


_MORE = (
    aten.sym_size.int, aten._softmax.default, aten.softmax.int, aten.log_softmax.int, aten.relu_.default,
    aten.relu6_.default, aten.leaky_relu_.default, aten.elu_.default, aten.silu_.default, aten.hardtanh_.default,
    aten.hardswish_.default, aten.hardsigmoid_.default, aten.sigmoid_.default, aten.tanh_.default,
    aten.add_.Tensor, aten.sub_.Tensor, aten.mul_.Tensor, aten.div_.Tensor, aten.clamp_.default,
    aten.dropout_.default, aten.detach_.default, aten.split.Tensor, aten.split_with_sizes.default,
    aten.chunk.default, aten.unbind.int, aten.t.default, aten.pow.Tensor_Scalar, aten.bmm.default,
    aten.zeros.default, aten.ones.default, aten.full.default, aten.zeros_like.default, aten.ones_like.default,
    aten.full_like.default, aten.new_zeros.default, aten.new_ones.default, aten.new_full.default,
    aten.maximum.default, aten.minimum.default, aten.layer_norm.default, aten.group_norm.default,
    aten.instance_norm.default, aten.scaled_dot_product_attention.default, aten.amax.default, aten.erf.default,
    aten.mish.default, aten.addmm.default, aten.adaptive_max_pool2d.default, aten.max_pool2d_with_indices.default,
    aten.copy_.default, aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default, aten.index_put_.default,
    aten.neg_.default, aten.clone.default, aten.slice_scatter.default, aten.select_scatter.default, aten.copy.default,
    aten.fill.Scalar, aten.clip.default, aten.type_as.default,
    aten.lift_fresh.default, aten.native_batch_norm.default, aten.mean.default, aten.expand_as.default,
    aten.matmul.default, aten.mm.default,
)  # fmt: skip
TARGETS: dict[str, Callable[..., Any]] = {
    **{str(target): target for target in (*RULES, *_MORE)},
    "aten.convolution.default": _convolution,
    "operator.add": operator.add,
    "operator.sub": operator.sub,
    "operator.mul": operator.mul,
    "operator.floordiv": operator.floordiv,
    "operator.getitem": operator.getitem,
}
"""Operators that a file may call: those with a bound, and others that only compute.

None of them reads or writes anything but its arguments.
"""

_SIZES = {"aten.view.default": "size", "aten.reshape.default": "shape", "aten.expand.default": "size",
          "aten._unsafe_view.default": "size"}  # fmt: skip
_FACTORIES = ("aten.full.default", "aten.ones.default", "aten.zeros.default")


class ProgramNetwork(nn.Module):
    """The network of a list of operations with a free batch size. x [N, *input_shape] -> [N, *output]

    `tensors` are named as in the operations. `batch` is the batch size of literal shapes in the file, or
    None if the file has a free batch; a reshape to that many rows keeps the rows of the images instead.
    Raises UserError for an operator that is not on the allowlist, or a name without a value.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        tensors: Mapping[str, Tensor],
        *,
        parameters: Mapping[str, str],
        input: str,
        output: str,
        input_shape: tuple[int, ...],
        batch: int | None,
    ) -> None:
        super().__init__()
        self.input, self.output, self.input_shape, self.batch = input, output, input_shape, batch
        self.stored = tuple(operations)
        self.operations = tuple(_needed(operations, output))
        self._check(set(tensors))
        self.computed = _dependent(self.operations, input)
        used = {name for operation in self.operations for name in operation.names()}
        self.weights = nn.ParameterDict()
        self.keys: dict[str, str] = {}
        for name in tensors:
            if name in used and tensors[name].is_floating_point():
                self.keys[name] = key = re.sub(r"\W", "_", parameters.get(name, name))
                if key in self.weights:
                    raise UserError(f"two tensors are called {key!r}")
                self.weights[key] = nn.Parameter(tensors[name], requires_grad=False)
            elif name in used:
                self.keys[name] = name
                self.register_buffer(name, tensors[name])

    def _check(self, tensors: set[str]) -> None:
        known = tensors | {self.input}
        for position, operation in enumerate(self.operations):
            if operation.target not in TARGETS:
                raise UserError(
                    f"operator {operation.target[:100]!r} at position {position} ({operation.outputs[0]!r}) "
                    f"is not among the {len(TARGETS)} that a file may call"
                )
            for name in operation.names():
                if name not in known:
                    raise UserError(
                        f"{operation.target} at position {position} reads {name!r}, which nothing makes"
                    )
            known |= set(operation.outputs)
        if self.output not in known:
            raise UserError(f"nothing makes the output {self.output!r}")

    def compare(self, x: Tensor, y: Tensor) -> None:
        """Raises UserError unless the operations, run one by one as stored, map x to y.

        If the file has a fixed batch size, the images are run in batches of that size.
        """
        with torch.inference_mode(False), torch.no_grad():
            size = self.batch or len(x)
            filled = torch.cat([x, x[-1:].expand(-len(x) % size, *x.shape[1:])])
            expected = torch.cat([self._as_stored(part) for part in filled.split(size)])[: len(x)]
        accepted = OWN * torch.finfo(y.dtype).eps
        found = difference(expected, y) if expected.shape == y.shape else torch.inf
        if not found <= accepted:
            raise UserError(
                f"the network that was read differs from the file's own operators, run one by one, by {found:.1e} of "
                f"the largest output; accepted: {accepted:.0e}, so nothing is certified; {self._first(x, size)}"
            )

    def _as_stored(self, x: Tensor) -> Tensor:
        for _, values in evaluated(self._callable(), self._tensors(), self.input, x):  # noqa: B007
            pass
        return values[self.output]

    def _callable(self) -> Iterator[Operation]:
        """The stored operations without those that a file may not call, if nothing uses their results; size
        checks are such.
        """
        known = {self.input, *self.keys}
        for operation in self.stored:
            if operation.target in TARGETS and known.issuperset(operation.names()):
                known.update(operation.outputs)
                yield operation

    def _first(self, x: Tensor, size: int) -> str:
        """A description of the first operation whose value differs from the file's."""
        known: dict[str, Tensor] = {}
        with torch.inference_mode(False), torch.no_grad():
            for operation, values in evaluated(self._callable(), self._tensors(), self.input, x[:size]):
                known |= _copies(operation, values)
            for operation, values in self._steps(x.clone()):
                for name, own in _copies(operation, values).items():
                    expected = known[name]
                    own = own[: len(expected)] if name in self.computed and expected.dim() else own
                    if (
                        own.shape != expected.shape
                        or difference(expected, own) > OWN * torch.finfo(x.dtype).eps
                    ):
                        return f"it first differs at {operation.target} at node {name!r}"
        return "the node cannot be named: on the first images alone all values agree"

    def _tensors(self) -> dict[str, Tensor]:
        return {
            name: self.weights[key] if key in self.weights else getattr(self, key)
            for name, key in self.keys.items()
        }

    def forward(self, x: Tensor) -> Tensor:
        for _, values in self._steps(x):  # noqa: B007
            pass
        return values[self.output]

    def _steps(self, x: Tensor) -> Iterator[tuple[Operation, dict[str, Any]]]:
        """Yields each operation after it ran, with all values by name."""
        values: dict[str, Any] = {self.input: x, **self._tensors()}
        for operation in self.operations:
            arguments = {key: resolved(value, values) for key, value in operation.arguments.items()}
            sized = _SIZES.get(operation.target)
            if (
                sized is not None
                and operation.outputs[0] in self.computed
                and arguments[sized][:1] == [self.batch]
            ):
                arguments[sized] = [x.shape[0], *arguments[sized][1:]]
            if operation.target in _FACTORIES:
                arguments["device"] = x.device
            result = _called(TARGETS[operation.target], arguments)
            if len(operation.outputs) == 1:
                values[operation.outputs[0]] = result
            else:
                values |= zip(operation.outputs, result, strict=True)
            yield operation, values


def _copies(operation: Operation, values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies of the results of an operation in their current state."""
    found = {name: values[name] for name in operation.outputs}
    return {name: value.clone() for name, value in found.items() if isinstance(value, Tensor)}


def _needed(operations: Sequence[Operation], output: str) -> list[Operation]:
    """The operations that the output depends on, without assertions about sizes and auxiliary outputs.

    In-place operations stay, because later operations may read memory that they share.
    """
    wanted, kept = {output}, []
    for operation in reversed(operations):
        if not wanted.isdisjoint(operation.outputs) or _writes(operation):
            wanted.update(operation.names())
            kept.append(operation)
    return kept[::-1]


def _writes(operation: Operation) -> bool:
    """True if an operation changes an argument.

    The schema decides for an operator on the allowlist, the name for any other.
    """
    schema = getattr(TARGETS.get(operation.target), "_schema", None)
    if schema is not None:
        return bool(schema.is_mutable)
    return operation.target.count(".") > 1 and operation.target.split(".")[1].endswith("_")


def _dependent(operations: Sequence[Operation], input: str) -> frozenset[str]:
    """The names whose values depend on the input."""
    found = {input}
    for operation in operations:
        if not found.isdisjoint(operation.names()):
            found.update(operation.outputs)
    return frozenset(found)


def _called(target: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call the operator with arguments by name.

    Arguments before a `*` in its schema go by position, because they may have names such as `self`.
    """
    schema = getattr(target, "_schema", None)
    if schema is None:
        return target(*arguments.values())
    given = dict(arguments)
    positional = []
    for argument in schema.arguments:
        if argument.kwarg_only or argument.name not in given:
            break
        positional.append(given.pop(argument.name))
    return target(*positional, **given)
