"""What can be read off a graph once: which tensors need bounds, in which order, and what a row costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

from ..operators import Affine, Nonlinear, rule_for
from . import Graph


@dataclass(frozen=True)
class Reader:
    """A nonlinear node that reads a tensor; `direct` where no reshape or concatenation stands between."""

    node: str
    operand: int
    direct: bool


@dataclass(frozen=True)
class Facts:
    """What one graph says of every region and method.

    prefix: nodes whose ancestors are all affine, the input among them.  plain: those of them for which interval
    arithmetic from a box is exact (at most one mixing operator on the way).  readers: every tensor that a nonlinear
    node reads, in topological order, concatenations and reshapes looked through, so each cell state has its own.
    linear_tail: the affine nodes after the last nonlinearity.  tail_ends: the nonlinear nodes where it begins.
    children: the nodes that read each tensor.  partial: the nodes whose operator is not defined everywhere.
    """

    prefix: frozenset[str]
    plain: frozenset[str]
    readers: dict[str, tuple[Reader, ...]]
    order: tuple[str, ...]
    linear_tail: frozenset[str]
    tail_ends: tuple[str, ...]
    children: dict[str, tuple[str, ...]]
    partial: tuple[str, ...]


@lru_cache(maxsize=64)
def facts_of(graph: Graph) -> Facts:
    """Raises UnsupportedOp for a node without a rule."""
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
            meets = len(depth) > 1 and not rule.moves
            mixing[node.name] = max(depth) + (1 if rule.mixing else 0) + (2 if meets else 0)
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
    """The tensors whose units a tensor is made of, through operators that only move whole tensors about."""
    found: dict[str, bool] = {}
    stack = [(name, True)]
    while stack:
        current, direct = stack.pop()
        node = graph.nodes.get(current)
        if node is not None and _whole(graph, current):
            stack += [(operand, False) for operand in node.operands]
        else:
            found[current] = found.get(current, False) or direct
    return list(found.items())


def _whole(graph: Graph, name: str) -> bool:
    """Whether a node moves every unit of its operands exactly once, so that nothing is bounded in vain."""
    node = graph.nodes[name]
    rule = rule_for(node)
    return (
        isinstance(rule, Affine)
        and rule.moves
        and prod(node.shape) == sum(prod(graph.shape(o)) for o in node.operands)
    )


def _linear_tail(graph: Graph) -> frozenset[str]:
    """The affine nodes after the last nonlinearity: rows of the output pass through them without loss."""
    tail, stack = set(), [graph.output]
    while stack:
        name = stack.pop()
        if name in tail or name == graph.input:
            continue
        if isinstance(rule_for(graph.nodes[name]), Affine):
            tail.add(name)
            stack += graph.nodes[name].operands
    return frozenset(tail)


def _partial(graph: Graph) -> tuple[str, ...]:
    """The nodes whose operator is not defined everywhere."""
    rules = {name: rule_for(node) for name, node in graph.nodes.items()}
    return tuple(
        name for name, rule in rules.items() if isinstance(rule, Nonlinear) and rule.domain is not None
    )
