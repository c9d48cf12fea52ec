"""The facts that were proved about one part of the area during a check."""

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
    """One side of a split: σ (z − p) ≥ 0 for a unit z of a tensor."""

    tensor: str
    """The digest of the tensor."""
    index: tuple[Any, ...]
    """The index of the unit z."""
    sign: float
    """σ, which is 1 or −1."""
    point: float
    """p, the point of the split."""


@dataclass(frozen=True, eq=False)
class Known:
    """The facts about one part of the area."""

    certificate: Certificate
    """The certificate."""
    network: CheckedNetwork
    """The network."""
    arithmetic: Arithmetic
    """The arithmetic of the check."""
    region: CheckedRegion
    """A region of inputs that contains the part."""
    boxes: Boxes
    """The boxes of tensors on the part."""
    splits: tuple[Half, ...]
    """The splits that define the part."""
    sound: set[tuple[str, str]]
    """(node, key) of the planes that were proved on this part, or on one that contains it."""

    @classmethod
    def of(cls, certificate: Certificate, network: CheckedNetwork, arithmetic: Arithmetic) -> Known:
        """The whole area of a certificate. Raises Rejected unless it has the shape of the input."""
        shape = network.nodes[network.input].shape
        fits = all(array.shape == shape for array in (certificate.x, *certificate.box))
        demand(fits, "the area does not have the shape of the network's input")
        low, high = certificate.box
        boxes = Boxes(network, arithmetic, {network.input: (low[None], high[None])})
        return cls(
            certificate, network, arithmetic, CheckedRegion.of(certificate, arithmetic), boxes, (), set()
        )

    def claiming(self, tensor: str, box: Box) -> Known:
        """The same part, with a proved box of a tensor."""
        return replace(self, boxes=self.boxes.claiming(tensor, box))

    def halved(self, half: Half, box: Box) -> Known:
        """The half of this part on one side of a split, with a smaller box of the split tensor."""
        known = replace(self, splits=(*self.splits, half), sound=set(self.sound))
        if half.tensor != self.network.input:
            return replace(known, boxes=self.boxes.halving(half.tensor, box))
        area = replace(self.certificate, box=(box[0][0], box[1][0]))
        return replace(known.claiming(half.tensor, box), region=CheckedRegion.of(area, self.arithmetic))

    def planes(self, node: CheckedNode, keys: Mapping[str, str], rows: int, where: str) -> Planes:
        """(b)  The planes of a nonlinear node, proved to sandwich it on this part.

        keys: the key of each node's planes. rows: the number of linear forms that use them.
        Raises Rejected if there are no planes, their shapes do not fit the node, or they do not hold on the operand's
        box.
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
    """Whether a plane has the shape of a node's units, for one or for all rows."""
    wide = node.arrays["index"].shape if node.op == "max" else node.shape
    return any(slope == (count, *wide) and bias == (count, *node.shape) for count in (1, rows))
