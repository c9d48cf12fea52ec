"""The interval: a lower and an upper bound of every unit of one tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bounds.errors import InvalidInput


@dataclass(frozen=True)
class Interval:
    """lower ≤ value ≤ upper, unit by unit.  Both [N, *shape]."""

    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        if self.lower.shape != self.upper.shape:
            raise InvalidInput(
                f"interval: lower has shape {list(self.lower.shape)}, upper {list(self.upper.shape)}"
            )

    def known(self) -> Interval:
        """The same with NaN, as overflow makes it, read as "nothing known": −∞ below, +∞ above.

        Every comparison with NaN is false, so a rule would take a unit of NaN bounds for a settled one.
        """
        lower = torch.where(torch.isnan(self.lower), -torch.inf, self.lower)
        return Interval(lower, torch.where(torch.isnan(self.upper), torch.inf, self.upper))

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.lower, self.upper))

    @property
    def center(self) -> Tensor:
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Tensor:
        return (self.upper - self.lower) / 2

    def intersect(self, other: Interval) -> Interval:
        """Both hold, so the tighter of each side does.

        Rounding may cross two almost equal bounds by an ulp; the crossed side is then widened to the other.
        """
        lower = torch.maximum(self.lower, other.lower)
        upper = torch.minimum(self.upper, other.upper)
        return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))

    def unsqueeze(self, dim: int) -> Interval:
        return Interval(self.lower.unsqueeze(dim), self.upper.unsqueeze(dim))

    def at(self, images: slice) -> Interval:
        """The same bounds for some of the images."""
        return Interval(self.lower[images], self.upper[images])

    def detach(self) -> Interval:
        return Interval(self.lower.detach(), self.upper.detach())
