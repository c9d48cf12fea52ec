"""The interval bound of each image's hardest specification row, with a derivative free of spikes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from certnas import bounds
from certnas.bounds.extend import BoundState, interval_bounds


@dataclass(frozen=True)
class LeastRow(bounds.IBP):
    """Interval bounds of the specification rows; with `hardest`, of each image's hardest row only, [N,1].

    The hardest row is found without derivatives, and shares the intermediate intervals with the final
    bound.
    """

    hardest: bool
    """True: return the hardest row only."""
    steady: bool
    """True: limit the spikes of the derivative (see `without_spikes`)."""

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        read = without_spikes if self.steady else bounds.Interval.overflow_as_infinite
        state.derive(interval_bounds(state, state.facts.tail_ends, read))
        if self.hardest:
            with torch.no_grad():
                every = state.lower_bounds_by_intervals(coef)
            coef = hardest_row(coef, every)
        return state.lower_bounds_by_intervals(coef)


def hardest_row(rows: Tensor, lower: Tensor) -> Tensor:
    """The row with the smallest lower bound. rows [n,S,K], lower [n,S] -> [n,1,K]"""
    return rows.gather(1, lower.argmin(1)[:, None, None].expand(-1, 1, rows.shape[2]))


def without_spikes(interval: bounds.Interval) -> bounds.Interval:
    """The same interval, with a limited derivative with respect to its centre.

    If [c − r, c + r] contains 0, the radius behind a ReLU has derivative 1/2 in c, and log ε* has a
    derivative of order 1/r. At the radii of deep networks this is an arbitrarily high spike, which only
    says that the unit may change its sign. The derivative is limited so that log ε* changes by 1 when c
    moves by the mean absolute centre of the image.
    """
    interval = interval.overflow_as_infinite()
    return bounds.Interval.around(*_WithoutSpikes.apply(interval.center, interval.radius))


class _WithoutSpikes(torch.autograd.Function):
    """Identity on (c, r); backward limits |∂/∂c| to Σ|r·∂/∂r| / mean|c| per image."""

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
