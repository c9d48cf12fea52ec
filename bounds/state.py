"""The state of one call that a method works on: intermediate bounds, and the backward passes that tighten them."""

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
from .rows import DenseRows, NodeAlphas, RowBlocks, Specification, Units

ONE_SIDED_COEFFICIENTS = 1_000_000
"""Number of coefficients of a tensor's rows from which on its units are bounded one side at a time.  Chosen by hand."""
Meet = Callable[[Interval, Interval], Interval]
"""Combines the old and the new interval of a tensor."""


class BoundState(IntermediateBounds):
    """The intermediate bounds of one call, with backward passes for linear forms of any tensor.

    A method receives one.  `lower_bounds` bounds linear forms of a tensor by a backward pass; `refine` tightens the
    intermediate bounds of a tensor by one.
    """

    def __init__(self, network: Network, region: Region, budget: MemoryBudget, slope: Slope) -> None:
        super().__init__(network, region, budget, slope)
        self.one_sided = OneSided(network, region)
        self._unproductive: frozenset[str] = frozenset()
        self._before_cut: dict[str, Interval] = {}

    def hold(self, new: Mapping[str, Interval]) -> None:
        super().hold(new)
        for name in new:
            self._before_cut.pop(name, None)

    def restart(self) -> None:
        super().restart()
        self.one_sided, self._unproductive = OneSided(self.network, self.region), frozenset()
        self._before_cut.clear()

    # Specifications

    def lower_bounds(self, target: str, coef: Tensor, node_alphas: NodeAlphas | None = None) -> Tensor:
        """Return lower bounds of linear forms of a tensor by a backward pass.  coef [N, S, *shape] -> [N, S]

        node_alphas: the alphas of each nonlinear node before the tensor; None for the default planes.
        """
        cost = row_cost(self.network, target, unit=False)
        found = self._backward_bounds(target, DenseRows(coef), node_alphas, cost, early_stop=False)
        found = found.squeeze(1)
        return self.defined(coef, found) if target == self.network.graph.output else found

    def unit_bounds(
        self,
        target: str,
        units: Tensor,
        node_alphas: NodeAlphas | None = None,
        counts: Sequence[int] = (),
        early_stop: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return lower and upper bounds of single units.  units [N, M], flat indices into the tensor -> two [N, M]

        counts: the number of the M units that each image needs (all by default); the bounds of the others mean nothing.
        early_stop: whether a unit whose sign is decided needs no tighter bound.
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
        """Return lower bounds of sign·unit, with the other arguments as in `unit_bounds`.  signs [N, M] -> [N, M]"""
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
        specification = Units(units, counts, shape, dtype, signs)
        cost = specification.sides * row_cost(self.network, target, unit=True)
        return self._backward_bounds(target, specification, node_alphas, cost, early_stop)

    def _backward_bounds(
        self,
        target: str,
        specification: Specification,
        node_alphas: NodeAlphas | None,
        cost: int,
        early_stop: bool,
    ) -> Tensor:
        """Run the backward pass in blocks that fit into the memory budget.  [N, sides, rows]"""
        nonlinear = self.relaxed_before(target)
        for name in nonlinear:
            for operand in self.network.graph.nodes[name].operands:
                self.interval(operand)
        relaxations = {name: self.relaxation(name) for name in nonlinear} if node_alphas is None else {}
        intervals = (
            {name: self.interval(name) for name in self._follow_from_given(target)} if early_stop else None
        )
        blocks = RowBlocks(
            self._snapshot(), target, specification, node_alphas, relaxations, intervals, self._unproductive
        )
        found = self.budget.fitted(specification.counts, cost, blocks.bound)
        self._unproductive = blocks.unproductive
        return found

    def _snapshot(self) -> BoundState:
        """Return a copy with the bounds that are held at present, whatever is stored later."""
        now = copy(self)
        now._intervals, now._derived = dict(self._intervals), set(self._derived)
        return now

    def _follow_from_given(self, target: str) -> frozenset[str]:
        """Return the tensors on the way to `target` whose intervals follow from the bounds that were given."""
        graph, ends = self.network.graph, self.facts.prefix | self._given.keys()
        return graph.upstream([target], stop=ends.__contains__) | self._given.keys()

    def _by_sign(self, target: str) -> bool:
        """Return whether every reader of a tensor needs to know only whether its units may change their sign."""
        rules = [
            rule_for(self.network.graph.nodes[reader.node]) for reader in self.facts.readers.get(target, ())
        ]
        return bool(rules) and all(isinstance(rule, Nonlinear) and rule.by_sign for rule in rules)

    # Refinement

    def unstable(self, target: str) -> Tensor:
        """Return the mask of the unstable units of a tensor, [N, units]: its readers' relaxations are loose on them."""
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
        """Tighten the intermediate bounds of a tensor by a backward pass for the units that need it.

        mask: the units, [N, units] of bool; `unstable` by default.  meet: combines the old and the new bounds.
        node_alphas: [N, 1, …], or [N, M, …] for the M units of each image, in their order.
        """
        if target in self.facts.prefix:
            self.interval(target)
            return
        old = self.interval(target)
        mask = self.unstable(target) if mask is None else mask
        counts = mask.sum(1).tolist()
        largest = max(counts, default=0)
        if largest == 0:
            return
        units = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :largest]
        flattened = Interval(*(flat(side, 1) for side in old))
        current = Interval(flattened.lower.gather(1, units), flattened.upper.gather(1, units))
        sign_suffices = self._by_sign(target) and not _has_own_alphas(node_alphas)
        large = sum(counts) * row_cost(self.network, target, unit=True) > ONE_SIDED_COEFFICIENTS
        if sign_suffices and large and self.one_sided.worthwhile:

            def bound_signed(
                subset: Tensor, signs: Tensor, needed: Sequence[int], early_stop: bool
            ) -> Tensor:
                return self.signed_unit_bounds(target, subset, signs, node_alphas, needed, early_stop)

            bounds = self.one_sided.bounds(target, units, current, counts, bound_signed)
        else:
            bounds = Interval(*self.unit_bounds(target, units, node_alphas, counts, early_stop=sign_suffices))
        # images with fewer such units are padded with others, which keep their bounds
        needed_units = mask.gather(1, units)
        sides = zip(bounds.overflow_as_infinite(), current, strict=True)
        bounds = Interval(*(torch.where(needed_units, new, before) for new, before in sides))
        with self.naming(target):
            tightened = meet(current, bounds)

        def scattered(new: Interval) -> Interval:
            lower = flattened.lower.scatter(1, units, new.lower)
            upper = flattened.upper.scatter(1, units, new.upper)
            return Interval(lower.reshape(old.lower.shape), upper.reshape(old.lower.shape))

        if sign_suffices:
            uncut = scattered(tightened).detach()
            self.hold({target: scattered(signs_alone(current, tightened))})
            self._before_cut[target] = uncut
        else:
            self.hold({target: scattered(tightened)})

    def guess(self, target: str) -> Interval:
        """Return an estimate of the interval that a full `refine` would give.  [N, *shape]

        The estimate is not sound for units whose rows stopped early.
        """
        if target not in self._before_cut:
            return self.interval(target)
        return self.one_sided.mirrored(target, self._before_cut[target])


def _has_own_alphas(node_alphas: NodeAlphas | None) -> bool:
    """Return whether any row has alphas of its own."""
    return any(t.shape[1] > 1 for alphas in (node_alphas or {}).values() for t in alphas)


def _by_position(op: str) -> bool:
    """Return whether an element-wise operator has parameters per channel, so that its mask cannot be reshaped."""
    return op == "aten.prelu.default"
