"""Batch normalisation by the statistics of a batch, which are handed on as functions of the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Normalised(torch.autograd.Function):
    """(x − μ)/√(σ² + ε), μ, σ², with one derivative; the statistics come out of the kernel that normalises."""

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
        count, shape = x.numel() // x.shape[1], (1, -1, *[1] * (x.dim() - 2))
        slope = torch.zeros_like(mean) if of_variance is None else of_variance * (2 / count)
        shift = -slope * mean if of_mean is None else of_mean / count - slope * mean
        gradient = torch.addcmul(shift.reshape(shape), x, slope.reshape(shape))
        if of_y is not None:
            gradient += torch.ops.aten.native_batch_norm_backward(
                of_y, x, None, None, None, mean, inverse, True, ctx.eps, [True, False, False]
            )[0]
        return gradient, None


def normalised(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """γ(x − μ)/√(σ² + ε) + β, μ [C] and σ² [C], by the batch's own mean and biased variance.  x [N,C,*]

    Differentiable once in all of them.
    """
    y, mean, variance = _Normalised.apply(x, eps)
    shape = (1, -1, *[1] * (x.dim() - 2))
    y = y if weight is None else y * weight.reshape(shape)
    return (y if bias is None else y + bias.reshape(shape)), mean, variance
