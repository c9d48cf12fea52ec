"""The state of one call that a method works on: intermediate bounds, and backward passes that tighten them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy

import torch
from torch import Tensor

from .chunking import MemoryBudget
from .cost_model import row_cost
from .graph import Network
from .intermediate import IntermediateBounds
from .interval import Interval
from .memory_format import flat
from .one_sided import OneSided, signs_alone
from .operators import Nonlinear, rule_for
from .region import Region
from .relaxation import Slope
from .rows import Asked, LinearForms, NodeAlphas, RowBlocks, Units

MANY = 1_000_000
"""Coefficients from which on the second side of a unit is worth waiting for the first."""
Meet = Callable[[Interval, Interval], Interval]


class BoundState(IntermediateBounds):
    """What a method is given: the intermediate bounds of one call, and lower bounds of any tensor's rows.

    `lower_bounds` asks for linear forms of a tensor by a backward pass, `refine` tightens a tensor's interval by one.
    """

    def __init__(self, network: Network, region: Region, budget: MemoryBudget, slope: Slope) -> None:
        super().__init__(network, region, budget, slope)
        self.one_sided = OneSided(network, region)
        self._undecided: frozenset[str] = frozenset()
        self._read: dict[str, Interval] = {}

    def hold(self, found: Mapping[str, Interval]) -> None:
        super().hold(found)
        for name in found:
            self._read.pop(name, None)

    def restart(self) -> None:
        super().restart()
        self.one_sided, self._undecided = OneSided(self.network, self.region), frozenset()
        self._read.clear()

    # Rows

    def lower_bounds(self, target: str, coef: Tensor, node_alphas: NodeAlphas | None = None) -> Tensor:
        """Lower bounds of linear forms of a tensor by the backward pass.  coef [N, S, *shape] -> [N, S]

        node_alphas: the choice of planes for each nonlinear node before the tensor; the default planes for None.
        """
        cost = row_cost(self.network, target, unit=False)
        found = self._bounded(target, LinearForms(coef), node_alphas, cost, early_stop=False).squeeze(1)
        return self.defined(coef, found) if target == self.network.graph.output else found

    def unit_bounds(
        self,
        target: str,
        units: Tensor,
        node_alphas: NodeAlphas | None = None,
        counts: Sequence[int] = (),
        early_stop: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of single units.  units [N, M], flat indices into the tensor -> two [N, M]

        counts: how many of the M each image needs (all by default); the bounds of the others mean nothing.
        early_stop: whether a unit whose sign is known needs no tighter bound.
        """
        both = self._unit_rows(target, units, None, node_alphas, counts, early_stop)
        return both[:, 0], -both[:, 1]

    def signed_unit_bounds(
        self,
        target: str,
        units: Tensor,
        signs: Tensor,
        node_alphas: NodeAlphas | None = None,
        counts: Sequence[int] = (),
        early_stop: bool = False,
    ) -> Tensor:
        """Lower bounds of sign·unit; all else as in `unit_bounds`.  signs [N, M] -> [N, M]"""
        return self._unit_rows(target, units, signs, node_alphas, counts, early_stop).squeeze(1)

    def _unit_rows(
        self,
        target: str,
        units: Tensor,
        signs: Tensor | None,
        node_alphas: NodeAlphas | None,
        counts: Sequence[int],
        early_stop: bool,
    ) -> Tensor:
        counts = counts or [units.shape[1]] * len(units)
        shape, dtype = self.network.graph.shape(target), self.network.dtype
        asked = Units(units, counts, shape, dtype, signs)
        cost = asked.sides * row_cost(self.network, target, unit=True)
        return self._bounded(target, asked, node_alphas, cost, early_stop)

    def _bounded(
        self, target: str, asked: Asked, node_alphas: NodeAlphas | None, cost: int, early_stop: bool
    ) -> Tensor:
        """[N, sides, rows], in blocks under the memory budget."""
        nonlinear = self.relaxed_before(target)
        for name in nonlinear:
            for operand in self.network.graph.nodes[name].operands:
                self.interval(operand)
        relaxations = {name: self.relaxation(name) for name in nonlinear} if node_alphas is None else {}
        intervals = {name: self.interval(name) for name in self._known_before(target)} if early_stop else None
        blocks = RowBlocks(
            self._snapshot(), target, asked, node_alphas, relaxations, intervals, self._undecided
        )
        found = self.budget.fitted(asked.counts, cost, blocks.of)
        self._undecided = blocks.undecided
        return found

    def _snapshot(self) -> BoundState:
        """The bounds that are held at present, whatever is held later."""
        now = copy(self)
        now._intervals, now._derived = dict(self._intervals), set(self._derived)
        return now

    def _known_before(self, target: str) -> frozenset[str]:
        """The tensors whose intervals follow on the way to that of `target` from the bounds that were given."""
        found, stack = set(self._given), [target]
        while stack:
            name = stack.pop()
            if name not in found:
                found.add(name)
                stack += () if name in self.facts.prefix else self.network.graph.nodes[name].operands
        return frozenset(found)

    def _by_sign(self, target: str) -> bool:
        """Whether all that reads a tensor asks of its units is whether they may change their sign."""
        rules = [
            rule_for(self.network.graph.nodes[reader.node]) for reader in self.facts.readers.get(target, ())
        ]
        return bool(rules) and all(isinstance(rule, Nonlinear) and rule.by_sign for rule in rules)

    # Refinement

    def unstable(self, target: str) -> Tensor:
        """Units of a tensor whose readers are not settled by its present interval.  [N, units] of bool"""
        x = self.interval(target)
        mask = torch.zeros_like(x.lower, dtype=torch.bool)
        with torch.no_grad():
            for reader in self.facts.readers[target]:
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
        node_alphas: NodeAlphas | None = None,
        *,
        meet: Meet = Interval.intersect,
        mask: Tensor | None = None,
    ) -> None:
        """Tighten the interval of a tensor by backward rows for the units that need it; `meet` joins old and new.

        mask: the units, [N, units] of bool; `unstable` by default.  NodeAlphas are [N, 1, …], or [N, M, …] for the M
        units of each image, in their order.
        """
        if target in self.facts.prefix:
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
        signs_do = self._by_sign(target) and not _own(node_alphas)
        many = sum(counts) * row_cost(self.network, target, unit=True) > MANY
        if signs_do and many and self.one_sided.pays:

            def ask(some: Tensor, signs: Tensor, needed: Sequence[int], early_stop: bool) -> Tensor:
                return self.signed_unit_bounds(target, some, signs, node_alphas, needed, early_stop)

            rows = self.one_sided.bounds(target, units, kept, counts, ask)
        else:
            rows = Interval(*self.unit_bounds(target, units, node_alphas, counts, early_stop=signs_do))
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
        """An estimate of the interval that a full `refine` would give.  [N, *shape]

        It is not sound for units whose rows stopped early.
        """
        if target not in self._read:
            return self.interval(target)
        return self.one_sided.mirrored(target, self._read[target])


def _own(node_alphas: NodeAlphas | None) -> bool:
    """Whether any row has a choice of its own."""
    return any(t.shape[1] > 1 for alphas in (node_alphas or {}).values() for t in alphas)


def _by_position(op: str) -> bool:
    """Element-wise operators whose parameters depend on the channel cannot be asked about a moved tensor."""
    return op == "aten.prelu.default"
