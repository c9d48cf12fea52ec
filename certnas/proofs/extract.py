"""A traced network as the checker's: plain arrays and the checker's few operators, each traced operator one or two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

import bounds
from bounds.graph import Call, Ref
from bounds.ops.movement import IDENTITIES, RESHAPES, SELECTIONS
from certnas.checker import Network, Unsupported
from certnas.errors import UserError

aten = torch.ops.aten
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Plain:
    """The checker's network, and the id in it of every traced node."""

    network: Network
    ids: Mapping[str, str]


@dataclass(frozen=True)
class _Reading:
    """One traced node on its way: `call` with its constants, `operands` by their ids."""

    network: Network
    call: Call
    operands: tuple[str, ...]

    @property
    def shape(self) -> Shape:
        return self.call.shape

    @property
    def source(self) -> Shape:
        return self.call.shapes[0]

    def add(self, op: str, shape: Shape | None = None, **arrays: np.ndarray) -> str:
        return self.network.add(op, self.operands, self.shape if shape is None else shape, arrays)

    def reshaped(self) -> str:
        return self.add("select", index=np.arange(prod(self.shape)).reshape(self.shape))

    def then(self, operand: str) -> _Reading:
        return _Reading(self.network, self.call, (operand,))

    def scale(self, gamma: Any = 1.0, beta: Any = 0.0, divisor: Any = 1.0, **norm: np.ndarray | float) -> str:
        """γ (x − mean) / (divisor √(variance + eps)) + β with constants that broadcast over the batch and the shape."""
        given = {"gamma": gamma, "beta": beta, "divisor": divisor, "mean": 0.0, "variance": 1.0, "eps": 0.0}
        arrays = {name: self._constant(value) for name, value in (given | norm).items()}
        return self.network.add("scale", self.operands, self.shape, arrays)

    def _constant(self, value: Any) -> np.ndarray:
        constant = array(value)
        while constant.ndim > len(self.shape):
            constant = constant[0]
        return constant.reshape(*[1] * (len(self.shape) - constant.ndim), *constant.shape)


def plain(network: bounds.Network) -> Plain:
    """The checker's network of a traced one, in float64.  Raises UserError for an operator that the checker lacks."""
    network = network.to(torch.float64)
    graph = network.graph
    made = Network(graph.input_shape)
    ids = {graph.input: made.input}
    for node in graph.nodes.values():
        call = network.call(node)
        rule = RULES.get(node.target)
        if rule is None:
            raise UserError(f"no certificate can be written or checked: the checker knows no {node.where()}")
        try:
            reading = _Reading(made, call, tuple(ids[name] for name in node.operands))
            ids[node.name] = rule(reading)
        except Unsupported as error:
            raise UserError(
                f"no certificate can be written or checked for {node.where()}: {error}"
            ) from error
    made.output = ids[graph.output]
    return Plain(made, ids)


def array(value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        return value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=np.float64)


def _linear(r: _Reading) -> str:
    weight, bias = array(r.call["weight"]), r.call["bias"]
    return _dense(r, weight, np.zeros(len(weight)) if bias is None else array(bias))


def _dense(r: _Reading, weight: np.ndarray, bias: np.ndarray) -> str:
    if len(r.source) != 1:
        raise Unsupported("a linear layer on more than one axis")
    return r.add("linear", weight=weight[None], bias=bias[None, :, None])


def _product(r: _Reading) -> str:
    """x @ matrix as a linear layer."""
    names = [name for name in ("self", "other", "mat2") if name in r.call.node.arguments]
    left, right = (r.call[name] for name in names)
    if left is not None or right.dim() != 2:
        raise Unsupported("a product whose right factor is not one constant matrix")
    weight = array(right).T
    return _dense(r, weight, np.zeros(len(weight)))


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return int(values[0]), int(values[-1])


