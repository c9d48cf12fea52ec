"""The bound engine's state with bounds moved outward by more than rounding, and its planes as arrays."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from certnas import bounds
from certnas.bounds import Slope
from certnas.bounds.extend import (
    EVERYTHING,
    Alphas,
    BoundState,
    Diagonal,
    LinearMap,
    Meet,
    MemoryBudget,
    NodeAlphas,
    Relaxation,
    Windowed,
    rule_for,
)
from certnas.bounds.extend import Plane as Engine
from certnas.checker import ClaimedPlane
from certnas.proofs.reading import array

SLACK = 2.0**-34
"""The smallest share of 1 + its size by which a claimed bound moves outward. It exceeds the float64 rounding of the
engine and the checker, and is too small to change a radius visibly.
"""
LIFTED = 2.0**-40
"""A plane moves outward by this share of its terms and of LEAST."""
LEAST = 2.0**-30
"""A minimum for almost flat curves, whose terms alone are below the resolution of the checker's enclosures."""


SELECTING = (torch.ops.aten.relu.default, torch.ops.aten.max_pool2d.default)
"""Operators whose interval follows from those of their operands without rounding."""


class Outward(BoundState):
    """The engine's bound state, with every plane, and every interval from which planes are made, moved outward by
    `slack`.
    """

    def __init__(
        self,
        network: bounds.Network,
        region: bounds.Region,
        budget: MemoryBudget,
        slope: Slope,
        slack: float = SLACK,
    ) -> None:
        super().__init__(network, region, budget, slope)
        self.slack = slack

    def relaxation_at(
        self, name: str, alphas: Alphas, images: slice | Tensor = EVERYTHING, slope: Slope | None = None
    ) -> Relaxation:
        """The relaxation with the given slopes, its planes moved outward."""
        relaxed = super().relaxation_at(name, alphas, images, slope)
        operand = self.interval(self.network.graph.nodes[name].operands[0]).at(images)
        size = torch.maximum(operand.lower.abs(), operand.upper.abs()).unsqueeze(1)
        return Relaxation(_lifted(relaxed.lower, size, -1), _lifted(relaxed.upper, size, 1))

    def refine(
        self,
        target: str,
        node_alphas: NodeAlphas | None = None,
        *,
        meet: Meet = bounds.Interval.intersect,
        mask: Tensor | None = None,
    ) -> None:
        """Tightens the interval of a tensor, and then widens it by the slack."""
        super().refine(target, node_alphas, meet=meet, mask=mask)
        self.widen(target)

    def _by_sign(self, target: str) -> bool:
        """Always False: rows that stop early at the intervals of an inner tensor have no planes down to the input
        that prove their bounds.
        """
        return False

    def widen(self, target: str) -> None:
        """Moves the interval of a tensor outward, but not beyond the values that a selecting operator selects from.

        Otherwise a ReLU's inactive units would differ from 0, and equal elements of a window from each other. The
        planes of max pooling are loose if no element is proved to be the largest.
        """
        x = self.interval(target)
        wide = bounds.Interval(below(x.lower, self.slack), -below(-x.upper, self.slack))
        node = self.network.graph.nodes.get(target)
        if node is not None and node.target in SELECTING:
            operands = [self.interval(operand) for operand in node.operands]
            wide = wide.intersect(rule_for(node).interval(self.network.call(node), *operands))
        self.hold({target: wide})

    def bounded_exactly(self) -> list[str]:
        """The tensors affine in the input, bounded over the region itself, from which interval arithmetic continues."""
        facts, graph = self.facts, self.network.graph
        nodes = [node for node in graph.nodes.values() if node.name not in facts.prefix]
        read = {operand for node in nodes for operand in node.operands} & facts.prefix
        plain = facts.plain if self.region.is_box else {graph.input}
        return [name for name in facts.order if name in read and name not in plain]

    def again(self) -> Outward:
        """A new state with the intervals of the operands of nonlinear nodes, and of the tensors that these start
        from.
        """
        fresh = Outward(self.network, self.region, self.budget, self.slope, self.slack)
        known = {*self.facts.readers, *self.bounded_exactly()} & set(self.intervals)
        fresh.give({name: self.intervals[name] for name in known})
        return fresh


def below(value: Tensor, slack: float) -> Tensor:
    """The value lowered by `slack` times 1 + its size."""
    return value - slack * (1 + value.abs())


def _lifted(plane: Engine, size: Tensor, sign: int) -> Engine:
    terms = plane.map.magnitude().apply(size) + plane.bias.abs() + LEAST
    return Engine(plane.map, plane.bias + sign * LIFTED * terms)


def written(plane: Engine, image: int, row: int | None) -> ClaimedPlane:
    """One image's plane as arrays: biases [R, *out], and slopes [R, *out] or [R, *out, k]; for one row, or for all."""
    slope, bias = _slope(plane.map), plane.bias
    if isinstance(plane.map, Diagonal):
        slope, bias = torch.broadcast_tensors(slope, bias)
    return ClaimedPlane(_own(slope, image, row), _own(bias, image, row))


def _slope(linear: LinearMap) -> Tensor:
    """The slopes, [N, R, *out] or [N, R, *out, k]."""
    if isinstance(linear, Diagonal):
        return linear.slopes[0]
    assert isinstance(linear, Windowed)
    weights = linear.weights
    return weights.transpose(-1, -2).reshape(*weights.shape[:2], *linear.output, -1)


def _own(tensor: Tensor, image: int, row: int | None) -> np.ndarray:
    rows = tensor[image if len(tensor) > 1 else 0]
    return array(rows if row is None or len(rows) == 1 else rows[row : row + 1])
