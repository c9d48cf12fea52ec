"""Batch normalisation: the affine map γ(x − μ)/√(σ² + ε) + β, and the statistics of a batch as functions of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def scale_and_shift(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Return γ/√(σ²+ε) and β − μ·γ/√(σ²+ε) of each channel.  All [C].  Equations (6), (7) of the DSRNA paper."""
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    return scale, (shift if bias is None else shift + bias)


def by_channel(values: Tensor, axes: int) -> Tensor:
    """Return [C] as [1, C, 1, …] with `axes` axes, to broadcast against images."""
    return values.reshape(1, -1, *[1] * (axes - 2))


class _Normalised(torch.autograd.Function):
    """(x − μ)/√(σ² + ε), μ and σ² with one joint derivative; one kernel computes all three."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        y, mean, inverse = torch.native_batch_norm(x, None, None, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, mean, inverse)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return y, mean, inverse.pow(-2) - eps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_y: Tensor, of_mean: Tensor, of_variance: Tensor) -> tuple[Tensor, None]:
        x, mean, inverse = ctx.saved_tensors
        count, axes = x.numel() // x.shape[1], x.dim()
        slope = torch.zeros_like(mean) if of_variance is None else of_variance * (2 / count)
        shift = -slope * mean if of_mean is None else of_mean / count - slope * mean
        gradient = torch.addcmul(by_channel(shift, axes), x, by_channel(slope, axes))
        if of_y is not None:
            gradient += torch.ops.aten.native_batch_norm_backward(
                of_y, x, None, None, None, mean, inverse, True, ctx.eps, [True, False, False]
            )[0]
        return gradient, None


def normalised(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return γ(x − μ)/√(σ² + ε) + β, μ [C] and σ² [C], with the batch's own mean and biased variance.  x [N, C, *]

    All three are differentiable once.
    """
    y, mean, variance = _Normalised.apply(x, eps)
    y = y if weight is None else y * by_channel(weight, x.dim())
    return (y if bias is None else y + by_channel(bias, x.dim())), mean, variance
