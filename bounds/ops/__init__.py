"""One record for each operator; `RULES` is the whole list, `rule_for` finds a node's."""

from __future__ import annotations

from typing import Any

from bounds.errors import UnsupportedOp
from bounds.graph import Graph, Node
from bounds.ops import affine, bilinear, conv, movement, pool, relu, smooth
from bounds.ops.rule import Affine, Nonlinear, Rule

RULES: dict[Any, Rule] = {
    **affine.RULES,
    **conv.RULES,
    **movement.RULES,
    **relu.RULES,
    **smooth.RULES,
    **pool.RULES,
}
PRODUCTS: dict[Any, Rule] = dict.fromkeys(affine.SCALES, bilinear.PRODUCT)

__all__ = ["PRODUCTS", "RULES", "Affine", "Nonlinear", "Rule", "check", "rule_for"]


def rule_for(node: Node) -> Rule:
    """The record for a node.  Raises UnsupportedOp where there is none."""
    table = PRODUCTS if len(node.operands) == 2 and node.target in PRODUCTS else RULES
    found = table.get(node.target)
    if found is None:
        names = ", ".join(sorted({str(target).split(".")[1] for target in RULES}))
        raise UnsupportedOp(
            f'no rule for {node.where()}. Supported: {names}. To add one: CONTRIBUTING, "Add an operator".'
        )
    if node.arguments.get("train"):
        raise UnsupportedOp(f"{node.where()} is random in training mode; call model.eval() before trace")
    return found


def check(graph: Graph) -> None:
    """Raises UnsupportedOp for the first node without a rule."""
    for node in graph.nodes.values():
        rule_for(node)
