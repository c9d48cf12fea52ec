"""What makes a program no function of one image: chance, memory that nothing wrote, the images beside it."""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten

UNWRITTEN = {
    aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default, aten.empty_strided.default,
    aten.new_empty_strided.default, aten.empty_permuted.default,
}  # fmt: skip
SHAPES = ("size", "shape", "sizes", "repeats")
"""Arguments in which the size of the batch is a length and not a value."""
SWITCHES = ("train", "training")
_SHAPE_TELLS = {
    aten.cat.default, aten.stack.default, aten.unsqueeze.default, aten.select.int, aten.permute.default,
    aten.unflatten.int,
}  # fmt: skip
_PADS = {aten.pad.default, aten.constant_pad_nd.default}
_WHOLE = 2**62


def random(target: Any, arguments: dict[str, Any]) -> bool:
    """Whether an operator draws numbers; dropout that is off and attention without it draw none."""
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    switch = next((key for key in SWITCHES if key in arguments), None)
    if switch is not None:
        return arguments[switch] is not False
    return arguments.get("dropout_p") != 0.0


def moves_images(target: Any, arguments: dict[str, Any], rank: int) -> bool:
    """Whether an operator that keeps the batch's size may still mix images or take them out of their order.

    rank: that of its first operand, the batch included.
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
