"""Affine operators: linear layers, averages, interpolation, scaling, batch normalisation, sums."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InvalidInput, UnsupportedOp
from ..graph import Call
from ..graph.batch_norm import by_channel, scale_and_shift
from ..patch import (
    POINTWISE,
    Pair,
    Patch,
    PatchRule,
    ReceptiveField,
    pair,
    pointwise,
    pointwise_without_broadcast,
    pull_by,
)
from ..relaxation import sum_to
from .conv import by_phases
from .rule import Affine, Rule

aten = torch.ops.aten


def applied(call: Call, *operands: Tensor) -> Tensor:
    """Apply the operator itself, which is linear and takes any batch size."""
    return call.apply(*operands)


def at_zero(call: Call) -> Tensor:
    """Return the operator's constant: its value if every operand is zero.  [1, *out]"""
    operands = [
        torch.zeros(1, *shape, dtype=call.network.dtype, device=call.network.device) for shape in call.shapes
    ]
    return call.apply(*operands)


def one_signed(call: Call, *radii: Tensor) -> Tensor:
    """Return the magnitude of an operator whose coefficients of each output have the same sign."""
    return call.apply(*radii).abs()


# Linear layers.


def _linear_back(call: Call, coef: Tensor) -> tuple[Tensor, ...]:
    return (coef @ call["weight"],)


def _linear_bias(call: Call) -> Tensor | None:
    bias = call["bias"]
    return None if bias is None else bias.reshape(*[1] * len(call.shape), -1)


# Scaling, batch normalisation, sums.


def multiplier(call: Call) -> Any:
    """Return the constant factor of a product or quotient."""
    left, right = call["self"], call["other"]
    constant = right if left is None else left
    if call.node.target in (aten.div.Tensor, aten.div.Scalar):
        if left is not None:
            raise InvalidInput(
                f"{call.node.where()}: a constant divided by a perturbed tensor needs the reciprocal rule"
            )
        if bool((torch.as_tensor(constant) == 0).any()):
            raise UnsupportedOp(f"{call.node.where()}: division by zero")
        return 1 / constant
    return constant


def scale(x: Tensor, factor: Any) -> Tensor:
    """Return factor·x, with 0 for a zero factor whatever x is, so that 0·∞ and 0·NaN do not enter the bounds."""
    if not isinstance(factor, Tensor):
        return torch.zeros_like(x) if factor == 0 else x * factor
    scaled, none = x * factor, factor == 0
    return scaled.masked_fill(none, 0) if bool(none.any()) else scaled


def _scaled(call: Call, x: Tensor) -> Tensor:
    return scale(x, multiplier(call)).expand(len(x), *call.shape)


def _scaled_magnitude(call: Call, x: Tensor) -> Tensor:
    return scale(x, abs(multiplier(call))).expand(len(x), *call.shape)


def _scaled_back(call: Call, coef: Tensor) -> tuple[Tensor, ...]:
    return (sum_to(scale(coef, multiplier(call)), call.shapes[0]),)


def norm_scale(call: Call) -> tuple[Tensor, Tensor]:
    """Return `scale_and_shift` of a batch normalisation, shaped to broadcast."""
    if call["training"]:
        raise InvalidInput(f"{call.node.where()}: training-mode batch normalisation needs bind(batch=images)")
    scale, shift = scale_and_shift(
        *(call[key] for key in ("running_mean", "running_var", "weight", "bias", "eps"))
    )
    return by_channel(scale, len(call.shape) + 1), by_channel(shift, len(call.shape) + 1)


def _normalised(call: Call, x: Tensor) -> Tensor:
    return x * norm_scale(call)[0]


def _normalised_back(call: Call, coef: Tensor) -> tuple[Tensor, ...]:
    return (coef * norm_scale(call)[0],)


def _negated(call: Call, coef: Tensor) -> tuple[Tensor, ...]:
    return (-coef,)


def _normalised_magnitude(call: Call, x: Tensor) -> Tensor:
    return x * norm_scale(call)[0].abs()


def _sign(call: Call) -> tuple[Any, Any]:
    """Return the factors of `self` and `other` in a sum or difference."""
    alpha = call["alpha"] if "alpha" in call.node.arguments else 1
    if call.node.target in (aten.sub.Tensor, aten.sub.Scalar):
        return 1, -alpha
    return (-alpha, 1) if call.node.target is aten.rsub.Scalar else (1, alpha)


def terms(call: Call) -> list[Any]:
    signs = dict(zip(("self", "other"), _sign(call), strict=True))
    arguments = call.node.arguments
    return [signs[key] for key in ("self", "other") if call.is_operand(arguments[key])]


def _added(call: Call, *operands: Tensor) -> Tensor:
    both = _both(call, operands)
    total = sum((x * sign for x, sign in both[1:]), start=both[0][0] * both[0][1])
    return total.expand(len(operands[0]), *call.shape)


def _added_constant(call: Call) -> Tensor | None:
    return None if len(terms(call)) == 2 else at_zero(call)


def _both(call: Call, operands: tuple[Tensor, ...]) -> list[tuple[Tensor, Any]]:
    signs = terms(call)
    return list(zip(operands if len(operands) == len(signs) else operands * 2, signs, strict=True))


