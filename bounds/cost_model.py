"""The cost of a row in a backward pass: its largest number of coefficients, and its multiplications."""

from __future__ import annotations

from math import prod
from weakref import WeakKeyDictionary

from .graph import Graph, Network
from .operators import rule_for
from .passes.patches import receptive_field_of
from .patch import Grid

_CACHE: WeakKeyDictionary[Graph, dict[tuple[str, bool], tuple[int, int]]] = WeakKeyDictionary()
"""The costs of each graph, by (target, unit).  They do not depend on the values of parameters."""


def row_cost(network: Network, target: str, *, unit: bool) -> int:
    """Return the largest number of coefficients that are alive at once while one row of `target` goes to the input.

    unit: whether the row reads a single unit, so that it is kept as patches as long as these are small.
    """
    return _costs(network, target, unit)[0]


def row_work(network: Network, target: str, *, unit: bool) -> int:
    """Return the number of multiplications that take one row of `target` to the input.  `unit` as in `row_cost`."""
    return _costs(network, target, unit)[1]


def _costs(network: Network, target: str, unit: bool) -> tuple[int, int]:
    cached = _CACHE.setdefault(network.graph, {})
    if (target, unit) not in cached:
        cached[target, unit] = _backward_cost(network, target, unit)
    return cached[target, unit]


def _backward_cost(network: Network, target: str, unit: bool) -> tuple[int, int]:
    """Return (the largest number of coefficients alive at once, multiplications) of one row's backward pass."""
    graph = network.graph
    start = graph.shape(target)
    grids: dict[str, Grid | None] = {target: Grid() if unit and len(start) == 3 else None}
    sizes = {target: _size(start, grids[target])}
    widest, work = sizes[target], 0
    for name in reversed(list(graph.nodes)):
        if name not in grids:
            continue
        node, grid = graph.nodes[name], grids.pop(name)
        call = network.call(node)
        work += sizes[name] * rule_for(node).work(call)
        field = receptive_field_of(call) if grid is not None else None
        for operand in node.operands:
            shape = graph.shape(operand)
            pulled = field.on(grid) if field is not None and grid is not None and len(shape) == 3 else None
            present = grids.get(operand)
            if operand in grids:
                pulled = pulled.joined(present) if pulled is not None and present is not None else None
            grids[operand] = pulled if pulled is not None and pulled.small(shape) else None
            sizes[operand] = _size(shape, grids[operand])
        widest = max(widest, sum(sizes.values()))
        sizes.pop(name, None)
    return max(1, widest), work


def _size(shape: tuple[int, ...], grid: Grid | None) -> int:
    return prod(shape) if grid is None else prod(shape[:-2]) * prod(grid.size)
