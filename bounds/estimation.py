"""What one bound by each method costs, from the sizes of a network alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from .chunking import CACHE_COEFFICIENTS, COPIES
from .cost_model import row_cost, row_work
from .graph import Network
from .graph.facts import facts_of
from .methods.alpha_crown import AlphaCrown
from .operators import Nonlinear, rule_for

BYTES = 8
"""Of a number, in double precision."""


@dataclass(frozen=True)
class Estimate:
    """Of bounds of one image's rows: multiplications, operators visited, and bytes, were every unit unstable.

    per_unstable: the part of the multiplications that is in proportion to the share of units that are.
    """

    multiplications: float
    per_unstable: float
    visits: int
    memory: float


def estimates(network: Network, rows: int, *, iterations: int = AlphaCrown.iterations) -> dict[str, Estimate]:
    """By method, of `rows` rows of the output; iterations: of alpha-crown.

    Raises UnsupportedOp for an operator without a rule.
    """
    graph, facts = network.graph, facts_of(network.graph)
    work = {n.name: prod(n.shape) * rule_for(n).work(network.call(n)) for n in graph.nodes.values()}
    total, count = sum(work.values()), len(graph.nodes)
    position = {name: place for place, name in enumerate(facts.order)}
    targets = {name: 2 * prod(graph.shape(name)) for name in facts.readers if name not in facts.prefix}
    backward = sum(n * row_work(network, name, unit=True) for name, n in targets.items())
    visited = sum(position[name] for name in targets)
    last = rows * row_work(network, graph.output, unit=False)

    generators, forward, widest = prod(graph.input_shape), 0.0, 0
    for name, node in graph.nodes.items():
        forward += generators * work[name]
        widest = max(widest, generators * prod(node.shape))
        generators += prod(node.shape) if isinstance(rule_for(node), Nonlinear) else 0

    boxes = 2 * BYTES * (prod(graph.input_shape) + sum(prod(node.shape) for node in graph.nodes.values()))
    few = _held(rows * row_cost(network, graph.output, unit=False))
    many = max([_held(n * row_cost(network, name, unit=True)) for name, n in targets.items()], default=0.0)
    kept = 2 * BYTES * widest
    crown = Estimate(2 * total + backward + last, backward, 2 * count + visited, boxes + max(few, many))
    steps = 2 + 3 * iterations
    return {
        "ibp": Estimate(2 * total, 0, count, boxes),
        "crown-ibp": Estimate(2 * total + last, 0, 2 * count, boxes + few),
        "zonotope": Estimate(forward, 0, count, boxes + kept),
        "zonotope+crown": Estimate(forward + last, 0, 2 * count, boxes + kept + few),
        "crown": crown,
        "alpha-crown": Estimate(
            2 * total + steps * (backward + last), steps * backward, steps * crown.visits, 2 * crown.memory
        ),
    }


def _held(coefficients: int) -> float:
    """Bytes of so many coefficients at once, in chunks."""
    return COPIES * BYTES * min(CACHE_COEFFICIENTS, coefficients)
