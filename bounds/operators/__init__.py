"""One record for each operator; `RULES` is the whole list, `rule_for` finds a node's."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from typing import Any

from ..errors import InvalidInput, UnsupportedOp
from ..graph import Graph, Node
from . import (
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
from .rule import Affine, Nonlinear, Rule

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
CHOSEN: dict[Any, Callable[[Node], Rule]] = {
    **dict.fromkeys(
        affine.SCALES, lambda node: bilinear.PRODUCT if len(node.operands) == 2 else affine.SCALE
    ),
    **dict.fromkeys(contraction.CONTRACTIONS, contraction.rule_of),
}
"""Operators whose rule depends on which of their arguments are perturbed."""

REGISTERED = ChainMap[Any, Any](RULES, CHOSEN)
"""Every operator that has a rule."""


def register_operator(target: Any, rule: Rule | Callable[[Node], Rule]) -> None:
    """Give an operator a rule, from outside of this package.  From then on it has bounds by every method.

    target: what a traced node calls, such as `torch.ops.aten.sinc.default`.  rule: its record, or a function of the
    node that chooses one.  Raises InvalidInput for an operator that has a rule, and for what is no rule.
    """
    if target in REGISTERED:
        raise InvalidInput(f"register_operator: {target} has a rule already")
    if isinstance(rule, (Affine, Nonlinear)):
        RULES[target] = rule
    elif callable(rule):
        CHOSEN[target] = rule
    else:
        raise InvalidInput(
            f"register_operator: {target} needs an Affine or a Nonlinear record, got {type(rule).__name__}"
        )


def _short(target: Any) -> str:
    """An operator's name without its library and overload."""
    parts = str(target).split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def rule_for(node: Node) -> Rule:
    """The record for a node.  Raises UnsupportedOp where there is none."""
    choose = CHOSEN.get(node.target)
    found = RULES.get(node.target) if choose is None else choose(node)
    if found is None:
        names = ", ".join(sorted({_short(target) for target in REGISTERED}))
        raise UnsupportedOp(
            f'no rule for {node.where()}. Supported: {names}. To add one: CONTRIBUTING, "Add an operator".'
        )
    if len(node.operands) > 1 and not found.variadic:
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


__all__ = ["REGISTERED", "RULES", "Affine", "Nonlinear", "Rule", "check", "register_operator", "rule_for"]
