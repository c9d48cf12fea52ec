"""Interval arithmetic's bound of each image's least row, with derivatives without spikes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from certnas import bounds
from certnas.bounds.extend import BoundState, interval_bounds


@dataclass(frozen=True)
class LeastRow(bounds.IBP):
    """Interval arithmetic's bounds of rows; with `hardest` that of each image's least row alone, [N,1].

    Rows are compared without derivatives, and share their intervals.  steady: the derivative is without spikes, see
    `steadied`.
    """

    hardest: bool
    steady: bool

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        read = steadied if self.steady else bounds.Interval.overflow_as_infinite
        state.derive(interval_bounds(state, state.facts.tail_ends, read))
        if self.hardest:
            with torch.no_grad():
                every = state.lower_bounds_by_intervals(coef)
            coef = picked(coef, every)
        return state.lower_bounds_by_intervals(coef)


def picked(rows: Tensor, lower: Tensor) -> Tensor:
    """The row of the least bound.  rows [n,S,K], lower [n,S] -> [n,1,K]"""
    return rows.gather(1, lower.argmin(1)[:, None, None].expand(-1, 1, rows.shape[2]))


def steadied(interval: bounds.Interval) -> bounds.Interval:
    """The interval as a nonlinear operator sees it, its derivative in the centre limited.

    Where [c − r, c + r] holds 0, the radius that leaves a ReLU has the derivative 1/2 in c, and log ε* one of the
    order 1/r: a spike of any height at the radii of deep networks, which says only that the unit may change its sign.
    It is limited to what changes log ε* by 1 as c moves by the mean size of the image's centres.
    """
    interval = interval.overflow_as_infinite()
    return bounds.Interval.around(*_Steadied.apply(interval.center, interval.radius))


class _Steadied(torch.autograd.Function):
    """c, r unchanged; |∂/∂c| ≤ Σ|r·∂/∂r| / mean|c|, image by image."""

    @staticmethod
    def forward(ctx: Any, center: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(center, radius)
        return center.view_as(center), radius.view_as(radius)

    @staticmethod
    def backward(ctx: Any, of_center: Tensor, of_radius: Tensor) -> tuple[Tensor, Tensor]:
        center, radius = ctx.saved_tensors
        axes = list(range(1, center.dim()))
        share = (of_radius * radius).abs().sum(axes, keepdim=True)
        most = share / center.abs().mean(axes, keepdim=True).clamp(min=torch.finfo(center.dtype).tiny)
        return torch.minimum(torch.maximum(of_center, -most), most), of_radius
