"""The backward pass: a row of the output as a linear form of the input (CROWN, DeepPoly, CNN-Cert)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..graph import Call, Network
from ..interval import Interval
from ..memory_format import flat, like
from ..operators import Affine, Nonlinear, rule_for
from ..patch import Patch, Rows, coefficients, dot
from ..region import Region
from ..relaxation import Relaxation, asked_alone, sum_to
from . import patches
from .early_stop import EarlyStop

Provider = Callable[[str], Relaxation]


def _constant(rows: Rows, bias: Tensor, shape: tuple[int, ...]) -> Tensor:
    """⟨coef, bias⟩ for each row; bias [1, *out or broadcastable], out as `shape` says."""
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
    coef: Rows,
    sieve: EarlyStop | None = None,
) -> Tensor:
    """min over R of Σ coef·target(x') from below.  [N, S]

    coef [N, S, *target's shape].  Walks from `target` to the input; each nonlinear node is replaced by
    `relaxation(name)`; what arrives at the input is minimised over the region exactly.  sieve: for rows that read
    units of which only the signs matter.
    """
    return _walk(network, region, target, coef, relaxation, None, sieve)


def lower_bound_from_boxes(
    network: Network, region: Region, interval: Callable[[str], Interval], target: str, coef: Tensor
) -> Tensor:
    """The same through the affine nodes alone: each nonlinear node met counts with its interval."""
    return _walk(network, region, target, coef, None, interval)


def _walk(
    network: Network,
    region: Region,
    target: str,
    coef: Rows,
    relaxation: Provider | None,
    interval: Callable[[str], Interval] | None,
    sieve: EarlyStop | None = None,
) -> Tensor:
    graph = network.graph
    pending: dict[str, Rows] = {target: coef}
    total: Tensor | float = 0.0
    names = list(graph.nodes)
    start = names.index(target) + 1 if target in graph.nodes else 0
    for name in reversed(names[:start]):
        if name not in pending:
            continue
        node = graph.nodes[name]
        rule, call = rule_for(node), network.call(node)
        if sieve is not None and isinstance(rule, Nonlinear) and sieve.due(name, pending):
            assert isinstance(total, Tensor)
            pending, total = sieve.look(name, pending, total)
            if not pending:
                return sieve.close(None)
        rows = pending.pop(name)
        if isinstance(rule, Affine):
            rows = rows.mask() if isinstance(rows, Patch) else rows
            bias = rule.bias(call)
            if bias is not None:
                total = total + _constant(rows, bias, call.shape)
            pulled = _through(rule, call, rows)
        elif interval is not None:
            total = total + _minimum_in_box(written(rows), interval(name))
            continue
        else:
            assert relaxation is not None
            pulled, const = _relaxed(relaxation(name), call, rows)
            total = total + const
        if sieve is not None:
            sieve.passed(pulled, relaxed=isinstance(rule, Nonlinear))
        for operand, part in zip(node.operands, pulled, strict=True):
            pending[operand] = _sum(pending[operand], part) if operand in pending else part
    if graph.input in pending:
        rows = pending[graph.input]
        total = total + (patches.minimum(region, rows) if isinstance(rows, Patch) else region.minimum(rows))
    assert isinstance(total, Tensor)
    return total if sieve is None else sieve.close(total)


def _through(rule: Affine, call: Call, rows: Rows) -> Sequence[Rows]:
    moved = patches.pull(call, rows) if isinstance(rows, Patch) else None
    return rule.pull(call, written(rows)) if moved is None else moved


def _relaxed(relaxation: Relaxation, call: Call, rows: Rows) -> tuple[Sequence[Rows], Tensor]:
    found = patches.relax(call, relaxation, rows) if isinstance(rows, Patch) else None
    return relaxation.pull(written(rows)) if found is None else found


def _sum(one: Rows, other: Rows) -> Rows:
    both = one + other if isinstance(one, Patch) and isinstance(other, Patch) else None
    return both or written(one) + written(other)


def written(rows: Rows) -> Tensor:
    """Rows as dense coefficients."""
    return rows.dense() if isinstance(rows, Patch) else rows


def _minimum_in_box(coef: Tensor, box: Interval) -> Tensor:
    lower, upper = (like(coef, side.unsqueeze(1)) for side in box)
    least = flat(coef.clamp(min=0) * lower + coef.clamp(max=0) * upper, 2).sum(-1)
    return asked_alone(least, coef, lower, upper)
