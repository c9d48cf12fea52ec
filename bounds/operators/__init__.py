"""The operators: one record each.  `RULES` is the whole list, and `rule_for` finds a node's record."""

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
"""The record of each operator."""
CHOSEN: dict[Any, Callable[[Node], Rule]] = {
    **dict.fromkeys(
        affine.SCALES, lambda node: bilinear.PRODUCT if len(node.operands) == 2 else affine.SCALE
    ),
    **dict.fromkeys(contraction.CONTRACTIONS, contraction.rule_of),
}
"""Operators whose record depends on which of their arguments are perturbed: functions from a node to its record."""

REGISTERED = ChainMap[Any, Any](RULES, CHOSEN)
"""Every operator that has a record or a function that chooses one."""


def register_operator(target: Any, rule: Rule | Callable[[Node], Rule]) -> None:
    """Register the record of an operator, which is then bounded by every method.

    target: the operator that a traced node calls, such as `torch.ops.aten.sinc.default`.  rule: its record, an `Affine`
    or a `Nonlinear`, or a function from a node to its record.
    Raises InvalidInput for an operator that already has a record, and for a rule that is neither.

    >>> import torch
    >>> import bounds
    >>> bounds.register_operator(
    ...     torch.ops.aten.cumsum.default, bounds.Affine(lambda call, x: torch.cumsum(x, call["dim"]))
    ... )
    >>> class CumulativeSum(torch.nn.Module):
    ...     def forward(self, x):
    ...         return torch.cumsum(x, 1)
    >>> network = bounds.trace(CumulativeSum(), torch.zeros(1, 2)).bind()
    >>> region = bounds.Linf(torch.tensor([[1.0, 0.0]]), eps=0.25)
    >>> bounds.output_bounds(network, region, bounds.Crown()).upper
    tensor([[1.2500, 1.5000]])
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
    """Return an operator's name without its library and overload."""
    parts = str(target).split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def rule_for(node: Node) -> Rule:
    """Return the record of a node.  Raises UnsupportedOp if there is none."""
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
    """Check that every node of a graph has a record.  Raises UnsupportedOp for the first node without one."""
    for node in graph.nodes.values():
        rule_for(node)


__all__ = ["REGISTERED", "RULES", "Affine", "Nonlinear", "Rule", "check", "register_operator", "rule_for"]
