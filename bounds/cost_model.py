"""What a row costs: how many coefficients it has at its widest place, and how many multiplications."""

from __future__ import annotations

from math import prod
from weakref import WeakKeyDictionary

from .graph import Graph, Network
from .operators import rule_for
from .passes.patches import reach_of
from .patch import Grid

_KNOWN: WeakKeyDictionary[Graph, dict[tuple[str, bool], tuple[int, int]]] = WeakKeyDictionary()
"""By graph: the costs do not depend on the values of parameters."""


def row_cost(network: Network, target: str, *, unit: bool) -> int:
    """Coefficients alive at once when one row of `target` is pulled back to the input, at the widest place.

    unit: whether the row reads a single unit, and goes as a window for as long as that is small.
    """
    return _costs(network, target, unit)[0]


def row_work(network: Network, target: str, *, unit: bool) -> int:
    """Multiplications by which one row of `target` is pulled back to the input; `unit` as in `row_cost`."""
    return _costs(network, target, unit)[1]


def _costs(network: Network, target: str, unit: bool) -> tuple[int, int]:
    known = _KNOWN.setdefault(network.graph, {})
    if (target, unit) not in known:
        known[target, unit] = _walk(network, target, unit)
    return known[target, unit]


def _walk(network: Network, target: str, unit: bool) -> tuple[int, int]:
    """(coefficients at the widest place, multiplications) of one row's way to the input."""
    graph = network.graph
    start = graph.shape(target)
    live: dict[str, Grid | None] = {target: Grid() if unit and len(start) == 3 else None}
    sizes = {target: _size(start, live[target])}
    widest, work = sizes[target], 0
    for name in reversed(list(graph.nodes)):
        if name not in live:
            continue
        node, grid = graph.nodes[name], live.pop(name)
        call = network.call(node)
        work += sizes[name] * rule_for(node).work(call)
        reach = reach_of(call) if grid is not None else None
        for operand in node.operands:
            shape = graph.shape(operand)
            pulled = reach.on(grid) if reach is not None and grid is not None and len(shape) == 3 else None
            present = live.get(operand)
            if operand in live:
                pulled = pulled.joined(present) if pulled is not None and present is not None else None
            live[operand] = pulled if pulled is not None and pulled.small(shape) else None
            sizes[operand] = _size(shape, live[operand])
        widest = max(widest, sum(sizes.values()))
        sizes.pop(name, None)
    return max(1, widest), work


def _size(shape: tuple[int, ...], grid: Grid | None) -> int:
    return prod(shape) if grid is None else prod(shape[:-2]) * prod(grid.size)
