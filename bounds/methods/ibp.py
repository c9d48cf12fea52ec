"""Interval arithmetic for the intermediate bounds; the rows by intervals, or by one backward pass."""

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
    """Interval arithmetic (Gowal et al. 2018); what is affine in the input, and the affine tail of rows, is exact."""

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        state.restart()
        state.derive(interval_bounds(state, state.facts.tail_ends))
        return state.lower_bounds_by_intervals(coef)


@dataclass(frozen=True)
class CrownIBP(Method):
    """Interval arithmetic inside, one backward pass for the rows (Zhang et al. 2020)."""

    slope: Slope = Slope.ADAPTIVE

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        state.restart()
        boxed = state.lower_bounds_by_intervals(coef)
        return torch.fmax(boxed, state.lower_bounds(state.network.graph.output, coef))
