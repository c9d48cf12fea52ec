"""Estimates of what one bound costs by each method, from the shapes of a network alone."""

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
"""Size of a number in double precision."""


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of bounding the rows of one image."""

    multiplications: float
    """Multiplications, assuming every neuron is unstable."""
    per_unstable: float
    """The part of the multiplications that is proportional to the share of unstable neurons."""
    visits: int
    """Operators visited."""
    memory: float
    """Peak memory in bytes, assuming every neuron is unstable."""


def estimates(network: Network, rows: int, *, iterations: int = AlphaCrown.iterations) -> dict[str, Estimate]:
    """Estimate what bounding the outputs of one image costs by each built-in method.

    rows: the number of rows of the specification.  iterations: gradient steps of alpha-crown.
    Returns the estimates by the names of `METHODS`.
    Raises UnsupportedOp for an operator without a rule.
    """
    graph, facts = network.graph, facts_of(network.graph)
    work = {n.name: prod(n.shape) * rule_for(n).work(network.call(n)) for n in graph.nodes.values()}
    total, count = sum(work.values()), len(graph.nodes)
    position = {name: index for index, name in enumerate(facts.order)}
    targets = {name: 2 * prod(graph.shape(name)) for name in facts.readers if name not in facts.prefix}
    backward = sum(n * row_work(network, name, unit=True) for name, n in targets.items())
    visited = sum(position[name] for name in targets)
    output_work = rows * row_work(network, graph.output, unit=False)

    generators, forward, widest = prod(graph.input_shape), 0.0, 0
    for name, node in graph.nodes.items():
        forward += generators * work[name]
        widest = max(widest, generators * prod(node.shape))
        generators += prod(node.shape) if isinstance(rule_for(node), Nonlinear) else 0

    interval_bytes = (
        2 * BYTES * (prod(graph.input_shape) + sum(prod(node.shape) for node in graph.nodes.values()))
    )
    output_bytes = _bytes(rows * row_cost(network, graph.output, unit=False))
    target_bytes = max(
        [_bytes(n * row_cost(network, name, unit=True)) for name, n in targets.items()], default=0.0
    )
    form_bytes = 2 * BYTES * widest
    crown = Estimate(
        2 * total + backward + output_work,
        backward,
        2 * count + visited,
        interval_bytes + max(output_bytes, target_bytes),
    )
    steps = 2 + 3 * iterations
    return {
        "ibp": Estimate(2 * total, 0, count, interval_bytes),
        "crown-ibp": Estimate(2 * total + output_work, 0, 2 * count, interval_bytes + output_bytes),
        "zonotope": Estimate(forward, 0, count, interval_bytes + form_bytes),
        "zonotope+crown": Estimate(
            forward + output_work, 0, 2 * count, interval_bytes + form_bytes + output_bytes
        ),
        "crown": crown,
        "alpha-crown": Estimate(
            2 * total + steps * (backward + output_work),
            steps * backward,
            steps * crown.visits,
            2 * crown.memory,
        ),
    }


def _bytes(coefficients: int) -> float:
    """Return the bytes that so many coefficients take at once, in blocks."""
    return COPIES * BYTES * min(CACHE_COEFFICIENTS, coefficients)
