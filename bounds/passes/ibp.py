"""Interval arithmetic from the input to chosen tensors, with no more intervals in memory than are still read."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ..interval import Interval
from ..operators import Nonlinear, rule_for
from .held import IntervalStore


def interval_bounds(
    state: IntervalStore,
    wanted: Collection[str],
    read: Callable[[Interval], Interval] = Interval.overflow_as_infinite,
) -> dict[str, Interval]:
    """Return the intervals of the tensors `wanted`, as `state.interval` gives them; others are dropped after use.

    read: maps an operand's interval to the one that a nonlinear operator receives.  It may change derivatives, not
    values.
    """
    network, facts = state.network, state.facts
    graph = network.graph
    needed = graph.upstream(wanted, stop=lambda name: name in facts.prefix or name in state.intervals)
    intervals: dict[str, Interval] = {}
    for name in facts.order:
        if name not in needed:
            continue
        if name in facts.prefix or name in state.intervals:
            intervals[name] = state.interval(name)
            continue
        node = graph.nodes[name]
        operands = [intervals[operand] for operand in node.operands]
        rule = rule_for(node)
        if isinstance(rule, Nonlinear):  # affine rules propagate NaN, so replacing it here is enough
            operands = [read(operand) for operand in operands]
        intervals[name] = rule.interval(network.call(node), *operands).ordered(node.where())
        for operand in graph.last_reads.get(name, ()):
            if operand not in wanted:
                intervals.pop(operand, None)
    return {name: intervals[name].overflow_as_infinite() for name in wanted}