def _added_magnitude(call: Call, *operands: Tensor) -> Tensor:
    if len(operands) < len(terms(call)):  # x + x, x - x: one operand, its factors add up
        return operands[0] * abs(sum(terms(call)))
    both = _both(call, operands)
    total = sum((x * abs(sign) for x, sign in both[1:]), start=both[0][0] * abs(both[0][1]))
    return total.expand(len(operands[0]), *call.shape)


def _added_back(call: Call, coef: Tensor) -> tuple[Tensor, ...]:
    signs = terms(call)
    pulled = [
        sum_to(coef if sign == 1 else coef * sign, shape)
        for sign, shape in zip(signs, call.shapes * len(signs), strict=False)
    ]
    return tuple(pulled) if len(call.shapes) == len(signs) else (sum(pulled[1:], start=pulled[0]),)


# Patches


def _field_of_scaling(call: Call) -> ReceptiveField | None:
    """Return the receptive field of a product with one number, or with one number per channel."""
    factor = multiplier(call)
    flat = not isinstance(factor, Tensor) or prod(factor.shape) == prod(factor.shape[-3:-2])
    return POINTWISE if flat and call.shapes[0] == call.shape else None


def _patch_scaled(call: Call, patch: Patch, size: Pair) -> tuple[Tensor, ...]:
    factor = multiplier(call)
    if isinstance(factor, Tensor):
        factor = factor.reshape(-1, 1, 1)
    return (scale(patch.folded(), factor),)


def _patch_added(call: Call, patch: Patch, size: Pair) -> tuple[Tensor, ...]:
    coef, signs = patch.folded(), terms(call)
    if len(call.shapes) < len(signs):  # x + x
        return (coef * sum(signs),)
    return tuple(coef if sign == 1 else coef * sign for sign in signs)


def _field_of_average(call: Call) -> ReceptiveField | None:
    kernel, padding = pair(call["kernel_size"]), pair(call["padding"])
    stride = pair(call["stride"]) if call["stride"] else kernel
    return ReceptiveField(stride, (-padding[0], -padding[1]), kernel, True)


def _patch_averaged(call: Call, patch: Patch, size: Pair) -> tuple[Tensor, ...]:
    """Pull back a sum over the window, times one over the divisor of each window."""
    kernel = pair(call["kernel_size"])
    stride = pair(call["stride"]) if call["stride"] else kernel
    coef = patch.coef
    image = coef.new_ones(1, 1, *call.shapes[0][1:])
    count = F.avg_pool2d(image, kernel, stride, pair(call["padding"]), call["ceil_mode"], True, 1)
    share = (call.apply(image) / count).unsqueeze(1)
    low, high = float(share.min()), float(share.max())
    coef = coef * low if low == high else (patch.by_unit() * patch.gather(share)[0]).flatten(1, 2)
    channels = call.shape[0]
    ones = coef.new_ones(channels, 1, *kernel)
    return (by_phases(coef.flatten(0, 1), ones, list(stride), [0, 0], [1, 1], channels, size),)


def _work_of_linear(call: Call) -> int:
    return call["weight"].shape[-1]


SCALE = Affine(
    _scaled,
    magnitude=_scaled_magnitude,
    transpose=_scaled_back,
    mixing=False,
    patches=PatchRule(_field_of_scaling, _patch_scaled),
)
_ADD = Affine(
    _added,
    _added_constant,
    _added_magnitude,
    _added_back,
    mixing=False,
    variadic=True,
    patches=PatchRule(pointwise_without_broadcast, _patch_added),
)
_AVERAGE = Affine(applied, magnitude=one_signed)

SUMS = (aten.add.Tensor, aten.sub.Tensor)
SCALES = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)

RULES: dict[Any, Rule] = {
    aten.linear.default: Affine(
        lambda call, x: F.linear(x, call["weight"]),
        _linear_bias,
        lambda call, x: F.linear(x, call["weight"].abs()),
        _linear_back,
        work=_work_of_linear,
    ),
    aten.batch_norm.default: Affine(
        _normalised,
        lambda call: norm_scale(call)[1],
        _normalised_magnitude,
        _normalised_back,
        mixing=False,
        patches=PatchRule(pointwise, pull_by(_normalised_back)),
    ),
    aten.avg_pool1d.default: _AVERAGE,
    aten.avg_pool2d.default: replace(_AVERAGE, patches=PatchRule(_field_of_average, _patch_averaged)),
    aten.adaptive_avg_pool1d.default: _AVERAGE,
    aten.adaptive_avg_pool2d.default: _AVERAGE,
    aten.mean.dim: _AVERAGE,
    aten.sum.dim_IntList: _AVERAGE,
    aten.upsample_nearest1d.vec: Affine(applied, mixing=False),
    aten.upsample_nearest2d.vec: Affine(applied, mixing=False),
    aten.upsample_bilinear2d.vec: _AVERAGE,
    aten.add.Tensor: _ADD,
    aten.add.Scalar: _ADD,
    aten.sub.Tensor: _ADD,
    aten.sub.Scalar: _ADD,
    aten.rsub.Scalar: _ADD,
    aten.neg.default: Affine(
        lambda call, x: -x,
        magnitude=lambda call, x: x,
        transpose=_negated,
        mixing=False,
        patches=PatchRule(pointwise, pull_by(_negated)),
    ),
    **dict.fromkeys(SCALES, SCALE),
}
