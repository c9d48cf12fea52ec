"""CROWN: backward passes for the intermediate bounds and for the specification."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..interval import Interval
from ..operators import Nonlinear, rule_for
from ..relaxation import Slope
from ..state import BoundState
from .method import Method


def _replace(old: Interval, new: Interval) -> Interval:
    return Interval.between(*new)


@dataclass(frozen=True)
class Crown(Method):
    """Backward passes for every pre-activation, then for the specification (Zhang et al. 2018).

    With `slope=Slope.PARALLEL` the method is Fast-Lin and CNN-Cert, with ADAPTIVE it is CNN-Cert-Ada.
    """

    slope: Slope = Slope.ADAPTIVE
    """How the lower slope of an unstable ReLU is chosen."""
    intersect: bool = True
    """Whether intermediate bounds are intersected with those of interval arithmetic.

    Intersected bounds are tighter on average.  But a tighter interval may flip the adaptive slope of a ReLU, so that a
    single output bound can become looser.  False gives the bounds of auto_LiRPA, or tighter ones if intervals on the
    way decide the sign of a unit that CROWN alone leaves unstable.  The output of a nonlinear operator is intersected
    with its range on the operand's interval in any case, because its planes leave that range.
    """

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        state.restart()
        nodes = state.network.graph.nodes
        for target in state.facts.readers:
            ranged = target in nodes and isinstance(rule_for(nodes[target]), Nonlinear)
            state.refine(target, meet=Interval.intersect if self.intersect or ranged else _replace)
        by_intervals = state.lower_bounds_by_intervals(coef)
        return torch.fmax(by_intervals, state.lower_bounds(state.network.graph.output, coef))
