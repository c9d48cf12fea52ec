"""Operators that only move units: reshapes, slices, concatenation, padding, and operators that do nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..graph import Call, resolve
from ..patch import POINTWISE, Pair, Patch, PatchRule, ReceptiveField, pointwise, pull_by, pull_unchanged
from .affine import applied, at_zero
from .rule import Affine, Rule

aten = torch.ops.aten


def _reshaped(call: Call, x: Tensor) -> Tensor:
    """Reshape to the output's own shape with a free batch, whatever sizes the arguments hold."""
    return x.reshape(len(x), *call.shape)


def _reshaped_back(call: Call, coef: Tensor) -> tuple[Tensor, ...]:
    return (coef.reshape(len(coef), *call.shapes[0]),)


def _expanded(call: Call, x: Tensor) -> Tensor:
    return x.expand(len(x), *call.shape)


def _joined(call: Call, *operands: Tensor) -> Tensor:
    """Return the linear part of a concatenation: constants count as zeros, and an operand may come twice."""
    given = dict(zip(call.node.operands, operands, strict=True))
    pieces = []
    for item in call.node.arguments["tensors"]:
        if call.is_operand(item):
            pieces.append(given[item.name])
        else:
            constant = resolve(item, call.network.values)
            pieces.append(constant.new_zeros(()).expand(len(operands[0]), *constant.shape[1:]))
    return torch.cat(pieces, _axis(call))


def _joined_constants(call: Call) -> Tensor | None:
    if all(call.is_operand(item) for item in call.node.arguments["tensors"]):
        return None
    return at_zero(call)


def _stacked(call: Call, *operands: Tensor) -> Tensor:
    """Return the linear part of a stack: constants count as zeros, and an operand may come twice."""
    given = dict(zip(call.node.operands, operands, strict=True))
    zero = operands[0].new_zeros(()).expand_as(operands[0])
    pieces = [given[item.name] if call.is_operand(item) else zero for item in call.node.arguments["tensors"]]
    return torch.stack(pieces, call["dim"])


def _joined_back(call: Call, coef: Tensor) -> tuple[Tensor, ...]:
    axis = _axis(call)
    pulled: dict[str, Tensor] = {}
    start = 0
    for item in call.node.arguments["tensors"]:
        name = item.name if call.is_operand(item) else ""
        shape = (
            call.network.graph.shape(name) if name else tuple(resolve(item, call.network.values).shape[1:])
        )
        size = shape[axis - 1]
        piece = coef.narrow(axis, start, size)
        if name:
            pulled[name] = pulled[name] + piece if name in pulled else piece
        start += size
    return tuple(pulled[name] for name in call.node.operands)


def _axis(call: Call) -> int:
    dim = call["dim"]
    return dim if dim >= 0 else dim + len(call.shape) + 1


def _unpadded(call: Call, x: Tensor) -> Tensor:
    """Pad with zeros: a constant padding is no part of the linear map."""
    return aten.constant_pad_nd.default(x, call["pad"], 0)


def _pad_constants(call: Call) -> Tensor | None:
    return at_zero(call) if call["value"] else None


def _padded(call: Call, x: Tensor) -> Tensor:
    return _unpadded(call, x) if call["mode"] == "constant" else applied(call, x)


def _pad_mode_constants(call: Call) -> Tensor | None:
    return _pad_constants(call) if call["mode"] == "constant" else None


def _field_of_joining(call: Call) -> ReceptiveField | None:
    return POINTWISE if call["dim"] in (1, -3) else None


def _field_of_slicing(call: Call) -> ReceptiveField | None:
    start, step, axis = call["start"] or 0, call["step"], call["dim"] % (len(call.shape) + 1)
    size = call.shapes[0][axis - 1]
    start = max(0, start + size) if start < 0 else start
    if axis < 2:  # a slice of channels, or of all images
        return POINTWISE
    vertical = axis == 2
    return ReceptiveField((step, 1) if vertical else (1, step), (start, 0) if vertical else (0, start))


def _field_of_padding(call: Call) -> ReceptiveField | None:
    """Return the receptive field of padding by a constant, which is no part of the linear map."""
    pad = call["pad"]
    if len(pad) > 4 or ("mode" in call.node.arguments and call["mode"] != "constant"):
        return None
    left, top = pad[0], pad[2] if len(pad) == 4 else 0
    return ReceptiveField(shift=(-top, -left), pads=True)


def _patch_sliced(call: Call, patch: Patch, size: Pair) -> tuple[Tensor, ...]:
    coef, step = patch.folded(), call["step"]
    if call.node.shape[0] < call.shapes[0][0]:
        whole = coef.new_zeros(len(coef), *size, call.shapes[0][0]).movedim(-1, 1)
        whole[:, call["start"] or 0 :: step][:, : coef.shape[1]] = coef
        return (whole,)
    if coef.shape[2:] == size:
        return (coef,)
    spread = coef.new_zeros(*coef.shape[:2], *size)
    vertical = call["dim"] % (len(call.shape) + 1) == 2
    spread[..., :: step if vertical else 1, :: 1 if vertical else step] = coef
    return (spread,)


_PADDING = PatchRule(_field_of_padding, pull_unchanged)
_RESHAPE = Affine(_reshaped, transpose=_reshaped_back, mixing=False, moves=True)
_SELECT = Affine(applied, mixing=False, moves=True)
_IDENTITY = Affine(
    lambda call, x: x,
    transpose=lambda call, coef: (coef,),
    mixing=False,
    moves=True,
    patches=PatchRule(pointwise, pull_unchanged),
)

RESHAPES = (
    aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int, aten._unsafe_view.default,
    aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten.unsqueeze.default,
)  # fmt: skip
SELECTIONS = (
    aten.permute.default, aten.transpose.int, aten.movedim.int, aten.slice.Tensor, aten.select.int, aten.narrow.default,
    aten.index_select.default, aten.index.Tensor, aten.channel_shuffle.default, aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default, aten.flip.default, aten.roll.default, aten.repeat_interleave.self_int,
    aten.reflection_pad1d.default, aten.reflection_pad2d.default,
    aten.replication_pad1d.default, aten.replication_pad2d.default,
)  # fmt: skip
IDENTITIES = (
    aten.dropout.default, aten.feature_dropout.default, aten.contiguous.default, aten.clone.default,
    aten.alias.default, aten.detach.default, aten.to.dtype, aten.to.device, aten._to_copy.default,
    aten.lift_fresh_copy.default,
)  # fmt: skip

RULES: dict[Any, Rule] = {
    **dict.fromkeys(RESHAPES, _RESHAPE),
    **dict.fromkeys(SELECTIONS, _SELECT),
    aten.slice.Tensor: replace(_SELECT, patches=PatchRule(_field_of_slicing, _patch_sliced)),
    **dict.fromkeys(IDENTITIES, _IDENTITY),
    aten.expand.default: Affine(_expanded, mixing=False, moves=True),
    aten.cat.default: Affine(
        _joined,
        _joined_constants,
        transpose=_joined_back,
        mixing=False,
        moves=True,
        variadic=True,
        patches=PatchRule(_field_of_joining, pull_by(_joined_back)),
    ),
    aten.stack.default: Affine(_stacked, _joined_constants, mixing=False, moves=True, variadic=True),
    aten.constant_pad_nd.default: Affine(_unpadded, _pad_constants, mixing=False, patches=_PADDING),
    aten.pad.default: Affine(_padded, _pad_mode_constants, mixing=False, patches=_PADDING),
}
