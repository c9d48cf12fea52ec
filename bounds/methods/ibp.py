"""Methods whose intermediate bounds come from interval arithmetic: IBP and CROWN-IBP."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..passes.ibp import interval_bounds
from ..relaxation import Slope
from ..state import BoundState
from .method import Method


@dataclass(frozen=True)
class IBP(Method):
    """Interval bound propagation (Gowal et al. 2018, "On the effectiveness of interval bound propagation").

    Tensors that are affine in the input are bounded exactly, and so are the affine operators after the last
    nonlinearity.
    """

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        state.restart()
        state.derive(interval_bounds(state, state.facts.tail_ends))
        return state.lower_bounds_by_intervals(coef)


@dataclass(frozen=True)
class CrownIBP(Method):
    """Interval arithmetic for the intermediate bounds, one backward pass for the specification (Zhang et al. 2020)."""

    slope: Slope = Slope.ADAPTIVE
    """How the lower slope of an unstable ReLU is chosen."""

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        state.restart()
        by_intervals = state.lower_bounds_by_intervals(coef)
        return torch.fmax(by_intervals, state.lower_bounds(state.network.graph.output, coef))
