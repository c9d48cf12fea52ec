"""How a call of each registered operator is drawn, options and all.

A generator takes the draw and the operand's shape (without the batch) and returns a `Made`; what torch refuses, or what
grows too large, is drawn again by the caller.  `GENERATORS` names them as the registry of `bounds` names operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.soundness.draw import Draw
from bounds.extend import COMPOSED, REGISTERED
from certnas.nas.space.ops import OPS, FactorizedReduce
from certnas.nas.space.supernet import MixedEdge

aten = torch.ops.aten
Shape = tuple[int, ...]
ANY = (1, 2, 3)


@dataclass(frozen=True)
class Made:
    """A call of values and tensors; `tensors` become parameters or, of whole numbers, buffers.

    arity: how many values it takes; a second has the shape of the first.  module: a part of its own instead of `call`.
    """

    call: Callable[..., Tensor]
    tensors: Sequence[Tensor] = ()
    arity: int = 1
    module: nn.Module | None = None


@dataclass(frozen=True)
class Generator:
    """make(draw, shape) -> Made, for operands of as many axes as `dims` says, the batch not counted."""

    make: Callable[[Draw, Shape], Made]
    dims: tuple[int, ...] = ANY


GENERATORS: dict[str, Generator] = {}


def generator(name: str, dims: tuple[int, ...] = ANY) -> Callable[..., Any]:
    def register(make: Callable[[Draw, Shape], Made]) -> Callable[[Draw, Shape], Made]:
        GENERATORS[name] = Generator(make, dims)
        return make

    return register


def simple(name: str, call: Callable[..., Tensor], dims: tuple[int, ...] = ANY, arity: int = 1) -> None:
    GENERATORS[name] = Generator(lambda draw, shape: Made(call, arity=arity), dims)


# Linear layers, convolutions and normalisation.


def _bias(draw: Draw, size: int) -> list[Tensor]:
    return [draw.weight(size)] if draw.pick("bias", (True, False)) else []


@generator("linear.default")
def linear(draw: Draw, shape: Shape) -> Made:
    out = draw.pick("out", (1, 2, 3, 5))
    return Made(aten.linear.default, [draw.weight(out, shape[-1], fan=shape[-1]), *_bias(draw, out)])


@generator("matmul.default")
def matmul(draw: Draw, shape: Shape) -> Made:
    side = draw.pick("constant", ("right", "left", "none") if len(shape) > 1 else ("right",))
    if side == "right":
        return Made(aten.matmul.default, [draw.weight(shape[-1], draw.pick("out", (1, 3)), fan=shape[-1])])
    if side == "left":
        matrix = draw.weight(draw.pick("out", (1, 3)), shape[-2], fan=shape[-2])
        return Made(lambda x, m: aten.matmul.default(m, x), [matrix])
    return Made(lambda x, y: aten.matmul.default(x, y.transpose(-1, -2)), arity=2)


@generator("mm.default", (1,))
def mm(draw: Draw, shape: Shape) -> Made:
    return Made(aten.mm.default, [draw.weight(shape[0], draw.pick("out", (1, 4)), fan=shape[0])])


@generator("batch_norm.default")
def batch_norm(draw: Draw, shape: Shape) -> Made:
    size = shape[0]
    eps = draw.pick("eps", (1e-5, 1e-3, 0.5))
    variance = draw.normal(size).square() * draw.pick("variance", (1.0, 100.0, 1e-4, 0.0))
    if draw.pick("affine", (True, True, False)):
        tensors = [draw.weight(size), draw.weight(size), draw.normal(size), variance]
        return Made(
            lambda x, w, b, m, v: aten.batch_norm.default(
                x, w, b, m.detach(), v.detach(), False, 0.1, eps, False
            ),
            tensors,
        )
    tensors = [draw.normal(size), variance]
    return Made(
        lambda x, m, v: aten.batch_norm.default(
            x, None, None, m.detach(), v.detach(), False, 0.1, eps, False
        ),
        tensors,
    )


def _convolution(dim: int, padded: bool, draw: Draw, shape: Shape) -> Made:
    channels = shape[0]
    kernel = draw.integers("kernel", 1, 3, dim)
    if draw.chance(0.1):
        kernel[0], kernel[-1] = 1, 5
        draw.told.append(f"kernel={kernel}")
    groups = draw.pick("groups", [g for g in (1, 1, 2, 3, channels) if channels % g == 0])
    out = groups * draw.pick("multiplier", (1, 2))
    dilation = draw.integers("dilation", 1, 3, dim)
    padding: Any
    if padded:
        padding = draw.pick("padding", ("same", "valid"))
        stride = [1] * dim if padding == "same" else draw.integers("stride", 1, 2, dim)
        call = (aten.conv1d if dim == 1 else aten.conv2d).padding
    else:
        padding, stride = draw.integers("padding", 0, 2, dim), draw.integers("stride", 1, 3, dim)
        call = (aten.conv1d if dim == 1 else aten.conv2d).default
    fan = channels // groups * kernel[0] * kernel[-1]
    weight = draw.weight(out, channels // groups, *kernel, fan=fan)
    tensors = [weight, *_bias(draw, out)]
    return Made(lambda x, w, b=None: call(x, w, b, stride, padding, dilation, groups), tensors)


def _deconvolution(dim: int, draw: Draw, shape: Shape) -> Made:
    channels = shape[0]
    kernel, stride = draw.integers("kernel", 1, 3, dim), draw.integers("stride", 1, 3, dim)
    padding, dilation = draw.integers("padding", 0, 1, dim), draw.integers("dilation", 1, 2, dim)
    extra = draw.integers("output_padding", 0, 1, dim)
    groups = draw.pick("groups", [g for g in (1, 1, 2, channels) if channels % g == 0])
    out = draw.pick("out", (1, 2))
    weight = draw.weight(channels, out, *kernel, fan=channels)
    call = aten.conv_transpose1d.default if dim == 1 else aten.conv_transpose2d.input
    tensors = [weight, *_bias(draw, out * groups)]
    return Made(lambda x, w, b=None: call(x, w, b, stride, padding, extra, groups, dilation), tensors)


for _dim in (1, 2):
    GENERATORS[f"conv{_dim}d.default"] = Generator(partial(_convolution, _dim, False), (_dim + 1,))
    GENERATORS[f"conv{_dim}d.padding"] = Generator(partial(_convolution, _dim, True), (_dim + 1,))
GENERATORS["conv_transpose1d.default"] = Generator(partial(_deconvolution, 1), (2,))
GENERATORS["conv_transpose2d.input"] = Generator(partial(_deconvolution, 2), (3,))


# Pools, reductions and interpolation.


@generator("avg_pool1d.default", (2,))
def avg_pool1d(draw: Draw, shape: Shape) -> Made:
    options = [*_pool(draw, 1), draw.pick("ceil_mode", (False, True)), draw.pick("count_pad", (True, False))]
    return Made(lambda x: aten.avg_pool1d.default(x, *options))


@generator("avg_pool2d.default", (3,))
def avg_pool2d(draw: Draw, shape: Shape) -> Made:
    options = [*_pool(draw, 2), draw.pick("ceil_mode", (False, True)), draw.pick("count_pad", (True, False))]
    divisor = draw.pick("divisor", (None, None, 3, 1, -2, -1, 1000))
    return Made(lambda x: aten.avg_pool2d.default(x, *options, divisor))


def _pool(draw: Draw, dim: int) -> list[list[int]]:
    """Kernel, stride (empty: the kernel's) and padding of a pool."""
    kernel = draw.integers("kernel", 1, 3, dim)
    stride = draw.integers("stride", 1, 3, dim) if draw.chance(0.8) else []
    padding = [min(p, k // 2) for p, k in zip(draw.integers("padding", 0, 1, dim), kernel, strict=True)]
    return [kernel, stride, padding]


def _max_pool(dim: int, draw: Draw, shape: Shape) -> Made:
    options = [*_pool(draw, dim), draw.integers("dilation", 1, 2, dim), draw.pick("ceil_mode", (False, True))]
    call = aten.max_pool1d.default if dim == 1 else aten.max_pool2d.default
    if not torch.isfinite(call(torch.zeros(1, *shape), *options)).all():
        options[3:] = (
            [1] * dim,
            False,
        )  # torch's derivative of a window that is padding alone writes outside of memory
    return Made(lambda x: call(x, *options))


GENERATORS["max_pool1d.default"] = Generator(partial(_max_pool, 1), (2,))
GENERATORS["max_pool2d.default"] = Generator(partial(_max_pool, 2), (3,))


@generator("adaptive_avg_pool1d.default", (2,))
def adaptive1d(draw: Draw, shape: Shape) -> Made:
    size = draw.integers("size", 1, 4, 1)
    return Made(lambda x: aten.adaptive_avg_pool1d.default(x, size))


@generator("adaptive_avg_pool2d.default", (3,))
def adaptive2d(draw: Draw, shape: Shape) -> Made:
    size = draw.integers("size", 1, 4, 2)
    return Made(lambda x: aten.adaptive_avg_pool2d.default(x, size))


def _reduction(call: Callable[..., Tensor], draw: Draw, shape: Shape) -> Made:
    axes = draw.subset("axes", range(1, len(shape) + 1))
    axes = [axis - len(shape) - 1 for axis in axes] if draw.chance(0.4) else axes
    keep = draw.pick("keepdim", (True, False))
    return Made(lambda x: call(x, axes, keep))


GENERATORS["mean.dim"] = Generator(partial(_reduction, aten.mean.dim))
GENERATORS["sum.dim_IntList"] = Generator(partial(_reduction, aten.sum.dim_IntList))


def _size_or_scale(draw: Draw, dim: int) -> tuple[list[int] | None, list[float] | None]:
    if draw.chance(0.5):
        return draw.integers("size", 1, 6, dim), None
    scales = [draw.pick("scale", (2.0, 1.0, 1.5, 0.5, 3.0)) for _ in range(dim)]
    return None, scales


@generator("upsample_nearest1d.vec", (2,))
def nearest1d(draw: Draw, shape: Shape) -> Made:
    size, scale = _size_or_scale(draw, 1)
    return Made(lambda x: aten.upsample_nearest1d.vec(x, size, scale))


@generator("upsample_nearest2d.vec", (3,))
def nearest2d(draw: Draw, shape: Shape) -> Made:
    size, scale = _size_or_scale(draw, 2)
    return Made(lambda x: aten.upsample_nearest2d.vec(x, size, scale))


@generator("upsample_bilinear2d.vec", (3,))
def bilinear2d(draw: Draw, shape: Shape) -> Made:
    size, scale = _size_or_scale(draw, 2)
    corners = draw.pick("align_corners", (True, False))
    return Made(lambda x: aten.upsample_bilinear2d.vec(x, size, corners, scale))


# Sums, products and quotients.


def _sum(call: Callable[..., Tensor], draw: Draw, shape: Shape) -> Made:
    alpha = draw.pick("alpha", (1, 1, -2.5, 0, 1000))
    match draw.pick("with", ("value", "value", "itself", "its mean", "constant", "of a constant")):
        case "value":
            return Made(lambda x, y: call(x, y, alpha=alpha), arity=2)
        case "itself":
            return Made(lambda x: call(x, x, alpha=alpha))
        case "its mean":
            return Made(lambda x: call(x, x.mean(-1, keepdim=True), alpha=alpha))
        case "constant":
            return Made(lambda x, c: call(x, c, alpha=alpha), [draw.constant(shape)])
    return Made(lambda x, c: call(c, x, alpha=alpha), [draw.constant(shape)])


GENERATORS["add.Tensor"] = Generator(partial(_sum, aten.add.Tensor))
GENERATORS["sub.Tensor"] = Generator(partial(_sum, aten.sub.Tensor))


def _sum_with_number(call: Callable[..., Tensor], draw: Draw, shape: Shape) -> Made:
    number, alpha = draw.number("number"), draw.pick("alpha", (1, 1, -2.5, 0))
    return Made(lambda x: call(x, number, alpha))


for _name in ("add", "sub", "rsub"):
    GENERATORS[f"{_name}.Scalar"] = Generator(partial(_sum_with_number, getattr(aten, _name).Scalar))
simple("neg.default", aten.neg.default)


@generator("mul.Tensor")
def mul(draw: Draw, shape: Shape) -> Made:
    match draw.pick(
        "with", ("value", "value", "itself", "its mean", "its first", "constant", "of a constant")
    ):
        case "value":
            return Made(aten.mul.Tensor, arity=2)
        case "itself":
            return Made(lambda x: aten.mul.Tensor(x, x))
        case "its mean":
            return Made(lambda x: aten.mul.Tensor(x, x.mean(-1, keepdim=True)))
        case "its first":
            return Made(lambda x: aten.mul.Tensor(x, torch.sigmoid(x.select(-1, 0)).unsqueeze(-1)))
        case "constant":
            return Made(aten.mul.Tensor, [draw.constant(shape)])
    return Made(lambda x, c: aten.mul.Tensor(c, x), [draw.constant(shape)])


@generator("mul.Scalar")
def mul_scalar(draw: Draw, shape: Shape) -> Made:
    number = draw.number("number")
    return Made(lambda x: aten.mul.Scalar(x, number))


@generator("div.Tensor")
def div(draw: Draw, shape: Shape) -> Made:
    offset, sign = draw.pick("offset", (0.3, 1.0)), draw.pick("sign", (1, -1))
    match draw.pick("with", ("value", "itself", "number of", "constant")):
        case "value":
            return Made(lambda x, y: aten.div.Tensor(x, sign * (torch.sigmoid(y) + offset)), arity=2)
        case "itself":
            return Made(lambda x: aten.div.Tensor(x, torch.sigmoid(x) + offset))
        case "number of":
            return Made(
                lambda x: aten.div.Tensor(torch.full_like(x, 2.0), sign * (torch.sigmoid(x) + offset))
            )
    constant = draw.constant(shape)
    return Made(aten.div.Tensor, [torch.where(constant.abs() < 0.125, 0.125, constant)])


@generator("div.Scalar")
def div_scalar(draw: Draw, shape: Shape) -> Made:
    number = draw.number("number") or 4.0
    return Made(lambda x: aten.div.Scalar(x, number))


# Operators that move units.


def _split_size(draw: Draw, size: int) -> list[int]:
    first = draw.random.choice([d for d in range(1, size + 1) if size % d == 0])
    return [first, size // first]


def _units(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _reshape(call: Callable[..., Tensor], draw: Draw, shape: Shape) -> Made:
    sizes = [-1, *draw.pick("sizes", ([_units(shape)], _split_size(draw, _units(shape)), [1, *shape[::-1]]))]
    return Made(lambda x: call(x, sizes))


for _call in (aten.view.default, aten.reshape.default, aten._unsafe_view.default):
    GENERATORS[str(_call)[5:]] = Generator(partial(_reshape, _call))


@generator("flatten.using_ints")
def flatten(draw: Draw, shape: Shape) -> Made:
    start = draw.random.randint(1, len(shape))
    end = draw.pick("end", (-1, len(shape)))
    return Made(lambda x: aten.flatten.using_ints(x, start, end))


@generator("unflatten.int")
def unflatten(draw: Draw, shape: Shape) -> Made:
    axis = draw.random.randint(1, len(shape))
    sizes = _split_size(draw, shape[axis - 1])
    axis = draw.pick("axis", (axis, axis - len(shape) - 1))
    return Made(lambda x: aten.unflatten.int(x, axis, sizes))


def _squeezed(call: Callable[[Tensor, int], Tensor], draw: Draw, shape: Shape) -> Made:
    axis = draw.pick("axis", range(1, len(shape) + 1))
    return Made(lambda x: call(x.unsqueeze(axis), axis))


GENERATORS["squeeze.dim"] = Generator(partial(_squeezed, aten.squeeze.dim))
GENERATORS["squeeze.dims"] = Generator(partial(_squeezed, lambda x, axis: aten.squeeze.dims(x, [axis])))
GENERATORS["squeeze.default"] = Generator(partial(_squeezed, lambda x, axis: aten.squeeze.default(x)))


@generator("unsqueeze.default")
def unsqueeze(draw: Draw, shape: Shape) -> Made:
    axis = draw.pick("axis", (1, -1))
    return Made(lambda x: aten.unsqueeze.default(x, axis))


@generator("permute.default")
def permute(draw: Draw, shape: Shape) -> Made:
    order = [0, *draw.random.sample(range(1, len(shape) + 1), len(shape))]
    return Made(lambda x: aten.permute.default(x, order))


@generator("transpose.int", (2, 3))
def transpose(draw: Draw, shape: Shape) -> Made:
    pair = draw.pick("axes", ((1, -1), (-2, -1), (1, 2)))
    return Made(lambda x: aten.transpose.int(x, *pair))


@generator("movedim.int", (2, 3))
def movedim(draw: Draw, shape: Shape) -> Made:
    pair = draw.pick("axes", ((1, -1), (2, 1), (-1, 1)))
    return Made(lambda x: aten.movedim.int(x, *pair))


def _axis(draw: Draw, shape: Shape) -> tuple[int, int]:
    """An axis, from the front or from the back, and its size."""
    axis = draw.random.randint(1, len(shape))
    return draw.pick("axis", (axis, axis - len(shape) - 1)), shape[axis - 1]


@generator("slice.Tensor")
def slice_of(draw: Draw, shape: Shape) -> Made:
    axis, size = _axis(draw, shape)
    start = draw.pick("start", (None, 0, size // 2, -1, -size, -9))
    end, step = draw.pick("end", (None, size, 2**62, size - 1 or 1)), draw.pick("step", (1, 1, 2, 3))
    return Made(lambda x: aten.slice.Tensor(x, axis, start, end, step))


@generator("select.int")
def select(draw: Draw, shape: Shape) -> Made:
    axis, size = _axis(draw, shape)
    index = draw.pick("index", (0, -1, size // 2))
    return Made(lambda x: aten.select.int(x, axis, index))


@generator("narrow.default")
def narrow(draw: Draw, shape: Shape) -> Made:
    axis, size = _axis(draw, shape)
    start = draw.random.randrange(size)
    length = draw.random.randint(1, size - start)
    return Made(lambda x: aten.narrow.default(x, axis, start, length))


def _indices(draw: Draw, size: int, low: int = 0) -> Tensor:
    drawn = [draw.random.randrange(low, size) for _ in range(draw.random.randint(1, 3))]
    return torch.tensor(drawn)


@generator("index_select.default")
def index_select(draw: Draw, shape: Shape) -> Made:
    axis, size = _axis(draw, shape)
    return Made(lambda x, index: aten.index_select.default(x, axis, index), [_indices(draw, size)])


@generator("index.Tensor")
def index(draw: Draw, shape: Shape) -> Made:
    axis = draw.pick("axis", range(1, len(shape) + 1))
    chosen = _indices(draw, shape[axis - 1], -shape[axis - 1])
    return Made(lambda x, index: aten.index.Tensor(x, [*[None] * axis, index]), [chosen])


@generator("channel_shuffle.default", (2, 3))
def channel_shuffle(draw: Draw, shape: Shape) -> Made:
    groups = draw.pick("groups", [g for g in (1, 2, 3, 4) if shape[0] % g == 0])
    return Made(lambda x: aten.channel_shuffle.default(x, groups))


@generator("pixel_shuffle.default", (3,))
def pixel_shuffle(draw: Draw, shape: Shape) -> Made:
    if shape[0] % 4:
        return Made(lambda x: aten.pixel_shuffle.default(torch.cat([x, -x, x, 2 * x], 1), 2))
    return Made(lambda x: aten.pixel_shuffle.default(x, 2))


@generator("pixel_unshuffle.default", (3,))
def pixel_unshuffle(draw: Draw, shape: Shape) -> Made:
    factor = draw.pick("factor", [f for f in (1, 2, 3) if shape[1] % f == 0 == shape[2] % f])
    return Made(lambda x: aten.pixel_unshuffle.default(x, factor))


@generator("flip.default")
def flip(draw: Draw, shape: Shape) -> Made:
    axes = draw.subset("axes", range(-len(shape), 0))
    return Made(lambda x: aten.flip.default(x, axes))


@generator("roll.default")
def roll(draw: Draw, shape: Shape) -> Made:
    axes = draw.subset("axes", range(1, len(shape) + 1))
    shifts = [draw.pick("shift", (1, -1, 0, 7)) for _ in axes]
    return Made(lambda x: aten.roll.default(x, shifts, axes))


@generator("repeat_interleave.self_int")
def repeat(draw: Draw, shape: Shape) -> Made:
    axis, _ = _axis(draw, shape)
    times = draw.pick("times", (1, 2, 3))
    return Made(lambda x: aten.repeat_interleave.self_int(x, times, axis))


def _edges(draw: Draw, shape: Shape, dim: int, limit: int) -> list[int]:
    """Padding of the last axes, last first, each less than its axis plus `limit`."""
    pads: list[int] = []
    for size in shape[::-1][:dim]:
        pads += [min(p, max(size - 1 + limit, 0)) for p in draw.integers("pad", 0, 2, 2)]
    return pads


def _reflected(call: Callable[..., Tensor], dim: int, limit: int, draw: Draw, shape: Shape) -> Made:
    pads = _edges(draw, shape, dim, limit)
    return Made(lambda x: call(x, pads))


for _dim in (1, 2):
    for _kind, _limit in (("reflection", 0), ("replication", 9)):
        _call = getattr(aten, f"{_kind}_pad{_dim}d").default
        GENERATORS[f"{_kind}_pad{_dim}d.default"] = Generator(
            partial(_reflected, _call, _dim, _limit), (_dim + 1,)
        )


@generator("constant_pad_nd.default")
def constant_pad(draw: Draw, shape: Shape) -> Made:
    pads = [draw.random.randint(-1, 2) for _ in range(2 * draw.random.randint(1, len(shape)))]
    value = draw.number("value")
    return Made(lambda x: aten.constant_pad_nd.default(x, pads, value))


@generator("pad.default", (2, 3))
def pad(draw: Draw, shape: Shape) -> Made:
    mode = draw.pick("mode", ("constant", "reflect", "replicate", "circular"))
    pads = _edges(draw, shape, len(shape) - 1, {"reflect": 0, "circular": 1}.get(mode, 9))
    value = draw.number("value") if mode == "constant" else None
    return Made(lambda x: aten.pad.default(x, pads, mode, value))


simple("dropout.default", lambda x: aten.dropout.default(x, 0.4, False))
simple("feature_dropout.default", lambda x: aten.feature_dropout.default(x, 0.4, False), (2, 3))
simple("contiguous.default", aten.contiguous.default)
simple("clone.default", aten.clone.default)
simple("alias.default", aten.alias.default)
simple(  # derivatives are wanted where the network is evaluated
    "detach.default", lambda x: aten.detach.default(x) if torch.compiler.is_exporting() else x
)
simple("lift_fresh_copy.default", aten.lift_fresh_copy.default)
simple("to.dtype", lambda x: aten.to.dtype(x, torch.float64))
simple("to.device", lambda x: aten.to.device(x, "cpu", torch.float64))
simple("_to_copy.default", lambda x: aten._to_copy.default(x, dtype=torch.float64))


@generator("expand.default")
def expand(draw: Draw, shape: Shape) -> Made:
    times = draw.pick("times", (1, 2, 3))
    return Made(lambda x: aten.expand.default(x.unsqueeze(1), [-1, times, *shape]).flatten(1, 2))


@generator("cat.default")
def cat(draw: Draw, shape: Shape) -> Made:
    axis = draw.pick("axis", (1, -1, len(shape)))
    match draw.pick("with", ("value", "value", "itself", "constant")):
        case "value":
            return Made(lambda x, y: aten.cat.default([x, y], axis), arity=2)
        case "itself":
            return Made(lambda x: aten.cat.default([x, -x, x], axis))
    return Made(
        lambda x, c: aten.cat.default([c.expand(x.shape[0], *shape), x], axis), [draw.weight(1, *shape)]
    )


@generator("stack.default")
def stack(draw: Draw, shape: Shape) -> Made:
    axis = draw.pick("axis", (1, -1))
    match draw.pick("with", ("value", "itself", "constant")):
        case "value":
            return Made(lambda x, y: aten.stack.default([x, y], axis), arity=2)
        case "itself":
            return Made(lambda x: aten.stack.default([x, x], axis))
    return Made(
        lambda x, c: aten.stack.default([x, c.expand(x.shape[0], *shape)], axis), [draw.weight(1, *shape)]
    )


simple(
    "chunk.default", lambda x: (lambda parts: parts[0] - 2 * parts[-1])((torch.cat([x, -x], 1)).chunk(2, 1))
)
simple("split.Tensor", lambda x: torch.cat(x.split(1, -1)[::-1], -1))
simple("unbind.int", lambda x: x.unbind(-1)[0])


# Activations.

for _call in (
    aten.relu, aten.abs, aten.sigmoid, aten.tanh, aten.atan, aten.arctan, aten.selu, aten.silu, aten.hardswish,
    aten.exp, aten.square, aten.relu6, aten.hardsigmoid,
):  # fmt: skip
    simple(str(_call.default)[5:], _call.default)


def _stretched(draw: Draw, call: Callable[[Tensor], Tensor]) -> Made:
    """The function of the value times a number, so that its bends are met."""
    scale = draw.pick("stretch", (1.0, 1.0, 4.0, 20.0, 0.01))
    return Made(call if scale == 1 else lambda x: call(x * scale))


@generator("leaky_relu.default")
def leaky_relu(draw: Draw, shape: Shape) -> Made:
    slope = draw.number("slope")
    return Made(lambda x: aten.leaky_relu.default(x, slope))


@generator("prelu.default")
def prelu(draw: Draw, shape: Shape) -> Made:
    size = draw.pick("weights", (1, shape[0]))
    return Made(aten.prelu.default, [draw.weight(size)])


@generator("softplus.default")
def softplus(draw: Draw, shape: Shape) -> Made:
    beta = draw.pick("beta", (1, 3.0, 0.1, 100.0, -1.0, -3.0))
    threshold = draw.pick("threshold", (20, 20, 1.0, 0.7, 0, -2.0))
    return _stretched(draw, lambda x: aten.softplus.default(x, beta, threshold))


@generator("elu.default")
def elu(draw: Draw, shape: Shape) -> Made:
    alpha = draw.pick("alpha", (1, 0.5, 2.0, 0.0, -1.0, 30.0))
    scale, input_scale = (
        draw.pick("scale", (1, 1, 2.0, -1.0, 0.0)),
        draw.pick("input_scale", (1, 1, 2.0, 0.5)),
    )
    return _stretched(draw, lambda x: aten.elu.default(x, alpha, scale, input_scale))


@generator("gelu.default")
def gelu(draw: Draw, shape: Shape) -> Made:
    approximate = draw.pick("approximate", ("none", "tanh"))
    return _stretched(draw, lambda x: aten.gelu.default(x, approximate=approximate))


@generator("hardtanh.default")
def hardtanh(draw: Draw, shape: Shape) -> Made:
    low, high = draw.pick(
        "range", ((-1.0, 1.0), (-0.5, 0.3), (0.0, 0.0), (0.2, 0.4), (-1e6, 1e6), (-2.0, -1.0))
    )
    return Made(lambda x: aten.hardtanh.default(x, low, high))


@generator("clamp.default")
def clamp(draw: Draw, shape: Shape) -> Made:
    ends = ((-0.4, 0.6), (None, 0.2), (-0.2, None), (0.5, -0.5), (0.1, 0.1), (-1e6, 1e6), (0, None), (0, 1))
    low, high = draw.pick("range", ends)
    return Made(lambda x: aten.clamp.default(x, low, high))


@generator("clamp_min.default")
def clamp_min(draw: Draw, shape: Shape) -> Made:
    end = draw.number("min")
    return Made(lambda x: aten.clamp_min.default(x, end))


@generator("clamp_max.default")
def clamp_max(draw: Draw, shape: Shape) -> Made:
    end = draw.number("max")
    return Made(lambda x: aten.clamp_max.default(x, end))


def _in_domain(call: Callable[[Tensor], Tensor], negative: bool, draw: Draw, shape: Shape) -> Made:
    """The function of what is positive by construction; in one of six cases of anything."""
    offset = draw.pick("offset", (0.1, 1.0, 1e-3))
    sign = draw.pick("sign", (1, -1)) if negative else 1
    match draw.pick("of", ("sigmoid", "sigmoid", "softplus", "square", "exp", "anything")):
        case "sigmoid":
            return Made(lambda x: call(sign * (torch.sigmoid(x) + offset)))
        case "softplus":
            return Made(lambda x: call(sign * (nn.functional.softplus(x) + offset)))
        case "square":
            return Made(lambda x: call(sign * (x.square() + offset)))
        case "exp":
            return Made(lambda x: call(sign * (torch.tanh(x).exp() + offset)))
    return Made(lambda x: call(x + sign * 3 * offset))


for _call in (aten.reciprocal, aten.sqrt, aten.log):
    GENERATORS[str(_call.default)[5:]] = Generator(
        partial(_in_domain, _call.default, _call is aten.reciprocal)
    )


@generator("pow.Tensor_Scalar")
def power(draw: Draw, shape: Shape) -> Made:
    exponent = draw.pick("exponent", (2, 2.0, 1, 0.5, 3))
    return Made(lambda x: aten.pow.Tensor_Scalar(x, exponent))


# Parts of the search space, mixtures by softmax(α) among them.


def _part(draw: Draw, module: nn.Module, call: Callable[..., Tensor] | None = None) -> Made:
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                drawn = draw.weight(*tensor.shape, fan=tensor[0].numel() if tensor.dim() > 1 else 1)
                tensor.copy_(drawn.square() + 0.125 if name.endswith("running_var") else drawn)
    return Made(call or module, module=module)


@generator("space: operator", (3,))
def space_operator(draw: Draw, shape: Shape) -> Made:
    name = draw.pick("operator", list(OPS))
    stride = draw.pick("stride", (1, 2))
    return _part(draw, OPS[name](shape[0], stride, draw.pick("affine", (True, False))))


@generator("space: reduction", (3,))
def space_reduction(draw: Draw, shape: Shape) -> Made:
    return _part(draw, FactorizedReduce(shape[0], draw.pick("out", (2, 4))))


class _Mixture(nn.Module):
    """A mixed edge with α of its own."""

    def __init__(self, edge: MixedEdge) -> None:
        super().__init__()
        self.edge, self.alpha = edge, nn.Parameter(torch.zeros(len(edge.operators)))

    def forward(self, x: Tensor) -> Tensor:
        return self.edge(x, self.alpha.softmax(0).unbind(0))


@generator("space: mixed edge", (3,))
def space_mixture(draw: Draw, shape: Shape) -> Made:
    even = [name for name in OPS if name != "skip_connect" or shape[0] % 2 == 0]
    names = draw.random.sample(even, 3)
    draw.told.append(f"operators={names}")
    partial_ = draw.pick("partial", (1, 2) if shape[0] % 4 == 0 else (1,))
    return _part(draw, _Mixture(MixedEdge(names, shape[0], draw.pick("stride", (1, 2)), partial_)))


def named(target: Any) -> str:
    """An operator as the tables here name it: without its namespace."""
    return str(target).removeprefix("aten.")


def by_default(target: Any) -> Generator | None:
    """A generator for an operator that needs one tensor and nothing else; None for others."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return None
    needed = [argument for argument in schema.arguments if not argument.has_default_value()]
    if len(needed) != 1 or str(needed[0].type) != "Tensor":
        return None
    return Generator(lambda draw, shape: Made(target))


def every_generator() -> tuple[dict[str, Generator], list[str]]:
    """A generator for each registered operator and each part of the space, and the operators that have none."""
    found, missing = dict(GENERATORS), []
    for target in (*REGISTERED, *COMPOSED):
        if named(target) not in found:
            default = by_default(target)
            if default is None:
                missing.append(named(target))
            else:
                found[named(target)] = default
    return found, sorted(missing)


simple("softmax.int", lambda x: aten.softmax.int(x, -1))
simple("_softmax.default", lambda x: aten._softmax.default(x, -1, False))
simple("log_softmax.int", lambda x: aten.log_softmax.int(x, -1))
simple("_log_softmax.default", lambda x: aten._log_softmax.default(x, -1, False))
simple("bmm.default", lambda x, y: aten.bmm.default(x, y.transpose(-1, -2)), (2,), arity=2)
simple("einsum.default", lambda x, y: aten.einsum.default("nik,njk->nij", [x, y]), (2,), arity=2)
simple("layer_norm.default", lambda x: aten.layer_norm.default(x, [x.shape[-1]]))
simple("amax.default", lambda x: aten.amax.default(x, [-1], True))
simple("amin.default", lambda x: aten.amin.default(x, [-1], True))
simple("max.dim", lambda x: aten.max.dim(x, -1, True)[0])
simple("min.dim", lambda x: aten.min.dim(x, -1, True)[0])
simple("maximum.default", aten.maximum.default, arity=2)
simple("minimum.default", aten.minimum.default, arity=2)
simple("max.other", aten.max.other, arity=2)
simple("min.other", aten.min.other, arity=2)
