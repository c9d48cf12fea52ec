"""The backward pass: it rewrites a linear form of a tensor as one of the input (CROWN, DeepPoly, CNN-Cert)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..graph import Call, Network
from ..interval import Interval
from ..memory_format import flat, like
from ..operators import Affine, Nonlinear, rule_for
from ..patch import Coefficients, Patch, coefficients, dot
from ..region import Region
from ..relaxation import Relaxation, ignoring_unused_infinities, sum_to
from . import patches
from .early_stop import EarlyStop

Provider = Callable[[str], Relaxation]
"""Returns the relaxation of a nonlinear node by its name."""


def _constant(rows: Coefficients, bias: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return ⟨coef, bias⟩ for each row.  bias [1, *out or broadcastable]; `shape` is that of out."""
    if isinstance(rows, Patch) and max(bias.shape[-2:]) > 1:
        (windows,) = rows.gather(bias.expand(1, *shape).unsqueeze(1))
        return dot(rows.by_unit(), windows)
    summed = sum_to(coefficients(rows), tuple(bias.shape[1:]))
    return flat(summed * bias.unsqueeze(1), 2).sum(-1)


def lower_bound(
    network: Network,
    region: Region,
    relaxation: Provider,
    target: str,
    coef: Coefficients,
    early_stop: EarlyStop | None = None,
) -> Tensor:
    """Return a lower bound of min over R of Σ coef·target(x').  [N, S]

    coef [N, S, *target's shape].  The pass walks from `target` to the input and replaces each nonlinear node by
    `relaxation(name)`.  The linear form of the input is minimised over the region exactly (concretised).
    early_stop: for rows that read units of which only the sign matters.
    """
    return _backward(network, region, target, coef, relaxation, None, early_stop)


def lower_bound_from_intervals(
    network: Network, region: Region, interval: Callable[[str], Interval], target: str, coef: Tensor
) -> Tensor:
    """Return the same bound, with each nonlinear node that the pass meets replaced by its interval."""
    return _backward(network, region, target, coef, None, interval)


def _backward(
    network: Network,
    region: Region,
    target: str,
    coef: Coefficients,
    relaxation: Provider | None,
    interval: Callable[[str], Interval] | None,
    early_stop: EarlyStop | None = None,
) -> Tensor:
    graph = network.graph
    pending: dict[str, Coefficients] = {target: coef}
    total: Tensor | float = 0.0
    names = list(graph.nodes)
    start = names.index(target) + 1 if target in graph.nodes else 0
    for name in reversed(names[:start]):
        if name not in pending:
            continue
        node = graph.nodes[name]
        rule, call = rule_for(node), network.call(node)
        if early_stop is not None and isinstance(rule, Nonlinear) and early_stop.is_due(name, pending):
            assert isinstance(total, Tensor)
            pending, total = early_stop.check_signs(name, pending, total)
            if not pending:
                return early_stop.close(None)
        rows = pending.pop(name)
        if isinstance(rule, Affine):
            rows = rows.mask() if isinstance(rows, Patch) else rows
            bias = rule.bias(call)
            if bias is not None:
                total = total + _constant(rows, bias, call.shape)
            pulled = _through_affine(rule, call, rows)
        elif interval is not None:
            total = total + _minimum_in_interval(as_dense(rows), interval(name))
            continue
        else:
            assert relaxation is not None
            pulled, const = _through_relaxation(relaxation(name), call, rows)
            total = total + const
        if early_stop is not None:
            early_stop.count_coefficients(pulled, relaxed=isinstance(rule, Nonlinear))
        for operand, part in zip(node.operands, pulled, strict=True):
            pending[operand] = _sum(pending[operand], part) if operand in pending else part
    if graph.input in pending:
        rows = pending[graph.input]
        total = total + (patches.minimum(region, rows) if isinstance(rows, Patch) else region.minimum(rows))
    assert isinstance(total, Tensor)
    return total if early_stop is None else early_stop.close(total)


def _through_affine(rule: Affine, call: Call, rows: Coefficients) -> Sequence[Coefficients]:
    moved = patches.pull(call, rows) if isinstance(rows, Patch) else None
    return rule.pull(call, as_dense(rows)) if moved is None else moved


def _through_relaxation(
    relaxation: Relaxation, call: Call, rows: Coefficients
) -> tuple[Sequence[Coefficients], Tensor]:
    found = patches.relax(call, relaxation, rows) if isinstance(rows, Patch) else None
    return relaxation.pull(as_dense(rows)) if found is None else found


def _sum(one: Coefficients, other: Coefficients) -> Coefficients:
    both = one + other if isinstance(one, Patch) and isinstance(other, Patch) else None
    return both or as_dense(one) + as_dense(other)


def as_dense(rows: Coefficients) -> Tensor:
    """Return dense coefficients."""
    return rows.dense() if isinstance(rows, Patch) else rows


def _minimum_in_interval(coef: Tensor, box: Interval) -> Tensor:
    """Return min Σ coef·x over the box.  [N, S]"""
    lower, upper = (like(coef, side.unsqueeze(1)) for side in box)
    least = flat(coef.clamp(min=0) * lower + coef.clamp(max=0) * upper, 2).sum(-1)
    return ignoring_unused_infinities(least, coef, lower, upper)
