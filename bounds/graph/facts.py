"""Facts about a graph that are computed once: which tensors need intermediate bounds, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

from ..operators import Affine, Nonlinear, rule_for
from . import Graph


@dataclass(frozen=True)
class Reader:
    """A nonlinear node that reads a tensor."""

    node: str
    """The node's name."""
    operand: int
    """The index of the operand that the node reads the tensor through."""
    direct: bool
    """Whether no reshape or concatenation stands between the tensor and the node."""


@dataclass(frozen=True)
class Facts:
    """Facts about one graph that hold for every region and method."""

    prefix: frozenset[str]
    """The nodes whose ancestors are all affine, the input included."""
    plain: frozenset[str]
    """The nodes of the prefix on which interval arithmetic is exact: at most one mixing operator precedes them."""
    readers: dict[str, tuple[Reader, ...]]
    """The nonlinear readers of every tensor that needs intermediate bounds (pre-activations), in topological order.

    Tensors are followed through concatenations and reshapes, so each cell state has its own entry.
    """
    order: tuple[str, ...]
    """The input and all nodes, in topological order."""
    linear_tail: frozenset[str]
    """The affine nodes after the last nonlinearity."""
    tail_ends: tuple[str, ...]
    """The nonlinear nodes at which the linear tail begins."""
    children: dict[str, tuple[str, ...]]
    """The nodes that read each tensor."""
    partial: tuple[str, ...]
    """The nodes whose operator is not defined everywhere, such as log."""


@lru_cache(maxsize=64)
def facts_of(graph: Graph) -> Facts:
    """Return the facts about a graph.  Raises UnsupportedOp for a node without a rule."""
    mixing: dict[str, int] = {graph.input: 0}
    readers: dict[str, list[Reader]] = {}
    children: dict[str, tuple[str, ...]] = {}
    for node in graph.nodes.values():
        rule = rule_for(node)
        children.update({operand: (*children.get(operand, ()), node.name) for operand in node.operands})
        if isinstance(rule, Nonlinear):
            for i, operand in enumerate(node.operands):
                for source, direct in _sources(graph, operand):
                    readers.setdefault(source, []).append(Reader(node.name, i, direct))
        elif all(operand in mixing for operand in node.operands):
            depth = [mixing[operand] for operand in node.operands]
            joins = len(depth) > 1 and not rule.moves
            mixing[node.name] = max(depth) + (1 if rule.mixing else 0) + (2 if joins else 0)
    order = (graph.input, *graph.nodes)
    position = {name: i for i, name in enumerate(order)}
    tail = _linear_tail(graph)
    starts = {operand for name in tail for operand in graph.nodes[name].operands} | {graph.output}
    return Facts(
        prefix=frozenset(mixing),
        plain=frozenset(name for name, depth in mixing.items() if depth <= 1),
        readers={name: tuple(readers[name]) for name in sorted(readers, key=position.__getitem__)},
        order=order,
        linear_tail=tail,
        tail_ends=tuple(name for name in graph.nodes if name in starts and name not in tail),
        children=children,
        partial=_partial(graph),
    )


def _sources(graph: Graph, name: str) -> list[tuple[str, bool]]:
    """Return the tensors whose units a tensor consists of, with whether no operator stands between them.

    Only operators that move whole tensors are followed.
    """
    found: dict[str, bool] = {}
    stack = [(name, True)]
    while stack:
        current, direct = stack.pop()
        node = graph.nodes.get(current)
        if node is not None and _moves_whole_tensors(graph, current):
            stack += [(operand, False) for operand in node.operands]
        else:
            found[current] = found.get(current, False) or direct
    return list(found.items())


def _moves_whole_tensors(graph: Graph, name: str) -> bool:
    """Return whether a node moves every unit of its operands exactly once, so that no unit is bounded in vain."""
    node = graph.nodes[name]
    rule = rule_for(node)
    return (
        isinstance(rule, Affine)
        and rule.moves
        and prod(node.shape) == sum(prod(graph.shape(o)) for o in node.operands)
    )


def _linear_tail(graph: Graph) -> frozenset[str]:
    """Return the affine nodes after the last nonlinearity, through which a backward pass loses nothing."""

    def is_nonlinear(name: str) -> bool:
        return isinstance(rule_for(graph.nodes[name]), Nonlinear)

    reached = graph.upstream([graph.output], stop=is_nonlinear) - {graph.input}
    return frozenset(name for name in reached if not is_nonlinear(name))


def _partial(graph: Graph) -> tuple[str, ...]:
    """Return the nodes whose operator is not defined everywhere, such as log."""
    rules = {name: rule_for(node) for name, node in graph.nodes.items()}
    return tuple(
        name for name, rule in rules.items() if isinstance(rule, Nonlinear) and rule.domain is not None
    )
