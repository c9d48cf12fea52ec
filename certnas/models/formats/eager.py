"""Evaluation of a program from a file exactly as stored: all operators in order, in-place writes included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from certnas.errors import UserError
from certnas.faithful import gap
from certnas.models.formats.operation import Operation, resolved


def evaluated(
    operations: Iterable[Operation], tensors: Mapping[str, Tensor], input: str, x: Tensor
) -> Iterator[tuple[Operation, dict[str, Any]]]:
    """Yields each operation after it ran, with all values by name. Later operations may still write to these values.

    torch runs every operator by its own schema, on copies of x and of the tensors. The caller must ensure
    that the operators may be called. Raises UserError if the run changes a tensor of the file, because the
    next call would then compute something else.
    """
    held = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    versions = {name: tensor._version for name, tensor in held.items()}
    values: dict[str, Any] = {**held, input: x.clone()}
    for operation in operations:
        arguments = {key: resolved(value, values) for key, value in operation.arguments.items()}
        result = _run(operation.target, arguments)
        pieces = (result,) if len(operation.outputs) == 1 else result
        values |= zip(operation.outputs, pieces, strict=True)
        yield operation, values
    for name, tensor in held.items():
        if tensor._version != versions[name] or gap(tensors[name], tensor):
            raise UserError(
                f"tensor {name[:100]!r} is changed at each call, so that the next one computes something else; "
                "export a network that leaves its buffers as they are"
            )


def _run(target: str, arguments: dict[str, Any]) -> Any:
    space, name, *overload = target.split(".")
    if space == "operator":
        return _PYTHON[name](*arguments.values())
    operator = getattr(getattr(torch.ops.aten, name), overload[0])
    left, positional, named = dict(arguments), [], {}
    for item in operator._schema.arguments:
        if item.name not in left and not item.has_default_value():
            raise UserError(f"{target} lacks the argument {item.name}")
        value = left.pop(item.name, item.default_value)
        if item.kwarg_only:
            named[item.name] = value
        else:
            positional.append(value)
    if left:
        raise UserError(f"{target} takes no argument {next(iter(left))[:40]!r}")
    return operator(*positional, **named)


_PYTHON = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "getitem": lambda a, b: a[b],
}
