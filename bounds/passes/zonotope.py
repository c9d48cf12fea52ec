"""The forward pass: it writes every tensor as an affine form of the input plus error symbols (a zonotope).

    x = A·input + Σ Eₖ·εₖ + center ± box,   εₖ ∈ [−1, 1].

A nonlinear operator is relaxed by two planes of one slope, and the gap between them adds new error symbols.  The
`errors` largest of each layer are kept, which preserves correlations; the others are added to `box`.  For relu and
sigmoid this is DeepZ (Singh et al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..graph import Call
from ..interval import Interval
from ..memory_format import flat
from ..operators import Affine, Nonlinear, rule_for
from ..region import Region
from ..relaxation import Slope
from .held import IntervalStore


@dataclass(frozen=True)
class AffineForm:
    """An affine form of the input with error symbols: A·input + Σ Eₖ·εₖ + center ± box."""

    linear: Tensor | None
    """The coefficients A of the input's D elements, [N or 1, D, *shape]; None for zero."""
    symbols: dict[str, Tensor]
    """The error coefficients E by the node that introduced them, [N, k, *shape] each."""
    center: Tensor
    """The constant part, [N or 1, *shape]."""
    box: Tensor | None
    """The joined errors, [N or 1, *shape]; None for zero."""

    def interval(self, region: Region) -> Interval:
        """Return the form's exact range over the region.  [N, *shape]"""
        n, shape = len(region.x), self.center.shape[1:]
        spread = torch.zeros_like(self.center) if self.box is None else self.box
        for coefficients in self.symbols.values():
            spread = spread + coefficients.abs().sum(1)
        low, high = self.center - spread, self.center + spread
        if self.linear is not None:
            rows = flat(self.linear, 2).transpose(1, 2)
            rows = rows.reshape(len(rows), -1, *region.x.shape[1:])
            low = low + region.minimum(rows).reshape(n, *shape)
            high = high - region.minimum(-rows).reshape(n, *shape)
        return Interval.between(low.expand(n, *shape), high.expand(n, *shape))


