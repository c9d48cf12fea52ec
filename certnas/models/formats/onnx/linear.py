"""ONNX's linear layers: convolutions, matrix products, batch normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from certnas.models.formats.onnx.site import Site, Step
from certnas.models.formats.onnx.window import Window, window

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def _conv(site: Site) -> Step:
    kernel = site.shape(1)[2:]
    geometry = window(site, kernel)
    convolve = _rank(site, _CONV, len(kernel))
    settings: dict[str, Any] = {
        "stride": geometry.strides,
        "dilation": geometry.dilations,
        "groups": site.attributes.get("group", 1),
    }
    if geometry.symmetric:
        settings["padding"] = geometry.before
        return Step(lambda x, *weights: convolve(x, *weights, **settings), site.present(3))
    pad = geometry.for_pad()
    return Step(lambda x, *weights: convolve(F.pad(x, pad), *weights, **settings), site.present(3))


def _conv_transpose(site: Site) -> Step:
    kernel = site.shape(1)[2:]
    convolve = _rank(site, _TRANSPOSED, len(kernel))
    geometry = _transposed_window(site, kernel)
    extra = tuple(site.ints("output_padding") or [0] * len(kernel))
    # the full result is cut at both ends; what the far end keeps more than the near one is output padding
    cut = tuple(min(a, b) for a, b in zip(geometry.before, geometry.after, strict=True))
    lengths = [
        stride * (size - 1) + more + reach - a - b
        for stride, size, more, reach, a, b in zip(
            geometry.strides, site.shape()[2:], extra, geometry.reach, geometry.before, geometry.after, strict=True
        )
    ]  # fmt: skip
    starts = [a - c for a, c in zip(geometry.before, cut, strict=True)]
    settings: dict[str, Any] = {
        "stride": geometry.strides,
        "dilation": geometry.dilations,
        "padding": cut,
        "output_padding": extra,
        "groups": site.attributes.get("group", 1),
    }

    def apply(x: Tensor, *weights: Tensor) -> Tensor:
        y = convolve(x, *weights, **settings)
        for axis, (start, length) in enumerate(zip(starts, lengths, strict=True), start=2):
            if start or length != y.shape[axis]:
                y = y.narrow(axis, start, length)
        return y

    return Step(apply, site.present(3))


def _transposed_window(site: Site, kernel: tuple[int, ...]) -> Window:
    if site.attributes.get("output_shape") or site.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise site.refuse("output_shape and auto_pad are not supported; export with explicit pads")
    return window(site, kernel)


def _rank(site: Site, table: dict[int, Callable[..., Tensor]], rank: int) -> Callable[..., Tensor]:
    if rank not in table or len(site.shape()) != rank + 2:
        raise site.refuse(f"input {list(site.shape())} with a kernel of {rank} dimensions")
    return table[rank]


def _gemm(site: Site) -> Step:
    """alpha·A·B + beta·C with A and B transposed at will."""
    alpha, beta = site.attributes.get("alpha", 1.0), site.attributes.get("beta", 1.0)
    left, right = bool(site.attributes.get("transA", 0)), bool(site.attributes.get("transB", 0))
    if left and site.computed(0):
        raise site.refuse("transposes a batch of images (transA)")
    if len(site.shape(0)) != 2 or len(site.shape(1)) != 2:
        raise site.refuse("takes two matrices")
    vector = site.has(2) and len(site.shape(2)) == 1 and beta == 1 and site.computed(0)

    def apply(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a = a.t() if left else a
        weight = b if right else b.t()
        weight = weight if alpha == 1 else weight * alpha
        if vector:
            return F.linear(a, weight, c)
        y = F.linear(a, weight)
        return y if c is None else y + (c if beta == 1 else c * beta)

    return Step(apply, site.present(3))


def _matmul(site: Site) -> Step:
    if site.computed(1) and not site.computed(0) and len(site.shape(1)) < 3:
        raise site.refuse("mixes the images of a batch")
    return Step(torch.matmul, (0, 1))


def _batch_norm(site: Site) -> Step:
    if site.attributes.get("training_mode", 0) or not site.attributes.get("spatial", 1):
        raise site.refuse("is in training mode or per unit; export the network in evaluation mode")
    epsilon = site.attributes.get("epsilon", 1e-5)

    def apply(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return F.batch_norm(x, mean, variance, scale, bias, training=False, eps=epsilon)

    for i in range(1, 5):
        site.constant(i)
    return Step(apply, (0, 1, 2, 3, 4))


LINEAR: dict[str, Callable[[Site], Step]] = {
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
