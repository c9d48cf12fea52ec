"""Reads convolutions and average pooling: sums over windows of an image."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch

from certnas.checker import Unsupported
from certnas.proofs.reading import Reading, Rule, Shape, array

aten = torch.ops.aten


def pair(value: Any) -> tuple[int, int]:
    """The values for both axes, from one value or a list."""
    values = [value] if isinstance(value, int) else list(value)
    return int(values[0]), int(values[-1])


def _conv(r: Reading) -> str:
    call, weight = r.call, array(r.call["weight"])
    stride, dilation, padding = pair(call["stride"]), pair(call["dilation"]), call["padding"]
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        pads = tuple(p for t in total for p in (t // 2, t - t // 2))
    else:
        pads = tuple(p for p in ((0, 0) if padding == "valid" else pair(padding)) for _ in range(2))
    bias = np.zeros(len(weight)) if call["bias"] is None else array(call["bias"])
    return _windows(r, r.operands, r.shape, weight, bias, stride, dilation, pads, int(call["groups"]))


def _windows(
    r: Reading,
    operands: tuple[str, ...],
    shape: Shape,
    weight: np.ndarray,
    bias: np.ndarray,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: Shape,
    groups: int,
) -> str:
    """Adds a convolution as windows [groups, i·kh·kw, oh, ow] of the image, times a matrix."""
    (channels, height, width), (out, each, *kernel) = r.source, weight.shape
    flat = places((height, width), shape[1:], pair(kernel), stride, dilation, (pads[0], pads[2]))
    first = np.arange(channels)[:, None, None, None] * height * width
    index = np.where(flat < 0, -1, flat + first).transpose(0, 3, 1, 2).reshape(groups, -1, *shape[1:])
    seen = r.network.add("select", operands, index.shape, {"index": index})
    matrix = weight.reshape(groups, out // groups, each * prod(kernel))
    arrays = {"weight": matrix, "bias": bias.reshape(groups, -1, 1)}
    return r.network.add("linear", (seen,), shape, arrays)


def places(
    size: Shape,
    out: Shape,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
) -> np.ndarray:
    """The pixel at each position of each window, −1 for padding.  [oh, ow, kh·kw]"""
    (height, width), (oh, ow) = size, out
    rows, columns = (
        np.arange(o)[:, None] * s - p + np.arange(k)[None] * d
        for o, s, p, k, d in zip(out, stride, padding, kernel, dilation, strict=True)
    )
    y, x = rows[:, None, :, None], columns[None, :, None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return np.where(inside, y * width + x, -1).reshape(oh, ow, -1)


def _summed_windows(r: Reading, shape: Shape, kernel: tuple[int, int], **where: Any) -> str:
    """Adds the sum over every window of each channel."""
    channels = r.source[0]
    weight = np.ones((channels, 1, *kernel))
    settings = {"stride": (1, 1), "pads": (0, 0, 0, 0)} | where
    return _windows(
        r, r.operands, shape, weight, np.zeros(channels), dilation=(1, 1), groups=channels, **settings
    )


def _average(r: Reading) -> str:
    """Reads average pooling as sums over windows, divided by their sizes."""
    call, (h, w), (oh, ow) = r.call, r.source[1:], r.shape[1:]
    kernel, padding = pair(call["kernel_size"]), pair(call["padding"])
    stride = pair(call["stride"]) if call["stride"] else kernel
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
    """The number of positions of each window that count, along one axis."""
    first = np.arange(out) * stride - padding
    last = np.minimum(first + kernel, size + padding)
    return (last - first if include else np.minimum(last, size) - np.maximum(first, 0)).astype(float)


def _mean_of_all(r: Reading) -> str:
    """Reads the average over the whole image: adaptive pooling to one position, or a mean over the last two axes."""
    if len(r.source) != 3:
        raise Unsupported("an average over axes other than height and width")
    channels, *kernel = r.source
    summed = _summed_windows(r, (channels, 1, 1), pair(kernel))
    mean = r.network.add("scale", (summed,), (channels, 1, 1), _divided(prod(kernel)))
    return mean if r.shape == (channels, 1, 1) else r.then(mean).reshaped()


def _divided(count: int) -> dict[str, np.ndarray]:
    values = {"gamma": 1, "mean": 0, "divisor": count, "variance": 1, "eps": 0, "beta": 0}
    return {name: np.full((1, 1, 1), float(value)) for name, value in values.items()}


def _adaptive(r: Reading) -> str:
    if r.shape == r.source:
        return r.operands[0]
    if r.shape[1:] == (1, 1):
        return _mean_of_all(r)
    if any(n % o for n, o in zip(r.source[1:], r.shape[1:], strict=True)):
        raise Unsupported("adaptive pooling to a size that does not divide the image")
    kernel = pair([n // o for n, o in zip(r.source[1:], r.shape[1:], strict=True)])
    summed = _summed_windows(r, r.shape, kernel, stride=kernel)
    return r.then(summed).scale(divisor=float(prod(kernel)))


def _mean(r: Reading) -> str:
    rank = len(r.source) + 1
    axes = sorted(d % rank for d in r.call["dim"])
    if axes != [2, 3] or rank != 4:
        raise Unsupported("a mean over axes other than height and width")
    return _mean_of_all(r)


RULES: dict[Any, Rule] = {
    aten.conv2d.default: _conv,
    aten.conv2d.padding: _conv,
    aten.avg_pool2d.default: _average,
    aten.adaptive_avg_pool2d.default: _adaptive,
    aten.mean.dim: _mean,
}
