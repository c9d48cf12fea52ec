"""Interval arithmetic from the input to chosen tensors, holding no more than is still to be read."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ..interval import Interval
from ..operators import Nonlinear, rule_for
from .held import Held


def interval_bounds(
    state: Held, wanted: Collection[str], read: Callable[[Interval], Interval] = Interval.known
) -> dict[str, Interval]:
    """The intervals of the tensors `wanted`, as `state.interval` gives them; all others are dropped once read.

    read: what a nonlinear operator sees of an operand's interval; it may change derivatives, not values.
    """
    network, facts = state.network, state.facts
    graph = network.graph
    needed, stack = set(), list(wanted)
    while stack:
        name = stack.pop()
        if name not in needed:
            needed.add(name)
            stack += () if name in facts.prefix or name in state.intervals else graph.nodes[name].operands
    held: dict[str, Interval] = {}
    for name in facts.order:
        if name not in needed:
            continue
        if name in facts.prefix or name in state.intervals:
            held[name] = state.interval(name)
            continue
        node = graph.nodes[name]
        operands = [held[operand] for operand in node.operands]
        rule = rule_for(node)
        if isinstance(rule, Nonlinear):  # an affine rule hands NaN on, so it is enough to look here
            operands = [read(operand) for operand in operands]
        held[name] = rule.interval(network.call(node), *operands).ordered(node.where())
        for operand in graph.last_reads.get(name, ()):
            if operand not in wanted:
                held.pop(operand, None)
    return {name: held[name].known() for name in wanted}
