"""One record for each operator; `RULES` is the whole list, `rule_for` finds a node's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bounds.errors import UnsupportedOp
from bounds.graph import Graph, Node
from bounds.ops import (
    affine,
    bilinear,
    contraction,
    conv,
    extremes,
    movement,
    pool,
    relu,
    smooth,
    softmax,
    step,
)
from bounds.ops.rule import Affine, Nonlinear, Rule

RULES: dict[Any, Rule] = {
    **affine.RULES,
    **conv.RULES,
    **movement.RULES,
    **relu.RULES,
    **smooth.RULES,
    **pool.RULES,
    **softmax.RULES,
    **extremes.RULES,
    **step.RULES,
}
PRODUCTS: dict[Any, Rule] = dict.fromkeys(affine.SCALES, bilinear.PRODUCT)
"""The rules of operators that multiply two perturbed tensors."""
CHOSEN: dict[Any, Callable[[Node], Rule]] = dict.fromkeys(contraction.CONTRACTIONS, contraction.rule_of)
"""Operators whose rule depends on which of their arguments are perturbed."""
SEVERAL = {*affine.SUMS, *movement.JOINS, *extremes.RULES}
"""Operators that take perturbed tensors in any of their arguments; others have one, the first."""

REGISTERED = (*RULES, *CHOSEN)
"""Every operator that has a rule."""

__all__ = ["PRODUCTS", "REGISTERED", "RULES", "Affine", "Nonlinear", "Rule", "check", "rule_for"]


def rule_for(node: Node) -> Rule:
    """The record for a node.  Raises UnsupportedOp where there is none."""
    if node.target in CHOSEN:
        return CHOSEN[node.target](node)
    if len(node.operands) == 2 and node.target in PRODUCTS:
        return PRODUCTS[node.target]
    found = RULES.get(node.target)
    if found is None:
        names = ", ".join(sorted({str(target).split(".")[1] for target in REGISTERED}))
        raise UnsupportedOp(
            f'no rule for {node.where()}. Supported: {names}. To add one: CONTRIBUTING, "Add an operator".'
        )
    if len(node.operands) > 1 and node.target not in SEVERAL:
        raise UnsupportedOp(
            f"no rule for {node.where()} with {len(node.operands)} tensors that depend on the image; "
            "accepted: one, the others constant"
        )
    if node.arguments.get("train"):
        raise UnsupportedOp(f"{node.where()} is random in training mode; call model.eval() before trace")
    return found


def check(graph: Graph) -> None:
    """Raises UnsupportedOp for the first node without a rule."""
    for node in graph.nodes.values():
        rule_for(node)
