"""Refuses programs that are not functions of one image: random ones, and those that depend on the other images."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isnan
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedOp
from .exported import ExportedCall, refs_of

aten = torch.ops.aten

UNWRITTEN = {
    aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default, aten.empty_strided.default,
    aten.new_empty_strided.default, aten.empty_permuted.default,
}  # fmt: skip
"""Operators whose result is memory that nothing has written to."""
SHAPES = ("size", "shape", "sizes", "repeats")
"""Arguments in which the size of the batch is a length and not a value."""
SWITCHES = ("train", "training")
"""Arguments that switch an operator between training and evaluation mode."""
_SHAPE_TELLS = {
    aten.cat.default, aten.stack.default, aten.unsqueeze.default, aten.select.int, aten.permute.default,
    aten.unflatten.int,
}  # fmt: skip
_PADS = {aten.pad.default, aten.constant_pad_nd.default}
_WHOLE = 2**62


def is_random(target: Any, arguments: dict[str, Any]) -> bool:
    """Return whether an operator draws numbers; dropout that is off, and attention without dropout, draw none."""
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    switch = next((key for key in SWITCHES if key in arguments), None)
    if switch is not None:
        return arguments[switch] is not False
    return arguments.get("dropout_p") != 0.0


def moves_images(target: Any, arguments: dict[str, Any], rank: int) -> bool:
    """Return whether an operator that keeps the batch's size may still mix images or change their order.

    rank: the rank of its first operand, the batch included.
    """
    if target is aten.index.Tensor:
        return arguments["indices"][0] is not None
    if target in _PADS:
        return len(arguments["pad"]) >= 2 * rank and any(arguments["pad"][2 * rank - 2 :])
    if target is aten.layer_norm.default:
        return len(arguments["normalized_shape"]) >= rank
    dims: Any = arguments.get("dim", arguments.get("dims"))
    if target is aten.slice.Tensor and dims % rank == 0:
        start, end = arguments["start"] or 0, _WHOLE if arguments["end"] is None else arguments["end"]
        return (start, arguments["step"]) != (0, 1) or not isinstance(end, int) or end < _WHOLE
    if target in (aten.flip.default, aten.roll.default) and not dims:
        return True
    if target in _SHAPE_TELLS or dims is None:
        return False
    return any(dim % rank == 0 for dim in (dims if isinstance(dims, list) else [dims]))


def refuse_batch_guards(batch: Any) -> None:
    """Raise UnsupportedOp if the exported program is the network for some sizes of the batch only."""
    if not isinstance(batch, torch.SymInt):
        raise UnsupportedOp("trace: the model fixes the size of its batch; it must be free")
    sizes: Any = batch.node.shape_env
    for guard in sizes.guards:
        condition = str(guard.expr).replace(str(batch), "N")
        raise UnsupportedOp(
            f"trace: the model computes otherwise for other sizes N of the batch (read where {condition}); images "
            "must not depend on their number"
        )


def refuse_chance(call: ExportedCall) -> None:
    """Raise UnsupportedOp if a call draws numbers or reads memory that nothing has written to."""
    if is_random(call.target, call.arguments):
        switched = any(key in call.arguments for key in SWITCHES)
        what = (
            "is random in training mode; call model.eval() before trace"
            if switched
            else ("draws random numbers, so the model is no function of its input")
        )
        raise UnsupportedOp(f"trace: {call.where()} {what}")
    if call.target in UNWRITTEN:
        raise UnsupportedOp(f"trace: {call.where()} is memory that nothing has written to when it is read")


def refuse_nan(call: ExportedCall, values: Mapping[str, Any]) -> None:
    """Raise UnsupportedOp if an argument is NaN, or if the call is a mean of no numbers.

    values: the values of earlier calls by name.
    """
    for key, value in call.arguments.items():
        if isinstance(value, float) and isnan(value):
            raise UnsupportedOp(f"trace: {call.where()} takes NaN for {key}; accepted: a number")
    read = values.get(call.arguments["self"].name) if call.target is aten.mean.dim else None
    if isinstance(read, Tensor) and any(size == 0 for size in read.shape[1:]):
        raise UnsupportedOp(f"trace: {call.where()} is the mean of no numbers, which is NaN")


def refuse_batch_arithmetic(call: ExportedCall, batch_scalars: Collection[str]) -> None:
    """Raise UnsupportedOp if a call uses the size of the batch as a value and not only as a length.

    batch_scalars: the names of the values that are computed from the size of the batch.
    """
    for key, value in call.arguments.items():
        if key not in SHAPES and any(ref.name in batch_scalars for ref in refs_of(value)):
            raise UnsupportedOp(
                f"trace: {call.where()} computes with the size of the batch ({key}); images must not depend on "
                "their number"
            )
