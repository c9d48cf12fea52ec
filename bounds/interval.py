"""The interval: a lower and an upper bound of every unit of one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isfinite

import torch
from torch import Tensor

from .errors import BoundsError, InvalidInput


class Interval:
    """lower ≤ value ≤ upper, unit by unit.  All [N, *shape].

    Held by its ends, or by centre and radius (`around`): then a radius keeps its own precision, down to the least
    normal number, where as the difference of two ends it is lost below a rounding error of the centre.  What is not
    held is computed where it is asked for.
    """

    def __init__(
        self, lower: Tensor, upper: Tensor, *, center: Tensor | None = None, radius: Tensor | None = None
    ) -> None:
        """center, radius: the same interval, where both are known more precisely than the ends say."""
        if lower.shape != upper.shape:
            raise InvalidInput(f"interval: lower has shape {list(lower.shape)}, upper {list(upper.shape)}")
        self._ends: tuple[Tensor, Tensor] | None = (lower, upper)
        self._ball = None if center is None or radius is None else (center, radius)

    @classmethod
    def around(cls, center: Tensor, radius: Tensor) -> Interval:
        """center ± radius."""
        interval = cls.__new__(cls)
        interval._ends, interval._ball = None, (center, radius)
        return interval

    @property
    def is_ball(self) -> bool:
        """Whether it is held by centre and radius."""
        return self._ball is not None

    @property
    def lower(self) -> Tensor:
        return self.center - self.radius if self._ends is None else self._ends[0]

    @property
    def upper(self) -> Tensor:
        return self.center + self.radius if self._ends is None else self._ends[1]

    @property
    def center(self) -> Tensor:
        return (self.lower + self.upper) / 2 if self._ball is None else self._ball[0]

    @property
    def radius(self) -> Tensor:
        return (self.upper - self.lower) / 2 if self._ball is None else self._ball[1]

    def known(self) -> Interval:
        """The same with what overflow makes of a side read as "nothing known": −∞ below, +∞ above.

        That is NaN, +∞ below and −∞ above.  Every comparison with NaN is false, so a rule would take a unit of NaN
        bounds for a settled one.
        """
        if self._ends is None and self._ball is not None:
            center, radius = self._ball
            if _finite(center, radius):
                return self
            lost = ~torch.isfinite(center) | torch.isnan(radius)
            return Interval.around(torch.where(lost, 0, center), torch.where(lost, torch.inf, radius))
        lower, upper = self
        if _finite(lower, upper):
            return self
        lower = torch.where(lower < torch.inf, lower, -torch.inf)
        return Interval(lower, torch.where(upper > -torch.inf, upper, torch.inf))

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.lower, self.upper))

    def intersect(self, other: Interval) -> Interval:
        """Both hold, so the tighter of each side does.  Raises BoundsError where they exclude each other."""
        return Interval.between(
            torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper)
        )

    @classmethod
    def between(cls, lower: Tensor, upper: Tensor) -> Interval:
        """The interval of two sides that were computed apart, or come from two intervals that both hold.

        Rounding may cross two almost equal sides; each is then widened to the other.  The rounding allowed is the
        square root of the precision, times 1 + the largest side.
        Raises BoundsError where the sides cross by more: then one of them is no bound.
        """
        crossed = lower > upper
        if not bool(crossed.any()):
            return cls(lower, upper)
        gap = (lower - upper).detach()[crossed]
        sides = torch.cat([lower.detach().flatten(), upper.detach().flatten()]).abs()
        scale = 1 + float(torch.where(torch.isfinite(sides), sides, 0).max())
        if not float(gap.max()) <= torch.finfo(lower.dtype).eps ** 0.5 * scale:
            raise BoundsError(_CROSSED.format(float(gap.max())))
        return cls(torch.minimum(lower, upper), torch.maximum(lower, upper))

    def settled(self, where: Callable[[], str]) -> Interval:
        """`known`, then `ordered`: by two reductions of the widths where they are finite and none is below 0."""
        width = self.upper - self.lower if self._ball is None else self._ball[1]
        if width.numel():
            least, most = (float(end) for end in width.detach().aminmax())
            if least >= 0 and isfinite(most) and (self._ball is None or _finite(self._ball[0])):
                return self
        return self.known().ordered(where())

    def ordered(self, where: str) -> Interval:
        """The same.  Raises BoundsError, which says `where`, if a lower bound exceeds its upper bound."""
        crossed = self.lower > self.upper if self._ball is None else self._ball[1] < 0
        if bool(crossed.any()):
            gap = (self.lower - self.upper)[crossed].max()
            raise BoundsError(f"{where}: {_CROSSED.format(float(gap.detach()))}")
        return self

    def unsqueeze(self, dim: int) -> Interval:
        return Interval(self.lower.unsqueeze(dim), self.upper.unsqueeze(dim))

    def at(self, images: slice | Tensor) -> Interval:
        """The same bounds for some of the images."""
        return Interval(self.lower[images], self.upper[images])

    def detach(self) -> Interval:
        return Interval(self.lower.detach(), self.upper.detach())


_CROSSED = (
    "the lower bound exceeds the upper bound by {:g}; a rule of the engine is wrong, or numbers are too large for the "
    "precision; take float64, and report it if it happens there"
)


def _finite(*tensors: Tensor) -> bool:
    """Whether every number surely is finite, by sums: one overflowing sum of finite numbers says no as well."""
    return all(isfinite(float(tensor.detach().sum())) for tensor in tensors)
