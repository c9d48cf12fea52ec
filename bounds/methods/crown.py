"""CROWN: backward passes for the intermediate bounds and for the rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..interval import Interval
from ..operators import Nonlinear, rule_for
from ..relaxation import Slope
from ..state import BoundState
from .method import Method


def _newer(old: Interval, new: Interval) -> Interval:
    return Interval.between(*new)


@dataclass(frozen=True)
class Crown(Method):
    """Backward passes for every tensor that a nonlinearity reads, then for the rows (Zhang et al. 2018).

    With `slope=Slope.PARALLEL` it is Fast-Lin and CNN-Cert, with ADAPTIVE CNN-Cert-Ada.  intersect: whether the
    intermediate bounds are met with interval arithmetic's.  That is tighter on average, but a tighter interval may flip
    the adaptive slope of a ReLU, so a single row can come out looser; False gives the bounds of auto_LiRPA, or tighter
    ones where intervals met on the way decide the sign of a unit that CROWN alone would leave open.  The output of a
    nonlinear operator is met with its range on the operand's interval in any case: planes of it reach beyond that.
    """

    slope: Slope = Slope.ADAPTIVE
    intersect: bool = True

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        state.restart()
        nodes = state.network.graph.nodes
        for target in state.facts.readers:
            ranged = target in nodes and isinstance(rule_for(nodes[target]), Nonlinear)
            state.refine(target, meet=Interval.intersect if self.intersect or ranged else _newer)
        boxed = state.lower_bounds_by_intervals(coef)
        return torch.fmax(boxed, state.lower_bounds(state.network.graph.output, coef))
