"""One-sided bounds for units of which only the sign matters: the likelier side first, the other where it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .graph import Network
from .interval import Interval
from .memory_format import flat
from .operators import rule_for
from .region import Region

PAYS = 0.5
"""As long as the first side leaves no more than this part of the units open, fewer rows are worth two passes."""

Ask = Callable[[Tensor, Tensor, Sequence[int], bool], Tensor]
"""(units [N, M], signs [N, M], how many each image needs, early stop) -> lower bounds of sign·unit [N, M]."""


class OneSided:
    """Bounds the units of a tensor one side at a time.

    A unit that is above zero at the centre of the region can be above zero all over it, but not below: whether it is
    takes one row instead of two.
    """

    def __init__(self, network: Network, region: Region) -> None:
        self._network, self._region = network, region
        self._centre: dict[str, Tensor] = {}
        self._left = 0.0

    @property
    def pays(self) -> bool:
        """Whether the first side settled enough of the units that were asked about last."""
        return self._left <= PAYS

    def bounds(
        self,
        target: str,
        units: Tensor,
        known: Interval,
        counts: Sequence[int],
        ask: Ask,
    ) -> Interval:
        """The bounds of units [N, M] of a tensor; a side that need not be known any more stays as `known` has it.

        counts: how many of the M each image needs.
        """
        above = flat(self._at_centre(target), 1).gather(1, units) >= 0
        first = ask(units, _signs(above, known), counts, True)
        found = _told(known, above, first)
        needed = (
            torch.arange(units.shape[1], device=units.device)
            < torch.tensor(counts, device=units.device)[:, None]
        )
        open_ = needed & ~(first.detach() >= 0)
        left = open_.sum(1).tolist()
        self._left = sum(left) / sum(counts)
        if not max(left):
            return found
        place = open_.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : max(left)]
        part = Interval(found.lower.gather(1, place), found.upper.gather(1, place))
        below, asked = ~above.gather(1, place), open_.gather(1, place)
        second = ask(units.gather(1, place), _signs(below, known), left, False)
        told = _told(part, below, second)
        lower = torch.where(asked, told.lower, part.lower)
        upper = torch.where(asked, told.upper, part.upper)
        return Interval(found.lower.scatter(1, place, lower), found.upper.scatter(1, place, upper))

    def mirrored(self, target: str, found: Interval) -> Interval:
        """`found` with sides that were not asked for as far from the centre's value as the others are."""
        centre = self._at_centre(target)
        above, below = found.lower > 0, found.upper < 0
        lower = torch.where(below, torch.maximum(found.lower, 2 * centre - found.upper), found.lower)
        upper = torch.where(above, torch.minimum(found.upper, 2 * centre - found.lower), found.upper)
        return Interval(lower, upper)

    def _at_centre(self, target: str) -> Tensor:
        """The tensor's values at the region's centre.  [N, *shape]"""
        network, region = self._network, self._region
        if not self._centre:
            with torch.no_grad():
                self._centre[network.graph.input] = region.x.detach()
                for name, node in network.graph.nodes.items():
                    points = (self._centre[operand] for operand in node.operands)
                    box = rule_for(node).interval(network.call(node), *(Interval(x, x) for x in points))
                    self._centre[name] = box.lower
        return self._centre[target]


def _signs(above: Tensor, like: Interval) -> Tensor:
    """1 where above, −1 elsewhere."""
    return torch.where(above, 1.0, -1.0).to(like.lower)


def _told(known: Interval, above: Tensor, least: Tensor) -> Interval:
    """`known` with `least` for the lower side where above, with −`least` for the upper side elsewhere."""
    return Interval(torch.where(above, least, known.lower), torch.where(above, known.upper, -least))


def signs_alone(known: Interval, found: Interval) -> Interval:
    """`found` of units with zero inside; of others `known`, cut at zero.

    The bounds that a sign was read off depend on when that was; what they say of the sign does not.
    """
    above, below = found.lower >= 0, found.upper <= 0
    lower = torch.where(above, known.lower.clamp(min=0), torch.where(below, known.lower, found.lower))
    upper = torch.where(below, known.upper.clamp(max=0), torch.where(above, known.upper, found.upper))
    return Interval(lower, upper)
