"""Operators that read a neighbourhood: how the windows of rows go through them and through relaxations.

Where an operator is not here, or a window has grown to the size of the image, rows are written out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.graph import Call
from bounds.ops import PRODUCTS, Affine
from bounds.ops.affine import RULES as AFFINE
from bounds.ops.affine import multiplier, scale, terms
from bounds.ops.conv import by_phases, symmetric_geometry
from bounds.ops.movement import IDENTITIES
from bounds.ops.movement import RULES as MOVEMENT
from bounds.ops.pool import window_of
from bounds.patch import Grid, Patch, dot, flat
from bounds.region import Region
from bounds.relaxation import Diagonal, Relaxation, Window, Windowed

aten = torch.ops.aten
Pair = tuple[int, int]


@dataclass(frozen=True)
class Reach:
    """The output at i reads the operand from stride·i + shift on, `span` far; pads: perhaps beyond its border."""

    stride: Pair = (1, 1)
    shift: Pair = (0, 0)
    span: Pair = (1, 1)
    pads: bool = False

    def on(self, grid: Grid) -> Grid:
        """The grid of the operand's windows."""
        return grid.through(self.stride, self.shift, self.span)


POINTWISE = Reach()


def pair(value: Any) -> Pair:
    values = [value] if isinstance(value, int) else list(value)
    return values[0], values[-1]


# How far each operator reads; None where its rows have to be written out.


def _everywhere(call: Call) -> Reach | None:
    return POINTWISE


def _same_shapes(call: Call) -> Reach | None:
    return POINTWISE if all(shape == call.shape for shape in call.shapes) else None


def _scaling(call: Call) -> Reach | None:
    """By one number, or one for each channel."""
    factor = multiplier(call)
    flat = not isinstance(factor, Tensor) or prod(factor.shape) == prod(factor.shape[-3:-2])
    return POINTWISE if flat and call.shapes[0] == call.shape else None


def _channels_joined(call: Call) -> Reach | None:
    return POINTWISE if call["dim"] in (1, -3) else None


def _convolution(call: Call) -> Reach | None:
    geometry = symmetric_geometry(call)
    if geometry is None:
        return None
    stride, padding, dilation = geometry
    kernel = call["weight"].shape[2:]
    span = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)
    return Reach(pair(stride), (-padding[0], -padding[1]), span, any(padding))


def _average(call: Call) -> Reach | None:
    kernel, padding = pair(call["kernel_size"]), pair(call["padding"])
    stride = pair(call["stride"]) if call["stride"] else kernel
    return Reach(stride, (-padding[0], -padding[1]), kernel, True)


def _slicing(call: Call) -> Reach | None:
    start, step, axis = call["start"] or 0, call["step"], call["dim"] % (len(call.shape) + 1)
    size = call.shapes[0][axis - 1]
    start = max(0, start + size) if start < 0 else start
    if axis < 2:  # of channels, or of all images
        return POINTWISE
    vertical = axis == 2
    return Reach((step, 1) if vertical else (1, step), (start, 0) if vertical else (0, start))


def _padding(call: Call) -> Reach | None:
    """By a constant, of whatever value: it is no part of the linear map."""
    pad = call["pad"]
    if len(pad) > 4 or ("mode" in call.node.arguments and call["mode"] != "constant"):
        return None
    left, top = pad[0], pad[2] if len(pad) == 4 else 0
    return Reach(shift=(-top, -left), pads=True)


# What becomes of the coefficients; `size`: of the operand's window.


def _as_dense(call: Call, patch: Patch, size: Pair) -> tuple[Tensor, ...]:
    """The rule's own transpose, where it does not look at the height and width."""
    rule = AFFINE.get(call.node.target) or MOVEMENT[call.node.target]
    assert isinstance(rule, Affine) and rule.transpose is not None
    return rule.transpose(call, patch.folded())


def _scaled(call: Call, patch: Patch, size: Pair) -> tuple[Tensor, ...]:
    factor = multiplier(call)
    if isinstance(factor, Tensor):
        factor = factor.reshape(-1, 1, 1)
    return (scale(patch.folded(), factor),)


