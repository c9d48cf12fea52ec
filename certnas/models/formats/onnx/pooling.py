"""Importers of ONNX's pools, reductions and interpolations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import ceil, floor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from certnas.models.formats.limits import LARGEST
from certnas.models.formats.onnx.site import Site, Step
from certnas.models.formats.onnx.window import PoolingWindow, window

_MAX: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d}
_AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d}
_GLOBAL: dict[int, Callable[..., Tensor]] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d}


def _geometry(site: Site) -> tuple[PoolingWindow, tuple[int, ...], list[int]]:
    """The window, the image size, and the number of window positions."""
    kernel, sizes = tuple(site.ints("kernel_shape") or []), site.shape()[2:]
    if len(kernel) not in _MAX:
        raise site.refuse(f"kernel {list(kernel)}; accepted: one or two dimensions")
    geometry = window(site, kernel)
    counts = geometry.outputs(sizes, ceil=bool(site.attributes.get("ceil_mode", 0)))
    if min(counts) < 1:
        raise site.refuse(f"kernel {list(kernel)} is larger than the image {list(sizes)}")
    return geometry, sizes, counts


def _max_pool(site: Site) -> Step:
    geometry, sizes, counts = _geometry(site)
    pool = _MAX[len(sizes)]
    settings: dict[str, Any] = {"kernel_size": geometry.kernel, "dilation": geometry.dilations}
    half = [k // 2 for k in geometry.kernel]
    if all(p <= h for p, h in zip(geometry.before, half, strict=True)):
        even = replace(geometry, after=geometry.before)
        for ceil in (False, True):
            if even.outputs(sizes, ceil=ceil) == counts:
                padding = geometry.before
                return Step(
                    partial(pool, stride=geometry.strides, padding=padding, ceil_mode=ceil, **settings)
                )
    # every position of the window; the stride then selects some of them
    padding = tuple(max(a, b) for a, b in zip(geometry.before, geometry.after, strict=True))
    if any(p > h for p, h in zip(padding, half, strict=True)):
        raise site.refuse(f"pads {[*geometry.before, *geometry.after]} of more than half a kernel")
    starts = [p - a for p, a in zip(padding, geometry.before, strict=True)]
    kept = list(zip(starts, counts, geometry.strides, strict=True))
    dense = replace(geometry, strides=(1,) * len(sizes), before=padding, after=padding).outputs(sizes)
    if any(
        start + (count - 1) * stride >= size for (start, count, stride), size in zip(kept, dense, strict=True)
    ):
        raise site.refuse("ceil_mode with these pads")

    def apply(x: Tensor) -> Tensor:
        y = pool(x, stride=1, padding=padding, **settings)
        for axis, (start, count, stride) in enumerate(kept, start=2):
            index = [slice(None)] * axis + [slice(start, start + (count - 1) * stride + 1, stride)]
            y = y[tuple(index)]
        return y

    return Step(apply)


def _average_pool(site: Site) -> Step:
    geometry, sizes, counts = _geometry(site)
    pool, kernel, strides = _AVERAGE[len(sizes)], geometry.kernel, geometry.strides
    counted = bool(site.attributes.get("count_include_pad", 0))
    dilated = any(d != 1 for d in geometry.dilations)
    fits = all(p <= k // 2 for p, k in zip(geometry.before, kernel, strict=True))
    if geometry.symmetric and fits and not dilated and geometry.outputs(sizes) == counts:
        padding = geometry.before
        return Step(lambda x: pool(x, kernel, strides, padding, count_include_pad=counted))
    reached = [(n - 1) * s + r for n, s, r in zip(counts, strides, geometry.reach, strict=True)]
    beyond = tuple(r - size - a for r, size, a in zip(reached, sizes, geometry.before, strict=True))
    pads = replace(geometry, after=beyond).for_pad()
    real = geometry.for_pad() if counted else [0] * len(pads)
    over = partial(_window_sum, geometry) if dilated else partial(pool, kernel_size=kernel, stride=strides)

    def apply(x: Tensor) -> Tensor:
        ones = torch.ones((1, 1, *sizes), dtype=x.dtype, device=x.device)
        # if pads count, exactly the declared padding counts
        ones = F.pad(ones, real, value=1.0)
        rest = [p - r for p, r in zip(pads, real, strict=True)]
        return over(F.pad(x, pads)) / over(F.pad(ones, rest))

    return Step(apply)


def _window_sum(geometry: PoolingWindow, x: Tensor) -> Tensor:
    """The sum over each window without its gaps: a depthwise convolution with ones."""
    channels = x.shape[1]
    weight = torch.ones((channels, 1, *geometry.kernel), dtype=x.dtype, device=x.device)
    convolve = {1: F.conv1d, 2: F.conv2d}[len(geometry.kernel)]
    return convolve(x, weight, None, geometry.strides, 0, geometry.dilations, channels)


def _global_average(site: Site) -> Step:
    n = len(site.shape()) - 2
    if n not in _GLOBAL:
        raise site.refuse(f"input {list(site.shape())}; accepted: one or two spatial dimensions")
    return Step(lambda x: _GLOBAL[n](x, 1))


def _global_max(site: Site) -> Step:
    sizes = site.shape()[2:]
    if len(sizes) not in _MAX:
        raise site.refuse(f"input {list(site.shape())}; accepted: one or two spatial dimensions")
    return Step(lambda x: _MAX[len(sizes)](x, sizes))


def _reduction(function: Callable[..., Tensor]) -> Callable[[Site], Step]:
    def importer(site: Site) -> Step:
        axes, rank = site.ints("axes", 1), len(site.shape())
        keep = bool(site.attributes.get("keepdims", 1))
        if not axes and site.attributes.get("noop_with_empty_axes", 0):
            return Step(lambda x: x)
        chosen = [site.axis(a) for a in axes] if axes else list(range(rank))
        if not axes and site.computed():
            raise site.refuse("sums over the batch dimension; images must stay apart")
        return Step(lambda x: function(x, chosen, keepdim=keep))

    return importer


def _product(site: Site) -> Step:
    if site.computed():
        raise site.refuse("multiplies what depends on the image")
    values = site.constant(0)
    if not bool(site.attributes.get("keepdims", 1)) and values.dim() == 1:
        return Step(torch.prod)
    raise site.refuse("is supported only for the product of a whole list")


def _resize(site: Site) -> Step:
    """Nearest and linear interpolation, for coordinates that torch supports."""
    sizes, before = _new_sizes(site), site.shape()
    if len(before) not in (3, 4) or list(before[:2]) != sizes[:2]:
        raise site.refuse(f"from {list(before)} to {sizes}; accepted: spatial dimensions only")
    site.bounded(sizes)
    new = sizes[2:]
    mode = site.attributes.get("mode", b"nearest").decode()
    where = site.attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    where = "asymmetric" if site.op == "Upsample" or site.opset < 11 else where
    whole = all(b % a == 0 for a, b in zip(before[2:], new, strict=True))
    if mode == "nearest":
        rounding = site.attributes.get("nearest_mode", b"round_prefer_floor").decode()
        rounding = "floor" if site.op == "Upsample" or site.opset < 11 else rounding
        same = where == "asymmetric" and rounding == "floor"
        if whole and (same or (where == "half_pixel" and rounding.startswith("round"))):
            return Step(partial(F.interpolate, size=new, mode="nearest"))
        return _nearest(site, new, where, rounding)
    if mode in ("linear", "bilinear") and where in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        name = {3: "linear", 4: "bilinear"}[len(before)]
        return Step(partial(F.interpolate, size=new, mode=name, align_corners=where == "align_corners"))
    raise site.refuse(f"mode {mode} with {where} coordinates")


_COORDINATES: dict[str, Callable[[float, float, int, int], float]] = {
    "asymmetric": lambda i, scale, size, new: i / scale,
    "half_pixel": lambda i, scale, size, new: (i + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda i, scale, size, new: (i + 0.5) / scale - 0.5 if new > 1 else 0.0,
    "align_corners": lambda i, scale, size, new: i * (size - 1) / (new - 1) if new > 1 else 0.0,
    "half_pixel_symmetric": lambda i, scale, size, new: (
        size / 2 * (1 - new / (scale * size)) + (i + 0.5) / scale - 0.5
    ),
}
"""(pixel i of the new image) -> its coordinate in the old one; `scale` may differ from new / size by
rounding.
"""
_ROUNDING: dict[str, Callable[[float], int]] = {
    "round_prefer_floor": lambda x: ceil(x - 0.5),
    "round_prefer_ceil": lambda x: floor(x + 0.5),
    "floor": floor,
    "ceil": ceil,
}


def _nearest(site: Site, new: list[int], where: str, rounding: str) -> Step:
    """Nearest interpolation: each pixel is a pixel of the old image, selected along each axis separately."""
    if where not in _COORDINATES or rounding not in _ROUNDING:
        raise site.refuse(f"mode nearest with {where} coordinates, rounded by {rounding}")
    sizes = site.shape()[2:]
    given = (
        None if site.has(3) else site.given("scales", 1 if site.op == "Upsample" or site.opset < 11 else 2)
    )
    scales = given[2:] if given else [n / size for n, size in zip(new, sizes, strict=True)]
    places = []
    for size, count, scale in zip(sizes, new, scales, strict=True):
        at = (_COORDINATES[where](i, scale, size, count) for i in range(count))
        places.append([min(max(_ROUNDING[rounding](x), 0), size - 1) for x in at])

    def apply(x: Tensor) -> Tensor:
        for axis, chosen in enumerate(places, start=2):
            x = x.index_select(axis, torch.tensor(chosen, dtype=torch.int64, device=x.device))
        return x

    return Step(apply)


def _new_sizes(site: Site) -> list[int]:
    place = 1 if site.op == "Upsample" or site.opset < 11 else 2
    sizes = site.ints("", 3)
    if sizes:
        return sizes
    scales = site.given("scales", place)
    if not scales or len(scales) != len(site.shape()):
        raise site.refuse("has neither sizes nor scales for every dimension")
    if any(not size * scale < LARGEST for size, scale in zip(site.shape(), scales, strict=True)):
        raise site.refuse(f"scales {scales}")
    return [int(size * scale) for size, scale in zip(site.shape(), scales, strict=True)]


def _depth_to_space(site: Site) -> Step:
    if site.attributes.get("mode", b"DCR") != b"CRD":
        block = int(site.attributes["blocksize"])
        _, c, h, w = site.shape()
        depth = c // (block * block)
        return Step(
            lambda x: (
                x.reshape(x.shape[0], block, block, depth, h, w)
                .permute(0, 3, 4, 1, 5, 2)
                .reshape(x.shape[0], depth, h * block, w * block)
            )
        )
    return Step(partial(F.pixel_shuffle, upscale_factor=int(site.attributes["blocksize"])))


def _total(x: Tensor, axes: list[int], *, keepdim: bool) -> Tensor:
    return x.sum(axes, keepdim=keepdim)


def _mean(x: Tensor, axes: list[int], *, keepdim: bool) -> Tensor:
    return x.mean(axes, keepdim=keepdim)


def _greatest(x: Tensor, axes: list[int], *, keepdim: bool) -> Tensor:
    return x.amax(axes, keepdim=keepdim)


def _least(x: Tensor, axes: list[int], *, keepdim: bool) -> Tensor:
    return x.amin(axes, keepdim=keepdim)


POOLING: dict[str, Callable[[Site], Step]] = {
    "AveragePool": _average_pool,
    "DepthToSpace": _depth_to_space,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "MaxPool": _max_pool,
    "ReduceMax": _reduction(_greatest),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(_least),
    "ReduceProd": _product,
    "ReduceSum": _reduction(_total),
    "Resize": _resize,
    "Upsample": _resize,
}
