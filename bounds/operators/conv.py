"""Convolutions and transposed convolutions, in one and two dimensions.

Each linear map takes a `transform` of the weight: the identity, or abs for the magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..graph import Call
from ..patch import Pair, Patch, PatchRule, ReceptiveField, pair
from .kernels import convolve, laid_out
from .rule import Affine, Rule, TransposeRule, UnaryRule, vjp

aten = torch.ops.aten
Linear = UnaryRule[Tensor, Tensor]


def _channel_bias(call: Call) -> Tensor | None:
    bias = call["bias"]
    return None if bias is None else bias.reshape(1, -1, *[1] * (len(call.shape) - 1))


def _convolve(conv: Callable[..., Tensor], transform: Callable[[Tensor], Tensor]) -> Linear:
    def linear(call: Call, x: Tensor) -> Tensor:
        return conv(
            laid_out(x) if conv is F.conv2d else x,
            transform(call["weight"]),
            None,
            call["stride"],
            call["padding"],
            call["dilation"],
            call["groups"],
        )

    return linear


def symmetric_geometry(call: Call) -> tuple[list[int], list[int], list[int]] | None:
    """Return (stride, padding, dilation) of a convolution; None if 'same' pads one side more."""
    size = call.shapes[0][1:]
    stride, dilation = _each(call["stride"], size), _each(call["dilation"], size)
    padding = _padding(call["padding"], call["weight"], dilation)
    return None if padding is None else (stride, padding, dilation)


def _convolve_back(back: Callable[..., Tensor]) -> TransposeRule:
    """Return the transpose of a convolution, with output padding if the stride leaves a remainder."""

    def transpose(call: Call, coef: Tensor) -> tuple[Tensor, ...]:
        weight, size, geometry = call["weight"], call.shapes[0][1:], symmetric_geometry(call)
        if geometry is None:
            return _CONV_VJP[back](call, coef)
        stride, padding, dilation = geometry
        if back is F.conv_transpose2d:
            return (by_phases(coef, weight, stride, padding, dilation, call["groups"], size),)
        extra = [
            n - ((o - 1) * s - 2 * p + d * (k - 1) + 1)
            for n, o, s, p, d, k in zip(
                size, call.shape[1:], stride, padding, dilation, weight.shape[2:], strict=True
            )
        ]
        return (back(coef, weight, None, stride, padding, extra, call["groups"], dilation),)

    return transpose


def by_phases(
    coef: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    size: tuple[int, ...],
) -> Tensor:
    """Compute the transposed convolution as plain convolutions, one per phase of the stride.

    On a CPU this was measured 2 to 4 times as fast as torch's operator; `peak` in benchmarks/README.md times
    convolutions.
    The sum x[s·q + r − p] = Σₜ coef[q − t]·w[s·t + r] uses the taps of one phase r of the kernel, flipped.
    """
    (sh, sw), (ph, pw), (h, w) = stride, padding, size
    if stride != [1, 1] and dilation != [1, 1]:
        weight, dilation = _spread(weight, dilation), [1, 1]
    out_channels, in_group, kh, kw = weight.shape
    th, tw = -(-kh // sh), -(-kw // sw)
    taps = F.pad(weight, (0, tw * sw - kw, 0, th * sh - kh))
    taps = taps.reshape(groups, out_channels // groups, in_group, th, sh, tw, sw)
    taps = taps.permute(0, 4, 6, 2, 1, 3, 5).flip(-1, -2)
    kernel = taps.reshape(groups * sh * sw * in_group, out_channels // groups, th, tw)
    full = [dilation[0] * (th - 1), dilation[1] * (tw - 1)]
    if stride == [1, 1] and full[0] >= ph and full[1] >= pw:
        pulled = convolve(coef, kernel, [full[0] - ph, full[1] - pw], dilation, groups)
        return _fit(pulled, 0, 0, h, w)
    phases = convolve(coef, kernel, full, dilation, groups)
    rows, columns = phases.shape[2:]
    if phases.is_contiguous(
        memory_format=torch.channels_last
    ):  # then all channels of a position are moved at once
        phases = phases.permute(0, 2, 3, 1).reshape(len(coef), rows, columns, groups, sh, sw, in_group)
        joined = phases.permute(0, 1, 4, 2, 5, 3, 6).reshape(
            len(coef), rows * sh, columns * sw, groups * in_group
        )
        return _fit(joined.permute(0, 3, 1, 2), ph, pw, h, w)
    phases = phases.reshape(len(coef), groups, sh, sw, in_group, rows, columns).permute(0, 1, 4, 5, 2, 6, 3)
    return _fit(phases.reshape(len(coef), groups * in_group, rows * sh, columns * sw), ph, pw, h, w)


def _spread(weight: Tensor, dilation: list[int]) -> Tensor:
    """Return a dilated kernel with its zeros written out."""
    (dh, dw), (kh, kw) = dilation, weight.shape[2:]
    spread = F.pad(weight[..., None, :, None], (0, dw - 1, 0, 0, 0, dh - 1))
    spread = spread.reshape(*weight.shape[:2], kh * dh, kw * dw)
    return spread[..., : (kh - 1) * dh + 1, : (kw - 1) * dw + 1]


def _fit(x: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Return rows top … top + height and columns left … left + width, with zeros beyond the end."""
    x = x[..., top : top + height, left : left + width]
    return (
        F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2])) if x.shape[-2:] != (height, width) else x
    )


