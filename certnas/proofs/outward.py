"""The bound engine's state moved outward by more than its rounding, and its planes as arrays."""

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
"""A claimed bound is moved outward by this share of 1 + its size, or by more where the check's rounding asks for it:
above float64's rounding, in the engine and the checker, and below what a radius can show."""
LIFTED = 2.0**-40
"""A plane is moved outward by this share of its terms, and of LEAST."""
LEAST = 2.0**-30
"""Where a curve is almost flat its terms alone would be less than what the checker's enclosures tell apart."""


SELECTING = (torch.ops.aten.relu.default, torch.ops.aten.max_pool2d.default)
"""Operators whose interval is that of their operands without rounding."""


class Outward(BoundState):
    """The engine's state with every plane, and every interval that planes are made for, moved outward by `slack`."""

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
        """The relaxation for a given choice among the sound planes."""
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
        """Tighten the interval of a tensor, and widen it by less."""
        super().refine(target, node_alphas, meet=meet, mask=mask)
        self.widen(target)

    def _by_sign(self, target: str) -> bool:
        """Never: where only its sign matters a unit's rows may end at the intervals of a tensor on the way, and planes
        that lead to the input do not prove what was found there."""
        return False

    def widen(self, target: str) -> None:
        """Moves the interval of a tensor outward, where it selects numbers not beyond those that it selects from.

        A relu's dead units would differ from 0 otherwise, and those of a window that are all the same from each other:
        max pooling's planes are far apart where none is known to be the greatest.
        """
        x = self.interval(target)
        wide = bounds.Interval(below(x.lower, self.slack), -below(-x.upper, self.slack))
        node = self.network.graph.nodes.get(target)
        if node is not None and node.target in SELECTING:
            operands = [self.interval(operand) for operand in node.operands]
            wide = wide.intersect(rule_for(node).interval(self.network.call(node), *operands))
        self.hold({target: wide})

    def met_exactly(self) -> list[str]:
        """Tensors affine in the input whose bounds against the region itself interval arithmetic goes on from."""
        facts, graph = self.facts, self.network.graph
        nodes = [node for node in graph.nodes.values() if node.name not in facts.prefix]
        read = {operand for node in nodes for operand in node.operands} & facts.prefix
        plain = facts.plain if self.region.is_box else {graph.input}
        return [name for name in facts.order if name in read and name not in plain]

    def again(self) -> Outward:
        """A fresh state that knows the bounds of what nonlinear operators read, and what those start from."""
        fresh = Outward(self.network, self.region, self.budget, self.slope, self.slack)
        known = {*self.facts.readers, *self.met_exactly()} & set(self.intervals)
        fresh.give({name: self.intervals[name] for name in known})
        return fresh


def below(value: Tensor, slack: float) -> Tensor:
    """A little less, by the slack as a share of 1 + its size."""
    return value - slack * (1 + value.abs())


def _lifted(plane: Engine, size: Tensor, sign: int) -> Engine:
    terms = plane.map.magnitude().apply(size) + plane.bias.abs() + LEAST
    return Engine(plane.map, plane.bias + sign * LIFTED * terms)


def written(plane: Engine, image: int, row: int | None) -> ClaimedPlane:
    """One image's biases, [R, *out], and slopes, [R, *out] or [R, *out, k]; of one row, or of all."""
    slope, bias = _slope(plane.map), plane.bias
    if isinstance(plane.map, Diagonal):
        slope, bias = torch.broadcast_tensors(slope, bias)
    return ClaimedPlane(_own(slope, image, row), _own(bias, image, row))


def _slope(linear: LinearMap) -> Tensor:
    """[N, R, *out] or [N, R, *out, k]"""
    if isinstance(linear, Diagonal):
        return linear.slopes[0]
    assert isinstance(linear, Windowed)
    weights = linear.weights
    return weights.transpose(-1, -2).reshape(*weights.shape[:2], *linear.output, -1)


def _own(tensor: Tensor, image: int, row: int | None) -> np.ndarray:
    rows = tensor[image if len(tensor) > 1 else 0]
    return array(rows if row is None or len(rows) == 1 else rows[row : row + 1])
