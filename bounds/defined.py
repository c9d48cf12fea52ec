"""Where a network may have no value: what reads a unit that its operator may be given from outside of its domain.

A bound says that the network has a value throughout the region.  Rules take a unit of which nothing is known for any
number, and a sigmoid of any number lies in [0, 1]; but of log(x) for x < 0 it is NaN, and so is 0·log(x).
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bounds.graph import Graph, Network
from bounds.layout import flat
from bounds.node import Node
from bounds.ops import Affine, Nonlinear, rule_for
from bounds.ops.affine import SUMS

if TYPE_CHECKING:
    from bounds.known import Known


def partial_nodes(graph: Graph) -> tuple[str, ...]:
    """The nodes whose operator is not defined everywhere."""
    rules = {name: rule_for(node) for name, node in graph.nodes.items()}
    return tuple(
        name for name, rule in rules.items() if isinstance(rule, Nonlinear) and rule.domain is not None
    )


@torch.no_grad()
def undefined(known: Known) -> Tensor | None:
    """The outputs [N, *out] that may have no value somewhere in the region; None where there are none."""
    network, outside = known.network, {}
    for name in known.plan.partial:
        node = network.graph.nodes[name]
        rule = rule_for(node)
        assert isinstance(rule, Nonlinear) and rule.domain is not None
        inside = rule.domain(network.call(node), *(known.interval(operand) for operand in node.operands))
        if not bool(inside.all()):
            outside[name] = ~inside
    if not outside and _finite(network):
        return None

    def read_as(node: Node, value: Tensor) -> Tensor:
        lost = outside.get(node.name, torch.zeros((), dtype=torch.bool, device=value.device))
        if not _may_be_infinite(node):
            lost = lost | ~torch.isfinite(value)
        return value.masked_fill(lost, torch.nan)

    *_, (_, value) = network.run(known.region.x, read_as=read_as)
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


def _finite(network: Network) -> bool:
    """Whether all constants of a network are; parameters are, as `bind` sees to it."""
    graph = network.graph
    for constant in graph.constants:
        value = network.values[constant.name]
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return False
    numbers = (value for node in graph.nodes.values() for value in node.arguments.values())
    return all(isfinite(value) for value in numbers if isinstance(value, float))