def _each(value: Any, size: tuple[int, ...]) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * len(size) if len(values) == 1 else values


def _padding(padding: Any, weight: Tensor, dilation: list[int]) -> list[int] | None:
    """Return symmetric padding as numbers; None if 'same' pads one side more."""
    if padding == "valid":
        return [0] * len(dilation)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        return None if any(t % 2 for t in total) else [t // 2 for t in total]
    return _each(padding, tuple(dilation))


def _deconvolve(conv: Callable[..., Tensor], transform: Callable[[Tensor], Tensor]) -> Linear:
    def linear(call: Call, x: Tensor) -> Tensor:
        geometry = [call[key] for key in ("stride", "padding", "output_padding", "groups", "dilation")]
        return conv(x, transform(call["weight"]), None, *geometry)

    return linear


def _deconvolve_back(conv: Callable[..., Tensor]) -> TransposeRule:
    def transpose(call: Call, coef: Tensor) -> tuple[Tensor, ...]:
        pulled = conv(
            coef, call["weight"], None, call["stride"], call["padding"], call["dilation"], call["groups"]
        )
        for axis, size in enumerate(call.shapes[0][1:]):
            pulled = pulled.narrow(axis + 2, 0, size)
        return (pulled,)

    return transpose


def _same(weight: Tensor) -> Tensor:
    return weight


def _receptive_field(call: Call) -> ReceptiveField | None:
    geometry = symmetric_geometry(call)
    if geometry is None:
        return None
    stride, padding, dilation = geometry
    kernel = call["weight"].shape[2:]
    span = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)
    return ReceptiveField(pair(stride), (-padding[0], -padding[1]), span, any(padding))


def _patch_convolved(call: Call, patch: Patch, size: Pair) -> tuple[Tensor, ...]:
    geometry = symmetric_geometry(call)
    assert geometry is not None
    stride, _, dilation = geometry
    return (by_phases(patch.folded(), call["weight"], stride, [0, 0], dilation, call["groups"], size),)


def _work(call: Call) -> int:
    return call["weight"][0].numel()


def _conv_rule(conv: Callable[..., Tensor], back: Callable[..., Tensor]) -> Affine:
    return Affine(
        _convolve(conv, _same),
        _channel_bias,
        _convolve(conv, torch.abs),
        _convolve_back(back),
        patches=PatchRule(_receptive_field, _patch_convolved),
        work=_work,
    )


def _deconv_rule(conv: Callable[..., Tensor], back: Callable[..., Tensor]) -> Affine:
    return Affine(
        _deconvolve(conv, _same),
        _channel_bias,
        _deconvolve(conv, torch.abs),
        _deconvolve_back(back),
        work=_work,
    )


_CONV_VJP = {
    F.conv_transpose1d: vjp(_convolve(F.conv1d, _same)),
    F.conv_transpose2d: vjp(_convolve(F.conv2d, _same)),
}


RULES: dict[Any, Rule] = {
    aten.conv1d.default: _conv_rule(F.conv1d, F.conv_transpose1d),
    aten.conv2d.default: _conv_rule(F.conv2d, F.conv_transpose2d),
    aten.conv1d.padding: _conv_rule(F.conv1d, F.conv_transpose1d),
    aten.conv2d.padding: _conv_rule(F.conv2d, F.conv_transpose2d),
    aten.conv_transpose1d.default: _deconv_rule(F.conv_transpose1d, F.conv1d),
    aten.conv_transpose2d.input: _deconv_rule(F.conv_transpose2d, F.conv2d),
}