def _added(call: Call, patch: Patch, size: Pair) -> tuple[Tensor, ...]:
    coef, signs = patch.folded(), terms(call)
    if len(call.shapes) < len(signs):  # x + x
        return (coef * sum(signs),)
    return tuple(coef if sign == 1 else coef * sign for sign in signs)


def _convolved(call: Call, patch: Patch, size: Pair) -> tuple[Tensor, ...]:
    geometry = symmetric_geometry(call)
    assert geometry is not None
    stride, _, dilation = geometry
    return (by_phases(patch.folded(), call["weight"], stride, [0, 0], dilation, call["groups"], size),)


def _averaged(call: Call, patch: Patch, size: Pair) -> tuple[Tensor, ...]:
    """A sum over the window, times one over what each window is divided by."""
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


def _sliced(call: Call, patch: Patch, size: Pair) -> tuple[Tensor, ...]:
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


def _unmoved(call: Call, patch: Patch, size: Pair) -> tuple[Tensor, ...]:
    return (patch.folded(),)


@dataclass(frozen=True)
class Local:
    """reach(call), and pull(call, patch, size): the coefficients of each operand, [B, C, *size]."""

    reach: Callable[[Call], Reach | None]
    pull: Callable[[Call, Patch, Pair], tuple[Tensor, ...]]


LOCAL: dict[Any, Local] = {
    aten.conv2d.default: Local(_convolution, _convolved),
    aten.conv2d.padding: Local(_convolution, _convolved),
    aten.avg_pool2d.default: Local(_average, _averaged),
    aten.batch_norm.default: Local(_everywhere, _as_dense),
    aten.neg.default: Local(_everywhere, _as_dense),
    aten.cat.default: Local(_channels_joined, _as_dense),
    aten.slice.Tensor: Local(_slicing, _sliced),
    aten.constant_pad_nd.default: Local(_padding, _unmoved),
    aten.pad.default: Local(_padding, _unmoved),
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar), Local(_same_shapes, _added)),
    **dict.fromkeys((aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar), Local(_scaling, _scaled)),
    **dict.fromkeys(IDENTITIES, Local(_everywhere, _unmoved)),
}  # fmt: skip


ELEMENTWISE = frozenset({
    aten.relu.default, aten.leaky_relu.default, aten.abs.default, aten.prelu.default, aten.sigmoid.default,
    aten.tanh.default, aten.atan.default, aten.arctan.default, aten.softplus.default, aten.elu.default,
    aten.selu.default, aten.silu.default, aten.gelu.default, aten.hardswish.default, aten.exp.default,
    aten.square.default, aten.hardtanh.default, aten.relu6.default, aten.hardsigmoid.default, aten.clamp.default,
    aten.clamp_min.default, aten.clamp_max.default, aten.reciprocal.default, aten.sqrt.default, aten.log.default,
    aten.rsqrt.default, aten.mish.default, aten.sign.default,
})  # fmt: skip
"""Nonlinear operators whose output at a place reads their operand there alone; others are written out."""


def reach_of(call: Call) -> Reach | None:
    """How far a node reads, None where its rows have to be written out."""
    target = call.node.target
    if len(call.shape) != 3:
        return None
    if target is aten.max_pool2d.default:
        return _window_reach(window_of(call))
    if target in ELEMENTWISE or (target in PRODUCTS and len(call.node.operands) == 2):
        return _same_shapes(call)
    return LOCAL[target].reach(call) if target in LOCAL else None


def _window_reach(window: Window) -> Reach:
    (kh, kw), (dh, dw) = window.kernel, window.dilation
    span = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    return Reach(window.stride, (-window.padding[0], -window.padding[2]), span, any(window.padding))


def pull(call: Call, patch: Patch) -> tuple[Patch, ...] | None:
    """Masked rows pulled back through an affine node; None where they have to be written out first."""
    reach = reach_of(call)
    grids = _grids(call, patch, reach)
    if reach is None or grids is None:
        return None
    pulled = LOCAL[call.node.target].pull(call, patch, grids.size)
    return tuple(_moved(patch, c, grids, reach, s) for c, s in zip(pulled, call.shapes, strict=True))


