"""Where a network may have no value: the outputs that depend on a unit outside of its operator's domain.

A bound claims that the network has a value throughout the region.  Rules treat a unit without finite bounds as an
arbitrary number, and a sigmoid of any number lies in [0, 1].  But the log of a negative number is NaN, and so are
sigmoid(log(x)) and 0·log(x).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph import Node
from ..memory_format import flat
from ..operators import Affine, Nonlinear, rule_for
from ..operators.affine import SUMS
from .held import IntervalStore


@torch.no_grad()
def undefined(store: IntervalStore) -> Tensor | None:
    """Return the outputs [N, *out] that may have no value somewhere in the region; None if there are none."""
    network, undefined_at = store.network, {}
    for name in store.facts.partial:
        node = network.graph.nodes[name]
        rule = rule_for(node)
        assert isinstance(rule, Nonlinear) and rule.domain is not None
        inside = rule.domain(network.call(node), *(store.interval(operand) for operand in node.operands))
        if not bool(inside.all()):
            undefined_at[name] = ~inside
    if not undefined_at and network.is_finite:
        return None

    def read_as(node: Node, value: Tensor) -> Tensor:
        undefined_units = undefined_at.get(node.name, torch.zeros((), dtype=torch.bool, device=value.device))
        if not _may_be_infinite(node):
            undefined_units = undefined_units | ~torch.isfinite(value)
        return value.masked_fill(undefined_units, torch.nan)

    *_, (_, value) = network.run(store.region.x, read_as=read_as)
    undefined_units = value.isnan()
    return undefined_units if bool(undefined_units.any()) else None


def without(undefined_units: Tensor | None, coef: Tensor, lower: Tensor) -> Tensor:
    """Return the lower bounds [N, S] of a specification [N, S, *out], with −∞ for rows that read undefined units.

    undefined_units [N, *out]: what `undefined` returns.
    """
    if undefined_units is None:
        return lower
    return torch.where(flat((coef != 0) & undefined_units.unsqueeze(1), 2).any(-1), -torch.inf, lower)


def _may_be_infinite(node: Node) -> bool:
    """Return whether a constant infinity has a meaning at a node: masks add −∞ to the input of a softmax."""
    rule = rule_for(node)
    return node.target in SUMS or (isinstance(rule, Affine) and rule.moves)
