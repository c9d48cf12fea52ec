"""Where a network may have no value: what reads a unit that its operator may be given from outside of its domain.

A bound says that the network has a value throughout the region.  Rules take a unit of which nothing is known for any
number, and a sigmoid of any number lies in [0, 1]; but of log(x) for x < 0 it is NaN, and so is 0·log(x).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import Node
from ..memory_format import flat
from ..operators import Affine, Nonlinear, rule_for
from ..operators.affine import SUMS
from .held import Held


@torch.no_grad()
def undefined(held: Held) -> Tensor | None:
    """The outputs [N, *out] that may have no value somewhere in the region; None where there are none."""
    network, outside = held.network, {}
    for name in held.facts.partial:
        node = network.graph.nodes[name]
        rule = rule_for(node)
        assert isinstance(rule, Nonlinear) and rule.domain is not None
        inside = rule.domain(network.call(node), *(held.interval(operand) for operand in node.operands))
        if not bool(inside.all()):
            outside[name] = ~inside
    if not outside and network.is_finite:
        return None

    def read_as(node: Node, value: Tensor) -> Tensor:
        lost = outside.get(node.name, torch.zeros((), dtype=torch.bool, device=value.device))
        if not _may_be_infinite(node):
            lost = lost | ~torch.isfinite(value)
        return value.masked_fill(lost, torch.nan)

    *_, (_, value) = network.run(held.region.x, read_as=read_as)
    lost = value.isnan()
    return lost if bool(lost.any()) else None


def without(lost: Tensor | None, coef: Tensor, lower: Tensor) -> Tensor:
    """Lower bounds [N, S] of rows [N, S, *out], −∞ where one reads an output that is `lost` [N, *out]."""
    if lost is None:
        return lower
    return torch.where(flat((coef != 0) & lost.unsqueeze(1), 2).any(-1), -torch.inf, lower)


def _may_be_infinite(node: Node) -> bool:
    """Whether an infinity that a constant brings in has a meaning here: masks add −∞ to what a softmax reads."""
    rule = rule_for(node)
    return node.target in SUMS or (isinstance(rule, Affine) and rule.moves)
