"""What one call knows: intervals and relaxations of one network on one region, as far as they were asked for."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from bounds.backward import lower_bound, lower_bound_from_boxes
from bounds.cost import row_cost
from bounds.graph import Network
from bounds.interval import Interval
from bounds.memory import Blocks, Budget, recomputed
from bounds.ops import Nonlinear, rule_for
from bounds.ops.rule import Tuning
from bounds.patch import unit_rows
from bounds.plan import plan_of
from bounds.region import Region
from bounds.relaxation import EVERYTHING, Images, Relaxation, Slope


class Known:
    """Bounds of every tensor on demand.  Values only ever get added; nothing is written on the network."""

    def __init__(self, network: Network, region: Region, budget: Budget, slope: Slope) -> None:
        self.network = network
        self.region = region
        self.budget = budget
        self.slope = slope
        self.plan = plan_of(network.graph)
        self.intervals: dict[str, Interval] = {}
        self._relaxations: dict[str, Relaxation] = {}

    def interval(self, name: str) -> Interval:
        """Bounds of a tensor: known ones, or interval arithmetic from the nearest known ones.  [N, *shape]"""
        if name in self.intervals:
            return self.intervals[name]
        graph = self.network.graph
        missing, stack = set(), [name]
        while stack:
            current = stack.pop()
            if current in self.intervals or current in missing:
                continue
            missing.add(current)
            if current not in self.plan.prefix:
                stack += graph.nodes[current].operands
        for current in self.plan.order:
            if current in missing:
                self.intervals[current] = self._evaluate(current).known()
        return self.intervals[name]

    def _evaluate(self, name: str) -> Interval:
        graph = self.network.graph
        if name == graph.input:
            return self.region.box()
        node = graph.nodes[name]
        if name in self.plan.prefix and not (self.region.is_box and name in self.plan.plain):
            return self._exact(name)
        operands = [self.interval(operand) for operand in node.operands]
        return rule_for(node).interval(self.network.call(node), *operands)

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
        return Interval(both[:, 0].reshape(-1, *shape), -both[:, 1].reshape(-1, *shape))

    def relaxation(self, name: str) -> Relaxation:
        """The default relaxation of a nonlinear node on its operands' intervals."""
        if name not in self._relaxations:
            self._relaxations[name] = self.tuned(name, (), EVERYTHING, self.slope)
        return self._relaxations[name]

    def tuned(
        self, name: str, tuning: Tuning, images: Images = EVERYTHING, slope: Slope | None = None
    ) -> Relaxation:
        """The relaxation for a given choice among the sound planes."""
        node = self.network.graph.nodes[name]
        rule = rule_for(node)
        assert isinstance(rule, Nonlinear)
        operands = [self.interval(operand).at(images).unsqueeze(1) for operand in node.operands]
        return rule.relax(self.network.call(node), slope or self.slope, tuning, *operands)

    def default_tuning(self, name: str) -> Tuning:
        node = self.network.graph.nodes[name]
        rule = rule_for(node)
        assert isinstance(rule, Nonlinear)
        operands = [self.interval(operand).unsqueeze(1) for operand in node.operands]
        return rule.tuning(self.network.call(node), *operands)

    def boxed_rows(self, coef: Tensor) -> Tensor:
        """Lower bounds of rows of the output through its affine tail, then from intervals.  [N, S]"""
        for name in self.plan.tail_ends:
            self.interval(name)
        return lower_bound_from_boxes(
            self.network, self.region, self.interval, self.network.graph.output, coef
        )

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
