"""Intervals: a lower and an upper bound of every unit of one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isfinite

import torch
from torch import Tensor

from .errors import BoundsError, InvalidInput


class Interval:
    """Elementwise bounds lower ≤ value ≤ upper of one tensor.  lower, upper [N, *shape].

    An interval is stored by its ends, or by centre and radius (`around`).  A radius keeps its own precision, down to
    the least normal number, whereas the difference of two ends loses it below a rounding error of the centre.  The
    other representation is computed on request.
    Raises InvalidInput if the shapes differ.
    """

    def __init__(
        self, lower: Tensor, upper: Tensor, *, center: Tensor | None = None, radius: Tensor | None = None
    ) -> None:
        """center, radius: the same interval, if both are known more precisely than the ends.  All [N, *shape]."""
        if lower.shape != upper.shape:
            raise InvalidInput(f"interval: lower has shape {list(lower.shape)}, upper {list(upper.shape)}")
        self._ends: tuple[Tensor, Tensor] | None = (lower, upper)
        self._ball = None if center is None or radius is None else (center, radius)

    @classmethod
    def around(cls, center: Tensor, radius: Tensor) -> Interval:
        """Return the interval center ± radius.  Both [N, *shape]."""
        interval = cls.__new__(cls)
        interval._ends, interval._ball = None, (center, radius)
        return interval

    @property
    def is_ball(self) -> bool:
        """Whether the interval is stored by centre and radius."""
        return self._ball is not None

    @property
    def lower(self) -> Tensor:
        """The lower bounds.  [N, *shape]"""
        return self.center - self.radius if self._ends is None else self._ends[0]

    @property
    def upper(self) -> Tensor:
        """The upper bounds.  [N, *shape]"""
        return self.center + self.radius if self._ends is None else self._ends[1]

    @property
    def center(self) -> Tensor:
        """The midpoints.  [N, *shape]"""
        return (self.lower + self.upper) / 2 if self._ball is None else self._ball[0]

    @property
    def radius(self) -> Tensor:
        """Half of the widths.  [N, *shape]"""
        return (self.upper - self.lower) / 2 if self._ball is None else self._ball[1]

    def overflow_as_infinite(self) -> Interval:
        """Return the interval with every side that overflow has spoilt replaced by −∞ below or +∞ above.

        These sides are NaN, +∞ below and −∞ above.  Every comparison with NaN is false, so a rule would take a unit
        with NaN bounds for a stable one.
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
        """Return the intersection of two intervals that both hold.  Raises BoundsError if they exclude each other."""
        return Interval.between(
            torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper)
        )

    @classmethod
    def between(cls, lower: Tensor, upper: Tensor) -> Interval:
        """Return the interval of two sides that were computed separately or come from two valid intervals."""
        crossed = lower > upper
        if not bool(crossed.any()):
            return cls(lower, upper)
        gap = (lower - upper).detach()[crossed]
        sides = torch.cat([lower.detach().flatten(), upper.detach().flatten()]).abs()
        scale = 1 + float(torch.where(torch.isfinite(sides), sides, 0).max())
        if not float(gap.max()) <= torch.finfo(lower.dtype).eps ** 0.5 * scale:
            raise BoundsError(_CROSSED.format(float(gap.max())))
        return cls(torch.minimum(lower, upper), torch.maximum(lower, upper))

    def checked(self, where: Callable[[], str]) -> Interval:
        """Apply `overflow_as_infinite` and `ordered`.

        Two reductions of the widths are enough if all are finite and none is negative.  where(): the name for the
        error.
        """
        width = self.upper - self.lower if self._ball is None else self._ball[1]
        if width.numel():
            least, largest = (float(end) for end in width.detach().aminmax())
            if least >= 0 and isfinite(largest) and (self._ball is None or _finite(self._ball[0])):
                return self
        return self.overflow_as_infinite().ordered(where())

    def ordered(self, where: str) -> Interval:
        """Return the interval itself.  Raises BoundsError, which names `where`, if a lower bound exceeds its upper."""
        crossed = self.lower > self.upper if self._ball is None else self._ball[1] < 0
        if bool(crossed.any()):
            gap = (self.lower - self.upper)[crossed].max()
            raise BoundsError(f"{where}: {_CROSSED.format(float(gap.detach()))}")
        return self

    def unsqueeze(self, dim: int) -> Interval:
        """Return the interval with a new axis of size 1."""
        return Interval(self.lower.unsqueeze(dim), self.upper.unsqueeze(dim))

    def at(self, images: slice | Tensor) -> Interval:
        """Return the bounds of some of the images."""
        return Interval(self.lower[images], self.upper[images])

    def detach(self) -> Interval:
        """Return the interval as a constant of autograd."""
        return Interval(self.lower.detach(), self.upper.detach())


_CROSSED = (
    "the lower bound exceeds the upper bound by {:g}; a rule of the engine is wrong, or numbers are too large for the "
    "precision; take float64, and report it if it happens there"
)


def _finite(*tensors: Tensor) -> bool:
    """Return whether every number is finite, judged by sums.  It is False as well if a sum of finite numbers
    overflows.
    """
    return all(isfinite(float(tensor.detach().sum())) for tensor in tensors)
