"""Importers of ONNX's linear layers: convolutions, matrix products, normalisations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from certnas.models.formats.onnx.site import Site, Step
from certnas.models.formats.onnx.window import PoolingWindow, window

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
    geometry, extra = _transposed_window(site, kernel)
    # the full result is cropped at both ends; the output padding is what the far end keeps beyond the near one
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


def _transposed_window(site: Site, kernel: tuple[int, ...]) -> tuple[PoolingWindow, tuple[int, ...]]:
    """The window and the output padding. Pads by auto_pad or output_shape follow from the output's size."""
    n, auto = len(kernel), site.attributes.get("auto_pad", b"NOTSET").decode()
    extra, wanted = tuple(site.ints("output_padding") or [0] * n), site.ints("output_shape")
    plain = replace(site, attributes={**site.attributes, "auto_pad": b"NOTSET"})
    geometry = window(plain, kernel)
    if wanted is None and auto in ("NOTSET", "VALID"):
        zero = (0,) * n
        return (replace(geometry, before=zero, after=zero) if auto == "VALID" else geometry), extra
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise site.refuse(f"auto_pad {auto}")
    sizes = site.shape()[2:]
    if wanted is None:
        wanted = [size * stride for size, stride in zip(sizes, geometry.strides, strict=True)]
    if len(wanted) != n:
        raise site.refuse(f"output_shape {wanted} for a kernel of {n} dimensions")
    total = [
        stride * (size - 1) + more + reach - length
        for stride, size, more, reach, length in zip(
            geometry.strides, sizes, extra, geometry.reach, wanted, strict=True
        )
    ]
    if min(total) < 0:
        raise site.refuse(f"output_shape {wanted} is larger than what the window covers")
    less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    before, after = (less, more) if auto == "SAME_UPPER" else (more, less)
    return replace(geometry, before=before, after=after), extra


def _rank(site: Site, table: dict[int, Callable[..., Tensor]], rank: int) -> Callable[..., Tensor]:
    if rank not in table or len(site.shape()) != rank + 2:
        raise site.refuse(f"input {list(site.shape())} with a kernel of {rank} dimensions")
    return table[rank]


def _gemm(site: Site) -> Step:
    """alpha·A·B + beta·C, with A and B optionally transposed."""
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


def _einsum(site: Site) -> Step:
    equation = site.attributes.get("equation", b"").decode()
    return Step(lambda *x: torch.einsum(equation, *x), site.present(len(site.inputs)))


def _layer_norm(site: Site) -> Step:
    """Normalisation over the axes from `axis` on; scale and bias broadcast to them."""
    axis = site.axis(site.attributes.get("axis", -1))
    epsilon = site.attributes.get("epsilon", 1e-5)
    if site.attributes["outputs"] > 1:
        raise site.refuse("names its mean or deviation; accepted: the normalised tensor only")
    shape = site.shape()[axis:]

    def apply(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        given = None if bias is None else bias.expand(shape)
        return F.layer_norm(x, shape, scale.expand(shape), given, epsilon)

    for i in range(1, len(site.inputs)):
        site.constant(i)
    return Step(apply, site.present(3))


LINEAR: dict[str, Callable[[Site], Step]] = {
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
}
