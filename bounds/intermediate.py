"""What one call knows: intervals and relaxations of one network on one region, as far as they were asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from types import MappingProxyType

import torch
from torch import Tensor

from .chunking import Blocks, MemoryBudget, recomputed
from .cost_model import row_cost
from .errors import BoundsError
from .graph import Network
from .graph.facts import facts_of
from .interval import Interval
from .operators import Nonlinear, rule_for
from .operators.rule import Alphas
from .passes.crown import lower_bound, lower_bound_from_boxes
from .passes.domain import undefined, without
from .patch import unit_rows
from .region import Region
from .relaxation import EVERYTHING, Images, Relaxation, Slope


class IntermediateBounds:
    """Bounds of every tensor on demand; nothing is written on the network.

    Every bound enters by `hold`, which drops what was derived from the one that it replaces.  So an answer depends on
    the bounds that are held, and not on what was asked before.
    """

    def __init__(self, network: Network, region: Region, budget: MemoryBudget, slope: Slope) -> None:
        self.network = network
        self.region = region
        self.budget = budget
        self.slope = slope
        self.facts = facts_of(network.graph)
        self._intervals: dict[str, Interval] = {}
        self._derived: set[str] = set()
        self._given: dict[str, Interval] = {}
        self._relaxations: dict[str, Relaxation] = {}

    @property
    def intervals(self) -> Mapping[str, Interval]:
        """What is known so far, to be read."""
        return MappingProxyType(self._intervals)

    def hold(self, found: Mapping[str, Interval]) -> None:
        """Take these for the bounds of their tensors, and drop all that was derived from what they replace."""
        stack, seen = [name for name in found if name in self._intervals], set()
        self._intervals.update(found)
        self._derived.difference_update(found)
        while stack:
            for child in self.facts.children.get(stack.pop(), ()):
                self._relaxations.pop(child, None)
                held = child in self._intervals and child not in self._derived
                if child in seen or held or self._is_exact(child):
                    continue
                seen.add(child)
                self._derived.discard(child)
                self._intervals.pop(child, None)
                stack.append(child)

    def derive(self, found: Mapping[str, Interval]) -> None:
        """Take these, which follow from the bounds that are held, for what interval arithmetic says."""
        self.hold(found)
        self._derived.update(found)

    def give(self, found: Mapping[str, Interval]) -> None:
        """The same for bounds that are part of the question: `restart` keeps them."""
        self.hold(found)
        self._given.update(found)

    def restart(self) -> None:
        """Go back to the bounds that were given, so that a method's result does not depend on what ran before it."""
        self._intervals, self._derived = dict(self._given), set()
        self._relaxations.clear()

    @contextmanager
    def naming(self, name: str) -> Iterator[None]:
        """A BoundsError says of which tensor it is."""
        try:
            yield
        except BoundsError as error:
            raise type(error)(f"bounds of {self._where(name)}: {error}") from error

    def _where(self, name: str) -> str:
        nodes = self.network.graph.nodes
        return nodes[name].where() if name in nodes else f"the input '{name}'"

    def interval(self, name: str) -> Interval:
        """Bounds of a tensor: those held, or interval arithmetic from the nearest that are.  [N, *shape]

        Raises BoundsError, which names the tensor, where a lower bound exceeds its upper bound.
        """
        if name in self._intervals:
            return self._intervals[name]
        graph = self.network.graph
        missing, stack = set(), [name]
        while stack:
            current = stack.pop()
            if current in self._intervals or current in missing:
                continue
            missing.add(current)
            if current not in self.facts.prefix:
                stack += graph.nodes[current].operands
        for current in self.facts.order:
            if current in missing:
                self._intervals[current] = self._evaluate(current)
                self._derived.add(current)
        return self._intervals[name]

    def _evaluate(self, name: str) -> Interval:
        graph = self.network.graph
        if name == graph.input:
            return self.region.box().settled(lambda: self._where(name))
        node = graph.nodes[name]
        if self._is_exact(name):
            with self.naming(name):
                return self._exact(name)
        operands = [self.interval(operand) for operand in node.operands]
        found = rule_for(node).interval(self.network.call(node), *operands)
        return found.settled(lambda: self._where(name))

    def _is_exact(self, name: str) -> bool:
        """Whether a tensor is bounded against the region itself, whatever is known of others."""
        return name in self.facts.prefix and not (self.region.is_box and name in self.facts.plain)

    def _exact(self, name: str) -> Interval:
        """A tensor that is affine in the input, against the region itself.  Its rows are the same for every image."""
        shape, region = self.network.graph.shape(name), self.region
        units = torch.arange(prod(shape), device=self.network.device).unsqueeze(0)

        def block(rows: slice) -> Tensor:
            coef = unit_rows(units[:, rows], shape, self.network.dtype)
            return lower_bound(self.network, region, self.relaxation, name, coef).unflatten(1, (2, -1))

        def joined(blocks: Blocks) -> Tensor:
            return torch.cat([recomputed(len(blocks) > 1, block, rows) for _, rows in blocks], 2)

        cost = 2 * row_cost(self.network, name, unit=True) * (len(region.x) if region.clipped else 1)
        both = self.budget.fitted([units.shape[1]], cost, joined)
        found = Interval(both[:, 0].reshape(-1, *shape), -both[:, 1].reshape(-1, *shape)).known()
        return Interval.between(*found)

    def relaxation(self, name: str) -> Relaxation:
        """The default relaxation of a nonlinear node on its operands' intervals."""
        if name not in self._relaxations:
            self._relaxations[name] = self.relaxation_at(name, (), EVERYTHING, self.slope)
        return self._relaxations[name]

    def relaxation_at(
        self, name: str, alphas: Alphas, images: Images = EVERYTHING, slope: Slope | None = None
    ) -> Relaxation:
        """The relaxation for a given choice among the sound planes."""
        node = self.network.graph.nodes[name]
        rule = rule_for(node)
        assert isinstance(rule, Nonlinear)
        operands = [self.interval(operand).at(images).unsqueeze(1) for operand in node.operands]
        return rule.relax(self.network.call(node), slope or self.slope, alphas, *operands)

    def default_alphas(self, name: str) -> Alphas:
        node = self.network.graph.nodes[name]
        rule = rule_for(node)
        assert isinstance(rule, Nonlinear)
        operands = [self.interval(operand).unsqueeze(1) for operand in node.operands]
        return rule.alphas(self.network.call(node), *operands)

    def lower_bounds_by_intervals(self, coef: Tensor) -> Tensor:
        """Lower bounds of rows of the output through its affine tail, then from intervals.  [N, S]"""
        for name in self.facts.tail_ends:
            self.interval(name)
        found = lower_bound_from_boxes(
            self.network, self.region, self.interval, self.network.graph.output, coef
        )
        return self.defined(coef, found)

    def defined(self, coef: Tensor, lower: Tensor) -> Tensor:
        """Lower bounds [N, S] of rows [N, S, *out] of the output, −∞ where one may have no value in the region."""
        return without(undefined(self), coef, lower)

    def relaxed_before(self, target: str) -> list[str]:
        """The nonlinear nodes that a row of `target` passes."""
        graph, seen, stack, found = self.network.graph, set(), [target], []
        while stack:
            name = stack.pop()
            if name in seen or name == graph.input:
                continue
            seen.add(name)
            if isinstance(rule_for(graph.nodes[name]), Nonlinear):
                found.append(name)
            stack += graph.nodes[name].operands
        return found
