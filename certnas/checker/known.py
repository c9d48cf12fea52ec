"""What is known of one part of the area, while a certificate is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from certnas.checker.certificate import Certificate, Planes
from certnas.checker.intervals import Box, Boxes
from certnas.checker.network import CheckedNetwork, CheckedNode
from certnas.checker.numbers import Arithmetic, dyadic
from certnas.checker.region import CheckedRegion
from certnas.checker.rejected import demand
from certnas.checker.relaxations import sandwiched


@dataclass(frozen=True)
class Half:
    """One side of a split: σ (z − p) ≥ 0 for a unit z of a tensor, σ = sign, p = point."""

    tensor: str
    index: tuple[Any, ...]
    sign: float
    point: float


@dataclass(frozen=True, eq=False)
class Known:
    """A part of the area: the region of the input that holds it, boxes of tensors, and the splits on the way to it.

    sound: (node, key) of the planes that were proved on this part, or on one that holds it.
    """

    certificate: Certificate
    network: CheckedNetwork
    arithmetic: Arithmetic
    region: CheckedRegion
    boxes: Boxes
    splits: tuple[Half, ...]
    sound: set[tuple[str, str]]

    @classmethod
    def of(cls, certificate: Certificate, network: CheckedNetwork, arithmetic: Arithmetic) -> Known:
        """The whole area of a certificate.  Raises Rejected where it does not have the shape of the input."""
        shape = network.nodes[network.input].shape
        fits = all(array.shape == shape for array in (certificate.x, *certificate.box))
        demand(fits, "the area does not have the shape of the network's input")
        low, high = certificate.box
        boxes = Boxes(network, arithmetic, {network.input: (low[None], high[None])})
        return cls(
            certificate, network, arithmetic, CheckedRegion.of(certificate, arithmetic), boxes, (), set()
        )

    def claiming(self, tensor: str, box: Box) -> Known:
        """The same part, with a box of a tensor that was proved."""
        return replace(self, boxes=self.boxes.claiming(tensor, box))

    def halved(self, half: Half, box: Box) -> Known:
        """The part of this one that lies on one side of a split, where the tensor lies in a smaller box."""
        known = replace(self, splits=(*self.splits, half), sound=set(self.sound))
        if half.tensor != self.network.input:
            return replace(known, boxes=self.boxes.halving(half.tensor, box))
        area = replace(self.certificate, box=(box[0][0], box[1][0]))
        return replace(known.claiming(half.tensor, box), region=CheckedRegion.of(area, self.arithmetic))

    def planes(self, node: CheckedNode, keys: Mapping[str, str], rows: int, where: str) -> Planes:
        """(b)  The planes that are named for a nonlinear node, which sandwich it on this part.

        keys: of each node's planes; rows: how many linear forms are to use them.  Raises Rejected where there are
        none, their shapes are not the node's, or they do not hold on the box of the operand.
        """
        demand(node.id in keys, f"{where}: no planes for a {node.op} on the way")
        key = keys[node.id]
        planes = self.certificate.planes[key]
        fits = all(
            _fits(side.slope.shape, side.bias.shape, node, rows) for side in (planes.lower, planes.upper)
        )
        demand(fits, f"{where}: a plane does not have the shape of its node")
        if (node.id, key) not in self.sound:
            low, high = self.boxes.of(node.operands[0])
            holds = sandwiched(node, planes, dyadic(low[0]), dyadic(high[0]))
            demand(holds, f"{where}: planes of a {node.op} do not hold on its box")
            self.sound.add((node.id, key))
        return planes


def _fits(slope: tuple[int, ...], bias: tuple[int, ...], node: CheckedNode, rows: int) -> bool:
    """Whether a plane is that of every unit of a node: one for all rows, or one for each."""
    wide = node.arrays["index"].shape if node.op == "max" else node.shape
    return any(slope == (count, *wide) and bias == (count, *node.shape) for count in (1, rows))
