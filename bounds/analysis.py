"""Rows of any tensor by backward passes, and the intervals that they make tighter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from bounds.backward import lower_bound
from bounds.cost import row_cost
from bounds.graph import Network
from bounds.interval import Interval
from bounds.known import Known
from bounds.layout import flat
from bounds.memory import Blocks, Budget, recomputed
from bounds.ops import Nonlinear, rule_for
from bounds.ops.rule import Tuning
from bounds.patch import Rows, unit_rows
from bounds.region import Region
from bounds.relaxation import Images, Relaxation, Slope
from bounds.sides import Sides, signs_alone
from bounds.sieve import Boxes, Sieve

MANY = 1_000_000
"""Coefficients from which on the second side of a unit is worth waiting for the first."""
Tunings = dict[str, Tuning]
Meet = Callable[[Interval, Interval], Interval]


class Analysis(Known):
    """The same, and rows of any tensor by backward passes, by which its interval is refined."""

    def __init__(self, network: Network, region: Region, budget: Budget, slope: Slope) -> None:
        super().__init__(network, region, budget, slope)
        self.sides = Sides(self)
        self._idle: frozenset[str] = frozenset()
        self._read: dict[str, Interval] = {}

    def hold(self, found: Mapping[str, Interval]) -> None:
        super().hold(found)
        for name in found:
            self._read.pop(name, None)

    def restart(self) -> None:
        super().restart()
        self.sides, self._idle = Sides(self), frozenset()
        self._read.clear()

    # Rows

    def rows(self, target: str, coef: Tensor, tunings: Tunings | None = None) -> Tensor:
        """Lower bounds of linear forms of a tensor by the backward pass, in chunks.  coef [N, S, *shape] -> [N, S]"""

        def some(images: Images, rows: slice) -> Tensor:
            return coef[images][:, rows]

        found = self._chunked(target, [coef.shape[1]] * len(coef), some, tunings)
        return self.defined(coef, found) if target == self.network.graph.output else found

    def rows_at(
        self,
        target: str,
        units: Tensor,
        tunings: Tunings | None = None,
        counts: Sequence[int] = (),
        sieved: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of single units.  units [N, M], flat indices into the tensor -> two [N, M].

        counts: how many of the M each image needs (all by default); what is said of the others means nothing.
        sieved: whether of a unit whose sign is known no more need be known.
        """
        shape = self.network.graph.shape(target)

        def some(images: Images, rows: slice) -> Rows:
            return unit_rows(units[images][:, rows], shape, self.network.dtype)

        counts = counts or [units.shape[1]] * len(units)
        both = self._chunked(target, counts, some, tunings, sides=2, unit=True, sieved=sieved)
        return both[:, 0], -both[:, 1]

    def signed_rows(
        self,
        target: str,
        units: Tensor,
        signs: Tensor,
        tunings: Tunings | None,
        counts: Sequence[int],
        sieved: bool,
    ) -> Tensor:
        """Lower bounds of sign·unit; all else as in `rows_at`.  signs [N, M] -> [N, M]"""
        shape = self.network.graph.shape(target)

        def some(images: Images, rows: slice) -> Rows:
            return unit_rows(units[images][:, rows], shape, self.network.dtype, signs[images][:, rows])

        return self._chunked(target, counts, some, tunings, unit=True, sieved=sieved)

    def _chunked(
        self,
        target: str,
        counts: Sequence[int],
        some: Callable[[Images, slice], Rows],
        tunings: Tunings | None,
        sides: int = 1,
        unit: bool = False,
        sieved: bool = False,
    ) -> Tensor:
        """[N, rows], or [N, sides, rows]: blocks of rows under the budget, recomputed in the backward of autograd.

        rows: the most of `counts`, which says how many each image has; the others are zero.
        """
        rows = max(counts, default=0)
        nonlinear = self.relaxed_before(target)
        for name in nonlinear:
            for operand in self.network.graph.nodes[name].operands:
                self.interval(operand)
        # a block that is computed again, when other bounds are held, computes the same
        fixed = {name: self.relaxation(name) for name in nonlinear} if tunings is None else {}
        boxed = self._boxed_before(target) if sieved else frozenset()
        for name in boxed:
            self.interval(name)
        then = self._now()

        def block(images: Images, chunk: slice, idle: frozenset[str]) -> Tensor:
            def provide(name: str) -> Relaxation:
                if tunings is None:
                    return fixed[name].at(images)
                tuning = tuple(
                    t[images][:, chunk] if t.shape[1] == rows and rows > 1 else t[images]
                    for t in tunings[name]
                )
                return then.tuned(name, tuning, images)

            region, coef = self.region.at(images), some(images, chunk)
            sieve = None
            if sieved:
                sieve = Sieve(self.network.graph.input, region, known(images), coef, idle, sides)
            found = lower_bound(self.network, region, provide, target, coef, sieve)
            if sieve is not None:
                self._idle |= sieve.idle
            return found

        def known(images: Images) -> Boxes:
            def box(name: str) -> Interval | None:
                return then.interval(name).at(images) if name in boxed else None

            return box

        def joined(blocks: Blocks) -> Tensor:
            results: dict[tuple[int, ...], list[Tensor]] = {}
            for group, chunk in blocks:
                images = self._images(group)
                part = recomputed(len(blocks) > 1, block, images, chunk, self._idle)
                results.setdefault(tuple(group), []).append(part.reshape(len(part), sides, -1))
            whole = [torch.cat(parts, 2) for parts in results.values()]
            found = torch.cat([F.pad(part, (0, rows - part.shape[2])) for part in whole])
            place = torch.tensor([image for group in results for image in group], device=found.device)
            return found.new_zeros(len(counts), sides, rows).index_copy(0, place, found)

        cost = sides * row_cost(self.network, target, unit=unit)
        found = self.budget.fitted(counts, cost, joined)
        return found.squeeze(1) if sides == 1 else found

    def _now(self) -> Analysis:
        """What is known at present, whatever is held later."""
        now = copy(self)
        now._intervals, now._derived = dict(self._intervals), set(self._derived)
        return now

    def _boxed_before(self, target: str) -> frozenset[str]:
        """The tensors whose intervals follow on the way to that of `target` from the bounds that were given."""
        found, stack = set(self._given), [target]
        while stack:
            name = stack.pop()
            if name not in found:
                found.add(name)
                stack += () if name in self.plan.prefix else self.network.graph.nodes[name].operands
        return frozenset(found)

    def _by_sign(self, target: str) -> bool:
        """Whether all that reads a tensor asks of its units is whether they may change their sign."""
        rules = [
            rule_for(self.network.graph.nodes[reader.node]) for reader in self.plan.readers.get(target, ())
        ]
        return bool(rules) and all(isinstance(rule, Nonlinear) and rule.by_sign for rule in rules)

    def _images(self, group: list[int]) -> Images:
        """A group of images as an index, a slice where they follow each other."""
        if group == list(range(group[0], group[0] + len(group))):
            return slice(group[0], group[0] + len(group))
        return torch.tensor(group, device=self.network.device)

    # Refinement

    def unstable(self, target: str) -> Tensor:
        """Units of a tensor whose readers are not settled by its present interval.  [N, units] of bool"""
        x = self.interval(target)
        mask = torch.zeros_like(x.lower, dtype=torch.bool)
        with torch.no_grad():
            for reader in self.plan.readers[target]:
                node = self.network.graph.nodes[reader.node]
                rule = rule_for(node)
                assert isinstance(rule, Nonlinear)
                call = self.network.call(node)
                if reader.direct:
                    operands = [self.interval(operand) for operand in node.operands]
                    mask |= rule.unstable(call, *operands)[reader.operand]
                elif rule.elementwise and len(node.operands) == 1 and not _by_position(node.op):
                    mask |= rule.unstable(call, x)[0]
                else:
                    mask |= True
        return flat(mask, 1)

    def refine(
        self,
        target: str,
        tunings: Tunings | None = None,
        *,
        meet: Meet = Interval.intersect,
        mask: Tensor | None = None,
    ) -> None:
        """Tighten the interval of a tensor by backward rows for the units that need it; `meet` joins old and new.

        mask: the units, [N, units] of bool; `unstable` by default.  Tunings are [N, 1, …], or [N, M, …] for the M
        units of each image, in their order.
        """
        if target in self.plan.prefix:
            self.interval(target)
            return
        old = self.interval(target)
        mask = self.unstable(target) if mask is None else mask
        counts = mask.sum(1).tolist()
        most = max(counts, default=0)
        if most == 0:
            return
        units = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        every = Interval(*(flat(side, 1) for side in old))
        kept = Interval(every.lower.gather(1, units), every.upper.gather(1, units))
        signs_do = self._by_sign(target) and not _own(tunings)
        many = sum(counts) * row_cost(self.network, target, unit=True) > MANY
        if signs_do and many and self.sides.pays:
            rows = self.sides.bounds(target, units, kept, tunings, counts)
        else:
            rows = Interval(*self.rows_at(target, units, tunings, counts, sieved=signs_do))
        # images with fewer such units are filled up with others, which stay as they are
        chosen = mask.gather(1, units)
        sides = zip(rows.known(), kept, strict=True)
        rows = Interval(*(torch.where(chosen, new, before) for new, before in sides))
        with self.naming(target):
            met = meet(kept, rows)

        def placed(new: Interval) -> Interval:
            lower = every.lower.scatter(1, units, new.lower)
            upper = every.upper.scatter(1, units, new.upper)
            return Interval(lower.reshape(old.lower.shape), upper.reshape(old.lower.shape))

        if signs_do:
            read = placed(met).detach()
            self.hold({target: placed(signs_alone(kept, met))})
            self._read[target] = read
        else:
            self.hold({target: placed(met)})

    def guess(self, target: str) -> Interval:
        """About what `refine` might have said of a tensor: no bounds of units that are settled.  [N, *shape]"""
        if target not in self._read:
            return self.interval(target)
        return self.sides.mirrored(target, self._read[target])


def _own(tunings: Tunings | None) -> bool:
    """Whether any row has a choice of its own."""
    return any(t.shape[1] > 1 for tuning in (tunings or {}).values() for t in tuning)


def _by_position(op: str) -> bool:
    """Element-wise operators whose parameters depend on the channel cannot be asked about a moved tensor."""
    return op == "aten.prelu.default"
