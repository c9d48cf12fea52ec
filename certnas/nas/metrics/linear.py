"""Layers that autograd treats as linear in their input, so that each derivative costs no more than the layer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Geometry = tuple[Any, Any, Any, int]
"""(stride, padding, dilation, groups)"""


class LinearLayers(TorchFunctionMode):
    """Context in which autograd treats two kinds of layer as linear.

    They are a conv2d with a constant kernel and a batch normalisation by running statistics. torch's second
    derivative of a grouped convolution also computes the kernel's derivative, group by group, even if
    nothing needs it. A depthwise convolution then costs 16 to 64 convolutions instead of one. torch's
    second derivative of a batch normalisation also computes the derivatives of its statistics.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.conv2d and len(args) == 7 and not kwargs:
            x, weight, bias, stride, padding, dilation, groups = args
            if bias is None and not weight.requires_grad and not isinstance(padding, str):
                return _Convolved.apply(x, weight, (_pair(stride), _pair(padding), _pair(dilation), groups))
        if func is torch.batch_norm and len(args) == 9 and not args[5]:
            return _normalised(*args[:5], eps=args[7])
        return func(*args, **(kwargs or {}))


def _pair(value: int | Sequence[int]) -> list[int]:
    """A setting of a convolution, for height and width."""
    return [value] * 2 if isinstance(value, int) else list(value)


def _normalised(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, *, eps: float
) -> Tensor:
    """γ(x − μ)/√(σ² + ε) + β, computed as one product and one sum."""
    factor = torch.rsqrt(variance + eps)
    factor = factor if weight is None else factor * weight
    shift = -mean * factor if bias is None else bias - mean * factor
    shape = (1, -1, *[1] * (x.dim() - 2))
    return torch.addcmul(shift.reshape(shape), x, factor.reshape(shape))


class _Convolved(torch.autograd.Function):
    """The map x ↦ W∗x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.weight, ctx.geometry, ctx.shape = weight, geometry, x.shape
        return torch.conv2d(x, weight, None, *geometry)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Pulled.apply(gradients[0], ctx.weight, ctx.geometry, ctx.shape), None, None


class _Pulled(torch.autograd.Function):
    """The adjoint map g ↦ Wᵀ∗g."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, weight: Tensor, geometry: Geometry, shape: torch.Size) -> Tensor:
        ctx.weight, ctx.geometry = weight, geometry
        last = g.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        x = torch.empty(
            shape, dtype=g.dtype, device=g.device, memory_format=layout
        )  # the operator reads the shape only
        stride, padding, dilation, groups = geometry
        back = torch.ops.aten.convolution_backward.default
        return back(
            g, x, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, False, False]
        )[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _Convolved.apply(gradients[0], ctx.weight, ctx.geometry), None, None, None
