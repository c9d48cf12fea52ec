"""One-sided bounds for units of which only the sign matters: the likelier side first, the other one if necessary."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .graph import Network
from .interval import Interval
from .memory_format import flat
from .operators import rule_for
from .region import Region

MOST_UNDECIDED = 0.5
"""Largest share of undecided units after the first side for which two passes are worthwhile.  Chosen by hand."""

BoundSigned = Callable[[Tensor, Tensor, Sequence[int], bool], Tensor]
"""Computes (units [N, M], signs [N, M], units needed per image, early stop) -> lower bounds of sign·unit [N, M]."""


class OneSided:
    """Bounds the units of a tensor one side at a time.

    A unit that is positive at the centre of the region can be positive all over it, but not negative.  To decide this
    takes one row instead of two.
    """

    def __init__(self, network: Network, region: Region) -> None:
        self._network, self._region = network, region
        self._centre: dict[str, Tensor] = {}
        self._undecided_share = 0.0

    @property
    def worthwhile(self) -> bool:
        """Whether the first side decided enough units of the last tensor."""
        return self._undecided_share <= MOST_UNDECIDED

    def bounds(
        self,
        target: str,
        units: Tensor,
        current: Interval,
        counts: Sequence[int],
        bound_signed: BoundSigned,
    ) -> Interval:
        """Return the bounds of units [N, M] of a tensor.  A side that is not needed keeps its bound in `current`.

        counts: the number of the M units that each image needs.
        """
        above = flat(self._at_centre(target), 1).gather(1, units) >= 0
        first = bound_signed(units, _signs(above, current), counts, True)
        found = _with_side(current, above, first)
        needed = (
            torch.arange(units.shape[1], device=units.device)
            < torch.tensor(counts, device=units.device)[:, None]
        )
        undecided = needed & ~(first.detach() >= 0)
        undecided_counts = undecided.sum(1).tolist()
        self._undecided_share = sum(undecided_counts) / sum(counts)
        if not max(undecided_counts):
            return found
        index = undecided.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[
            :, : max(undecided_counts)
        ]
        part = Interval(found.lower.gather(1, index), found.upper.gather(1, index))
        below, wanted = ~above.gather(1, index), undecided.gather(1, index)
        second = bound_signed(units.gather(1, index), _signs(below, current), undecided_counts, False)
        updated = _with_side(part, below, second)
        lower = torch.where(wanted, updated.lower, part.lower)
        upper = torch.where(wanted, updated.upper, part.upper)
        return Interval(found.lower.scatter(1, index, lower), found.upper.scatter(1, index, upper))

    def mirrored(self, target: str, found: Interval) -> Interval:
        """Return `found` with each side that was not computed as far from the centre's value as the other one."""
        centre = self._at_centre(target)
        above, below = found.lower > 0, found.upper < 0
        lower = torch.where(below, torch.maximum(found.lower, 2 * centre - found.upper), found.lower)
        upper = torch.where(above, torch.minimum(found.upper, 2 * centre - found.lower), found.upper)
        return Interval(lower, upper)

    def _at_centre(self, target: str) -> Tensor:
        """Return the tensor's values at the region's centre.  [N, *shape]"""
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
    """Return 1 if above, −1 elsewhere."""
    return torch.where(above, 1.0, -1.0).to(like.lower)


def _with_side(current: Interval, above: Tensor, least: Tensor) -> Interval:
    """Return `current` with `least` as the lower side if above, and −`least` as the upper side elsewhere."""
    return Interval(torch.where(above, least, current.lower), torch.where(above, current.upper, -least))


def signs_alone(current: Interval, found: Interval) -> Interval:
    """Return `found` for units with zero inside; for the others `current`, cut at zero.

    The bounds that decided a sign depend on when it was decided; the sign does not.
    """
    above, below = found.lower >= 0, found.upper <= 0
    lower = torch.where(above, current.lower.clamp(min=0), torch.where(below, current.lower, found.lower))
    upper = torch.where(below, current.upper.clamp(max=0), torch.where(above, current.upper, found.upper))
    return Interval(lower, upper)