class ZonotopePass:
    """Affine forms of every tensor of one state.  `run` stores the intervals of all pre-activations in the state."""

    def __init__(self, state: IntervalStore, errors: int | None) -> None:
        self.state = state
        self.errors = errors
        self.forms: dict[str, AffineForm] = {}

    def run(self) -> AffineForm:
        """Push forms from the input to the output and return the output's.  A form is dropped after its last reader."""
        state = self.state
        graph, network = state.network.graph, state.network
        self.forms[graph.input] = self._input()
        for name, node in graph.nodes.items():
            rule = rule_for(node)
            operands = [self.forms[operand] for operand in node.operands]
            call = network.call(node)
            self.forms[name] = (
                self._affine(rule, call, operands)
                if isinstance(rule, Affine)
                else self._relaxed(rule, call, operands)
            )
            if name in state.facts.readers and name not in state.facts.prefix:
                self._tighten(name)
            for operand in graph.last_reads.get(name, ()):
                del self.forms[operand]
        return self.forms[graph.output]

    def _input(self) -> AffineForm:
        x = self.state.region.x
        size = prod(x.shape[1:])
        identity = torch.eye(size, dtype=x.dtype, device=x.device).reshape(1, size, *x.shape[1:])
        return AffineForm(identity, {}, torch.zeros_like(x[:1]), None)

    def _tighten(self, name: str) -> None:
        """Store the intersection of the zonotope's range and interval arithmetic's."""
        by_intervals = self.state.interval(name)
        state = self.state
        form = self.forms[name].interval(state.region).overflow_as_infinite()
        with state.naming(name):
            state.hold({name: by_intervals.intersect(form)})

    def _affine(self, rule: Affine, call: Call, operands: list[AffineForm]) -> AffineForm:
        """Apply the linear part to every block, the constant to the centre, and the magnitude to the box."""

        def pushed(parts: list[Tensor | None]) -> Tensor | None:
            present = [part for part in parts if part is not None]
            if not present:
                return None
            n, g = max(len(p) for p in present), present[0].shape[1]
            full = [
                torch.zeros((), dtype=present[0].dtype, device=present[0].device).expand(n, g, *shape)
                if part is None
                else part.expand(n, *part.shape[1:])
                for part, shape in zip(parts, call.shapes, strict=True)
            ]
            return rule.push(call, *full)

        names = dict.fromkeys(source for form in operands for source in form.symbols)
        symbols = {source: pushed([form.symbols.get(source) for form in operands]) for source in names}
        n = max(len(form.center) for form in operands)
        center = rule.linear(call, *(form.center.expand(n, *form.center.shape[1:]) for form in operands))
        bias = rule.bias(call)
        boxes = [form.box for form in operands]
        box = None
        if any(b is not None for b in boxes):
            filled = [torch.zeros_like(form.center) if form.box is None else form.box for form in operands]
            n = max(len(b) for b in filled)
            box = rule.spread(call, *(b.expand(n, *b.shape[1:]) for b in filled))
        return AffineForm(
            linear=pushed([form.linear for form in operands]),
            symbols={source: block for source, block in symbols.items() if block is not None},
            center=center if bias is None else center + bias,
            box=box,
        )

    def _relaxed(self, rule: Nonlinear, call: Call, operands: list[AffineForm]) -> AffineForm:
        """Apply planes of one slope; half of the gap between them becomes a new error."""
        intervals = [self.state.interval(operand).unsqueeze(1) for operand in call.node.operands]
        planes = rule.relax(call, Slope.PARALLEL, (), *intervals)
        assert planes.lower.map is planes.upper.map
        shared = planes.lower.map

        def pushed(parts: list[Tensor | None]) -> Tensor | None:
            return shared.apply(*parts) if any(part is not None for part in parts) else None

        names = dict.fromkeys(source for form in operands for source in form.symbols)
        symbols = {source: pushed([form.symbols.get(source) for form in operands]) for source in names}
        center = shared.apply(*(form.center.unsqueeze(1) for form in operands)).squeeze(1)
        low, high = planes.lower.bias.squeeze(1), planes.upper.bias.squeeze(1)
        error = (high - low) / 2
        new, rest = _split(error, self.errors)
        if new is not None:
            symbols[call.node.name] = new
        if any(form.box is not None for form in operands):
            spread = shared.magnitude().apply(
                *(None if form.box is None else form.box.unsqueeze(1) for form in operands)
            )
            rest = spread.squeeze(1) if rest is None else rest + spread.squeeze(1)
        return AffineForm(
            linear=pushed([form.linear for form in operands]),
            symbols={source: block for source, block in symbols.items() if block is not None},
            center=center + (high + low) / 2,
            box=rest,
        )

    def lower(self, form: AffineForm, coef: Tensor) -> Tensor:
        """Return lower bounds of a specification.  coef [N, S, *out] -> [N, S]"""
        rows = flat(coef, 2)
        total = (rows * flat(form.center, 1).unsqueeze(1)).sum(-1)
        if form.box is not None:
            total = total - (rows.abs() * flat(form.box, 1).unsqueeze(1)).sum(-1)
        for block in form.symbols.values():
            total = total - (rows @ flat(block, 2).transpose(1, 2)).abs().sum(-1)
        if form.linear is not None:
            region = self.state.region
            projected = rows @ flat(form.linear, 2).transpose(1, 2)
            total = total + region.minimum(projected.reshape(*projected.shape[:2], *region.x.shape[1:]))
        return total


def _split(error: Tensor, errors: int | None) -> tuple[Tensor | None, Tensor | None]:
    """Return (the largest errors as symbols [N, k, *shape], the others as a box).  errors None keeps all of them."""
    errors_of = flat(error, 1)
    nonzero = errors_of.detach() > 0
    count = int(nonzero.sum(1).max()) if errors_of.numel() else 0
    kept_count = count if errors is None else min(errors, count)
    if count == 0:
        return None, None
    if kept_count == 0:
        return None, error
    top = errors_of.detach().topk(kept_count, dim=1).indices
    values = errors_of.gather(1, top)
    blocks = torch.zeros(len(error), kept_count, errors_of.shape[1], dtype=error.dtype, device=error.device)
    symbols = blocks.scatter(2, top.unsqueeze(2), values.unsqueeze(2)).reshape(
        len(error), kept_count, *error.shape[1:]
    )
    if kept_count == count:
        return symbols, None
    return symbols, errors_of.scatter(1, top, 0.0).reshape(error.shape)
