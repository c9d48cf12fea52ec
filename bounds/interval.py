"""The interval: a lower and an upper bound of every unit of one tensor."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

import torch
from torch import Tensor

from bounds.errors import InvalidInput


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
        """The same with NaN, as overflow makes it, read as "nothing known": −∞ below, +∞ above.

        Every comparison with NaN is false, so a rule would take a unit of NaN bounds for a settled one.
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
        lower = torch.where(torch.isnan(lower), -torch.inf, lower)
        return Interval(lower, torch.where(torch.isnan(upper), torch.inf, upper))

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.lower, self.upper))

    def intersect(self, other: Interval) -> Interval:
        """Both hold, so the tighter of each side does.

        Rounding may cross two almost equal bounds by an ulp; the crossed side is then widened to the other.
        """
        lower = torch.maximum(self.lower, other.lower)
        upper = torch.minimum(self.upper, other.upper)
        return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))

    def unsqueeze(self, dim: int) -> Interval:
        return Interval(self.lower.unsqueeze(dim), self.upper.unsqueeze(dim))

    def at(self, images: slice | Tensor) -> Interval:
        """The same bounds for some of the images."""
        return Interval(self.lower[images], self.upper[images])

    def detach(self) -> Interval:
        return Interval(self.lower.detach(), self.upper.detach())


def _finite(*tensors: Tensor) -> bool:
    """Whether every number surely is finite, by sums: one overflowing sum of finite numbers says no as well."""
    return all(isfinite(float(tensor.detach().sum())) for tensor in tensors)