def _conv(r: _Reading) -> str:
    call, weight = r.call, array(r.call["weight"])
    stride, dilation, padding = _pair(call["stride"]), _pair(call["dilation"]), call["padding"]
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        pads = tuple(p for t in total for p in (t // 2, t - t // 2))
    else:
        pads = tuple(p for p in ((0, 0) if padding == "valid" else _pair(padding)) for _ in range(2))
    bias = np.zeros(len(weight)) if call["bias"] is None else array(call["bias"])
    return _windows(r, r.operands, r.shape, weight, bias, stride, dilation, pads, int(call["groups"]))


def _windows(
    r: _Reading,
    operands: tuple[str, ...],
    shape: Shape,
    weight: np.ndarray,
    bias: np.ndarray,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: Shape,
    groups: int,
) -> str:
    """A convolution as windows, [groups, i·kh·kw, oh, ow] of the image, times a matrix."""
    (channels, height, width), (out, each, *kernel) = r.source, weight.shape
    flat = _places((height, width), shape[1:], _pair(kernel), stride, dilation, (pads[0], pads[2]))
    first = np.arange(channels)[:, None, None, None] * height * width
    index = np.where(flat < 0, -1, flat + first).transpose(0, 3, 1, 2).reshape(groups, -1, *shape[1:])
    seen = r.network.add("select", operands, index.shape, {"index": index})
    matrix = weight.reshape(groups, out // groups, each * prod(kernel))
    arrays = {"weight": matrix, "bias": bias.reshape(groups, -1, 1)}
    return r.network.add("linear", (seen,), shape, arrays)


def _places(
    size: Shape,
    out: Shape,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
) -> np.ndarray:
    """The pixel that each place of each window reads, −1 where it is padding.  [oh, ow, kh·kw]"""
    (height, width), (oh, ow) = size, out
    rows, columns = (
        np.arange(o)[:, None] * s - p + np.arange(k)[None] * d
        for o, s, p, k, d in zip(out, stride, padding, kernel, dilation, strict=True)
    )
    y, x = rows[:, None, :, None], columns[None, :, None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return np.where(inside, y * width + x, -1).reshape(oh, ow, -1)


def _summed_windows(r: _Reading, shape: Shape, kernel: tuple[int, int], **where: Any) -> str:
    """The sum over every window, channel by channel."""
    channels = r.source[0]
    weight = np.ones((channels, 1, *kernel))
    settings = {"stride": (1, 1), "pads": (0, 0, 0, 0)} | where
    return _windows(
        r, r.operands, shape, weight, np.zeros(channels), dilation=(1, 1), groups=channels, **settings
    )


def _average(r: _Reading) -> str:
    """Sums of windows divided by their sizes, which the operator itself gives: the average of ones, and of their
    number."""
    call, (h, w), (oh, ow) = r.call, r.source[1:], r.shape[1:]
    kernel, padding = _pair(call["kernel_size"]), _pair(call["padding"])
    stride = _pair(call["stride"]) if call["stride"] else kernel
    far = [
        max(p, (o - 1) * s + k - n - p)
        for p, o, s, k, n in zip(padding, (oh, ow), stride, kernel, (h, w), strict=True)
    ]
    summed = _summed_windows(r, r.shape, kernel, stride=stride, pads=(padding[0], far[0], padding[1], far[1]))
    if call["divisor_override"] is not None:
        return r.then(summed).scale(divisor=float(call["divisor_override"]))
    edges = [
        _counts(n, o, k, s, p, bool(call["count_include_pad"]))
        for n, o, k, s, p in zip((h, w), (oh, ow), kernel, stride, padding, strict=True)
    ]
    return r.then(summed).scale(divisor=np.outer(*edges)[None])


def _counts(size: int, out: int, kernel: int, stride: int, padding: int, include: bool) -> np.ndarray:
    """How many places of each window count along one axis."""
    first = np.arange(out) * stride - padding
    last = np.minimum(first + kernel, size + padding)
    return (last - first if include else np.minimum(last, size) - np.maximum(first, 0)).astype(float)


def _mean_of_all(r: _Reading) -> str:
    """The average over the whole image, by adaptive pooling to one place or a mean over the last two axes."""
    if len(r.source) != 3:
        raise Unsupported("an average over axes other than height and width")
    channels, *kernel = r.source
    summed = _summed_windows(r, (channels, 1, 1), _pair(kernel))
    mean = r.network.add("scale", (summed,), (channels, 1, 1), _divided(prod(kernel)))
    return mean if r.shape == (channels, 1, 1) else r.then(mean).reshaped()


def _divided(count: int) -> dict[str, np.ndarray]:
    values = {"gamma": 1, "mean": 0, "divisor": count, "variance": 1, "eps": 0, "beta": 0}
    return {name: np.full((1, 1, 1), float(value)) for name, value in values.items()}


def _adaptive(r: _Reading) -> str:
    if r.shape == r.source:
        return r.operands[0]
    if r.shape[1:] == (1, 1):
        return _mean_of_all(r)
    if any(n % o for n, o in zip(r.source[1:], r.shape[1:], strict=True)):
        raise Unsupported("adaptive pooling to a size that does not divide the image")
    kernel = _pair([n // o for n, o in zip(r.source[1:], r.shape[1:], strict=True)])
    summed = _summed_windows(r, r.shape, kernel, stride=kernel)
    return r.then(summed).scale(divisor=float(prod(kernel)))


def _mean(r: _Reading) -> str:
    rank = len(r.source) + 1
    axes = sorted(d % rank for d in r.call["dim"])
    if axes != [2, 3] or rank != 4:
        raise Unsupported("a mean over axes other than height and width")
    return _mean_of_all(r)


def _batch_norm(r: _Reading) -> str:
    call, channels = r.call, r.shape[0]
    given = [call["weight"], call["bias"], call["running_mean"], call["running_var"]]
    columns = [
        np.full(channels, other) if value is None else array(value)
        for value, other in zip(given, (1.0, 0.0, 0.0, 1.0), strict=True)
    ]
    gamma, beta, mean, variance = (c.reshape(-1, *[1] * (len(r.shape) - 1)) for c in columns)
    return r.scale(gamma, beta, mean=mean, variance=variance, eps=float(call["eps"]))


def _constant_of(r: _Reading) -> tuple[Any, bool]:
    """The constant operand and whether it stands on the left; (None, False) where both are perturbed."""
    arguments = r.call.node.arguments
    own = [r.call.is_operand(arguments[key]) for key in ("self", "other")]
    if all(own):
        return None, False
    return (r.call["other"], False) if own[0] else (r.call["self"], True)


def _times(r: _Reading) -> str:
    constant, _ = _constant_of(r)
    if constant is None or r.shape != r.source:
        raise Unsupported("a product of two perturbed tensors, or one that broadcasts them")
    return r.scale(constant)


def _over(r: _Reading) -> str:
    constant, left = _constant_of(r)
    if constant is None or left or r.shape != r.source:
        raise Unsupported("a quotient by a perturbed tensor")
    return r.scale(divisor=constant)


def _sum(sign: float, mine: float = 1.0) -> Callable[[_Reading], str]:
    """mine·self + sign·alpha·other."""

    def rule(r: _Reading) -> str:
        alpha = float(r.call["alpha"]) if "alpha" in r.call.node.arguments else 1.0
        factors = (mine * (alpha if mine < 0 else 1), sign * (alpha if mine > 0 else 1))
        constant, left = _constant_of(r)
        if any(shape != r.shape for shape in r.call.shapes):
            raise Unsupported("a sum that broadcasts a perturbed tensor")
        if constant is not None:
            own, other = factors[::-1] if left else factors
            return r.scale(gamma=own, beta=array(constant) * other)
        both = r.operands if len(r.operands) == 2 else r.operands * 2
        scaled = [
            o if f == 1 else _Reading(r.network, r.call, (o,)).scale(gamma=f)
            for o, f in zip(both, factors, strict=True)
        ]
        return r.network.add("add", tuple(scaled), r.shape, {})

    return rule


def _cat(r: _Reading) -> str:
    """The sum of the pieces, each in its place among zeros."""
    ids = dict(zip(r.call.node.operands, zip(r.operands, r.call.shapes, strict=True), strict=True))
    items = r.call.node.arguments["tensors"]
    if not all(isinstance(item, Ref) and item.name in ids for item in items):
        raise Unsupported("a concatenation with a constant")
    axis = r.call["dim"] % (len(r.shape) + 1) - 1
    pieces, start = [], 0
    for operand, shape in (ids[item.name] for item in items):
        index = np.full(r.shape, -1)
        index.swapaxes(0, axis)[start : start + shape[axis]] = (
            np.arange(prod(shape)).reshape(shape).swapaxes(0, axis)
        )
        pieces.append(r.network.add("select", (operand,), r.shape, {"index": index}))
        start += shape[axis]
    return pieces[0] if len(pieces) == 1 else r.network.add("add", tuple(pieces), r.shape, {})


def _select(r: _Reading) -> str:
    """Whatever only moves units about is an index, found by moving the units' numbers; 0 stands for padding."""
    numbers = torch.arange(1, prod(r.source) + 1, dtype=torch.float64).reshape(1, *r.source)
    index = r.call.apply(numbers)[0].long().numpy() - 1
    return r.add("select", index=index)


def _pad(r: _Reading) -> str:
    if r.call["value"] not in (None, 0, 0.0):
        raise Unsupported("padding by a number other than zero")
    return _select(r)


def _piecewise(*kinks: float) -> Callable[..., Callable[[_Reading], str]]:
    def of(*slopes: float, value: float = 0.0) -> Callable[[_Reading], str]:
        arrays = {"kinks": np.array(kinks), "slopes": np.array(slopes), "value": np.array(value)}
        return lambda r: r.network.add("piecewise", r.operands, r.shape, arrays)

    return of


def _leaky(r: _Reading) -> str:
    return _piecewise(0.0)(float(r.call["negative_slope"]), 1.0)(r)


def _clamped(low: str, high: str) -> Callable[[_Reading], str]:
    def rule(r: _Reading) -> str:
        ends = [None if name is None or r.call[name] is None else float(r.call[name]) for name in (low, high)]
        if ends[0] is None or ends[1] is None or not ends[0] < ends[1]:
            raise Unsupported("a clamp with one side open or none inside")
        return _piecewise(ends[0], ends[1])(0.0, 1.0, 0.0, value=ends[0])(r)

    return rule


def _max_pool(r: _Reading) -> str:
    """Windows as indices [C, oh, ow, k] of the operand, −1 where they hold padding."""
    call, (channels, h, w), (_, oh, ow) = r.call, r.source, r.shape
    kernel, padding, dilation = (_pair(call[key]) for key in ("kernel_size", "padding", "dilation"))
    stride = _pair(call["stride"]) if call["stride"] else kernel
    flat = _places((h, w), (oh, ow), kernel, stride, dilation, padding)
    first = np.arange(channels)[:, None, None, None] * h * w
    return r.add("max", index=np.where(flat < 0, -1, flat + first))


def _same(r: _Reading) -> str:
    return r.operands[0]


RULES: dict[Any, Callable[[_Reading], str]] = {
    aten.linear.default: _linear,
    aten.matmul.default: _product,
    aten.mm.default: _product,
    aten.conv2d.default: _conv,
    aten.conv2d.padding: _conv,
    aten.batch_norm.default: _batch_norm,
    aten.avg_pool2d.default: _average,
    aten.adaptive_avg_pool2d.default: _adaptive,
    aten.mean.dim: _mean,
    aten.add.Tensor: _sum(1.0),
    aten.add.Scalar: _sum(1.0),
    aten.sub.Tensor: _sum(-1.0),
    aten.sub.Scalar: _sum(-1.0),
    aten.rsub.Scalar: _sum(1.0, mine=-1.0),
    aten.neg.default: lambda r: r.scale(gamma=-1.0),
    aten.mul.Tensor: _times,
    aten.mul.Scalar: _times,
    aten.div.Tensor: _over,
    aten.div.Scalar: _over,
    aten.cat.default: _cat,
    aten.constant_pad_nd.default: _pad,
    aten.pad.default: _pad,
    **dict.fromkeys(RESHAPES, lambda r: r.reshaped()),
    **dict.fromkeys(SELECTIONS, _select),
    **dict.fromkeys(IDENTITIES, _same),
    aten.relu.default: _piecewise(0.0)(0.0, 1.0),
    aten.leaky_relu.default: _leaky,
    aten.abs.default: _piecewise(0.0)(-1.0, 1.0),
    aten.relu6.default: _piecewise(0.0, 6.0)(0.0, 1.0, 0.0),
    aten.hardtanh.default: _clamped("min_val", "max_val"),
    aten.clamp.default: _clamped("min", "max"),
    aten.sigmoid.default: lambda r: r.add("sigmoid"),
    aten.tanh.default: lambda r: r.add("tanh"),
    aten.max_pool2d.default: _max_pool,
}
