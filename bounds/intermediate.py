"""The intermediate bounds and relaxations of one call, computed when they are asked for."""

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
from .passes.crown import lower_bound, lower_bound_from_intervals
from .passes.domain import undefined, without
from .patch import unit_rows
from .region import Region
from .relaxation import EVERYTHING, Images, Relaxation, Slope


class IntermediateBounds:
    """Bounds and relaxations of every tensor of one network on one region, computed when they are asked for.

    Nothing is written on the network.  Every bound enters by `hold`, which drops all bounds that were derived from the
    one it replaces.  So an answer depends on the bounds that are held, and not on the order of earlier calls.
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
        """A read-only view of the intermediate bounds that are held at present."""
        return MappingProxyType(self._intervals)

    def hold(self, new: Mapping[str, Interval]) -> None:
        """Store intermediate bounds by tensor name, and drop all bounds that were derived from those they replace."""
        stack, seen = [name for name in new if name in self._intervals], set()
        self._intervals.update(new)
        self._derived.difference_update(new)
        while stack:
            for child in self.facts.children.get(stack.pop(), ()):
                self._relaxations.pop(child, None)
                stored = child in self._intervals and child not in self._derived
                if child in seen or stored or self._is_exact(child):
                    continue
                seen.add(child)
                self._derived.discard(child)
                self._intervals.pop(child, None)
                stack.append(child)

    def derive(self, new: Mapping[str, Interval]) -> None:
        """Store bounds that follow from the held ones; they are dropped when those change."""
        self.hold(new)
        self._derived.update(new)

    def give(self, new: Mapping[str, Interval]) -> None:
        """Store bounds that are part of the question, so that `restart` keeps them."""
        self.hold(new)
        self._given.update(new)

    def restart(self) -> None:
        """Return to the bounds that were given, so that a method's result does not depend on what ran before."""
        self._intervals, self._derived = dict(self._given), set()
        self._relaxations.clear()

    @contextmanager
    def naming(self, name: str) -> Iterator[None]:
        """Return a context in which a BoundsError names the tensor."""
        try:
            yield
        except BoundsError as error:
            raise type(error)(f"bounds of {self._where(name)}: {error}") from error

    def _where(self, name: str) -> str:
        nodes = self.network.graph.nodes
        return nodes[name].where() if name in nodes else f"the input '{name}'"

    def interval(self, name: str) -> Interval:
        """Return the bounds of a tensor, [N, *shape]: the held ones, or interval arithmetic from the nearest held ones.

        Raises BoundsError, which names the tensor, if a lower bound exceeds its upper bound.
        """
        if name in self._intervals:
            return self._intervals[name]
        graph = self.network.graph
        ends = self.facts.prefix | self._intervals.keys()
        missing = graph.upstream([name], stop=ends.__contains__) - self._intervals.keys()
        for current in self.facts.order:
            if current in missing:
                self._intervals[current] = self._evaluate(current)
                self._derived.add(current)
        return self._intervals[name]

    def _evaluate(self, name: str) -> Interval:
        graph = self.network.graph
        if name == graph.input:
            return self.region.box().checked(lambda: self._where(name))
        node = graph.nodes[name]
        if self._is_exact(name):
            with self.naming(name):
                return self._exact(name)
        operands = [self.interval(operand) for operand in node.operands]
        found = rule_for(node).interval(self.network.call(node), *operands)
        return found.checked(lambda: self._where(name))

    def _is_exact(self, name: str) -> bool:
        """Return whether a tensor is concretised on the region itself, independently of all other bounds."""
        return name in self.facts.prefix and not (self.region.is_box and name in self.facts.plain)

    def _exact(self, name: str) -> Interval:
        """Return exact bounds of a tensor that is affine in the input; all images share its coefficients."""
        shape, region = self.network.graph.shape(name), self.region
        units = torch.arange(prod(shape), device=self.network.device).unsqueeze(0)

        def block(rows: slice) -> Tensor:
            coef = unit_rows(units[:, rows], shape, self.network.dtype)
            return lower_bound(self.network, region, self.relaxation, name, coef).unflatten(1, (2, -1))

        def concatenated(blocks: Blocks) -> Tensor:
            return torch.cat([recomputed(len(blocks) > 1, block, rows) for _, rows in blocks], 2)

        cost = 2 * row_cost(self.network, name, unit=True) * (len(region.x) if region.clipped else 1)
        both = self.budget.fitted([units.shape[1]], cost, concatenated)
        found = Interval(
            both[:, 0].reshape(-1, *shape), -both[:, 1].reshape(-1, *shape)
        ).overflow_as_infinite()
        return Interval.between(*found)

    def relaxation(self, name: str) -> Relaxation:
        """Return the default relaxation of a nonlinear node on its operands' intervals."""
        if name not in self._relaxations:
            self._relaxations[name] = self.relaxation_at(name, (), EVERYTHING, self.slope)
        return self._relaxations[name]

    def relaxation_at(
        self, name: str, alphas: Alphas, images: Images = EVERYTHING, slope: Slope | None = None
    ) -> Relaxation:
        """Return the relaxation of a nonlinear node with the planes that `alphas` select."""
        node = self.network.graph.nodes[name]
        rule = rule_for(node)
        assert isinstance(rule, Nonlinear)
        operands = [self.interval(operand).at(images).unsqueeze(1) for operand in node.operands]
        return rule.relax(self.network.call(node), slope or self.slope, alphas, *operands)

    def default_alphas(self, name: str) -> Alphas:
        """Return the alphas that select the default planes of a nonlinear node."""
        node = self.network.graph.nodes[name]
        rule = rule_for(node)
        assert isinstance(rule, Nonlinear)
        operands = [self.interval(operand).unsqueeze(1) for operand in node.operands]
        return rule.alphas(self.network.call(node), *operands)

    def lower_bounds_by_intervals(self, coef: Tensor) -> Tensor:
        """Return lower bounds of a specification from intervals; affine nodes after the last nonlinearity are exact.

        coef [N, S, *out] -> [N, S]
        """
        for name in self.facts.tail_ends:
            self.interval(name)
        found = lower_bound_from_intervals(
            self.network, self.region, self.interval, self.network.graph.output, coef
        )
        return self.defined(coef, found)

    def defined(self, coef: Tensor, lower: Tensor) -> Tensor:
        """Return the lower bounds [N, S] of a specification [N, S, *out], with −∞ for rows that may have no value."""
        return without(undefined(self), coef, lower)

    def relaxed_before(self, target: str) -> list[str]:
        """Return the nonlinear nodes that a backward pass from `target` replaces by relaxations."""
        graph = self.network.graph
        before = graph.upstream([target])
        return [
            name
            for name, node in graph.nodes.items()
            if name in before and isinstance(rule_for(node), Nonlinear)
        ]