def _grids(call: Call, patch: Patch, reach: Reach | None) -> Grid | None:
    """The grid of the operands' windows; None where these are too large to keep."""
    if reach is None:
        return None
    grid = reach.on(patch.grid)
    return grid if all(len(shape) == 3 and grid.small(shape) for shape in call.shapes) else None


def _moved(patch: Patch, coef: Tensor, grid: Grid, reach: Reach, shape: tuple[int, ...]) -> Patch:
    unfolded = coef.unflatten(0, patch.coef.shape[:2])
    return replace(patch, coef=unfolded, grid=grid, shape=shape, masked=patch.masked and not reach.pads)


def relax(call: Call, relaxation: Relaxation, patch: Patch) -> tuple[tuple[Patch, ...], Tensor] | None:
    """`Relaxation.pull` on windows: (the rows on each operand, const [N, S]); None where they are to be written out."""
    reach = reach_of(call)
    grid = _grids(call, patch, reach)
    low, high = relaxation.lower, relaxation.upper
    if reach is None or grid is None or not _windowed(relaxation, patch):
        return None
    coef = patch.by_unit()
    negative = coef.clamp(max=0)
    both = [high.bias - low.bias] + ([low.bias] if bool((low.bias != 0).any()) else [])
    biases = patch.gather(*(bias.expand(-1, -1, *call.shape) for bias in both))
    const = sum((dot(c, b) for c, b in zip((negative, coef), biases, strict=False)), start=coef.new_zeros(()))
    if isinstance(low.map, Diagonal) and isinstance(high.map, Diagonal):
        pulled = _through_slopes(patch, coef, negative, low.map, high.map)
    else:
        assert isinstance(low.map, Windowed) and isinstance(high.map, Windowed)
        pulled = (_through_windows(patch, coef, negative, low.map, high.map, grid.size),)
    moved = tuple(
        _moved(replace(patch, masked=True), p.flatten(0, 2), grid, reach, s)
        for p, s in zip(pulled, call.shapes, strict=True)
    )
    return moved, const


def minimum(region: Region, patch: Patch) -> Tensor:
    """`Region.minimum` of rows that are windows of the image, of each of the N or one for all.  [N, S]"""
    n, shape = len(region.x), region.x.shape[1:]
    patch = patch.expanded(n)
    known = [region.x, region.radii.expand(n, *shape), *(region.reach() if region.clipped else ())]
    x, radii, *reach = (flat(windows) for windows in patch.gather(*(image.unsqueeze(1) for image in known)))
    return region.minimum_on(flat(patch.by_unit()), x, radii, *reach).flatten(1)


def _windowed(relaxation: Relaxation, patch: Patch) -> bool:
    """Whether there is a way for windows: planes of their own are for each unit, and of element-wise operators."""
    maps = [relaxation.lower.map, relaxation.upper.map]
    if relaxation.rows == 1:
        return all(isinstance(map, Diagonal | Windowed) for map in maps)
    return relaxation.rows == patch.top.shape[1] and all(isinstance(map, Diagonal) for map in maps)


def _through_slopes(
    patch: Patch, coef: Tensor, negative: Tensor, low: Diagonal, high: Diagonal
) -> tuple[Tensor, ...]:
    found = []
    for a, b, shape in zip(low.slopes, high.slopes, low.shapes, strict=True):
        if low is high:
            (slope,) = patch.gather(a.expand(-1, -1, *shape))
            found.append(coef * slope)
        else:
            slope, more = patch.gather(a.expand(-1, -1, *shape), (b - a).expand(-1, -1, *shape))
            found.append((coef * slope).addcmul_(negative, more))
    return tuple(found)


def _through_windows(
    patch: Patch, coef: Tensor, negative: Tensor, low: Windowed, high: Windowed, size: Pair
) -> Tensor:
    """Rows times the weights of each window, overlaps added.  [N, k, M, C, *size]"""
    window, (channels, taps) = low.window, low.weights.shape[2:4]

    def spread(rows: Tensor, map: Windowed) -> Tensor:
        image = map.weights.reshape(len(map.weights), 1, channels * taps, *window.output)
        weights = patch.gather(image)[0].unflatten(3, (channels, taps))
        return window.spread(rows, weights.unbind(4), size)

    return spread(coef, low) if low is high else spread(coef - negative, low) + spread(negative, high)
