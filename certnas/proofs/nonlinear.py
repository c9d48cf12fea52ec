"""Reads nonlinear operators: piecewise linear functions, sigmoid, tanh, and max pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from certnas.checker import Unsupported
from certnas.proofs.reading import Reading, Rule
from certnas.proofs.windows import pair, places

aten = torch.ops.aten


def _piecewise(*kinks: float) -> Callable[..., Callable[[Reading], str]]:
    def of(*slopes: float, value: float = 0.0) -> Callable[[Reading], str]:
        arrays = {"kinks": np.array(kinks), "slopes": np.array(slopes), "value": np.array(value)}
        return lambda r: r.network.add("piecewise", r.operands, r.shape, arrays)

    return of


def _leaky(r: Reading) -> str:
    return _piecewise(0.0)(float(r.call["negative_slope"]), 1.0)(r)


def _clamped(low: str, high: str) -> Callable[[Reading], str]:
    def rule(r: Reading) -> str:
        ends = [None if name is None or r.call[name] is None else float(r.call[name]) for name in (low, high)]
        if ends[0] is None or ends[1] is None or not ends[0] < ends[1]:
            raise Unsupported("a clamp with one side open or none inside")
        return _piecewise(ends[0], ends[1])(0.0, 1.0, 0.0, value=ends[0])(r)

    return rule


def _max_pool(r: Reading) -> str:
    """Reads max pooling as windows of indices [C, oh, ow, k] into the operand, −1 for padding."""
    call, (channels, h, w), (_, oh, ow) = r.call, r.source, r.shape
    kernel, padding, dilation = (pair(call[key]) for key in ("kernel_size", "padding", "dilation"))
    stride = pair(call["stride"]) if call["stride"] else kernel
    flat = places((h, w), (oh, ow), kernel, stride, dilation, padding)
    first = np.arange(channels)[:, None, None, None] * h * w
    return r.add("max", index=np.where(flat < 0, -1, flat + first))


RULES: dict[Any, Rule] = {
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
