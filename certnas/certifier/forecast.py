"""Predicts the radius at which a margin reaches zero, from the intermediate bounds at radii evaluated before."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from certnas import bounds
from certnas.bounds.extend import BoundState
from certnas.certifier.prover import Prover
from certnas.certifier.radius import search_radii

Intervals = Mapping[str, bounds.Interval]
FARTHEST = 4.0
"""A forecast goes up to this factor beyond the last radius."""
NEAR = 2.0
"""Two radii on either side of a root predict it better than two nearer ones on one side, if they differ by less than
this factor.
"""
LARGE, LEAP = 1.6, 1.3
"""A predicted growth above LARGE is raised to the power LEAP, because such a forecast is too small in practice."""
FIRST, SHARE = 0.02, 0.2
"""FIRST is the relative tolerance of the first forecast. Later forecasts use SHARE of the search's own tolerance."""


class Forecast:
    """Evaluates the margins that `search_radii` asks for, and predicts their roots; the method of `part` is a Crown.

    Between two radii the intermediate bounds of a unit are nearly affine in ε. A forecast interpolates them linearly
    between two evaluated radii (at first, ε = 0 with its exact values) and runs one backward pass on them. The result
    approximates the margin at any ε. It proves nothing; it only predicts the root.
    """

    def __init__(self, part: Prover, centre: Tensor, end: Tensor, tol: float) -> None:
        """centre [N]: the margins at ε = 0; end [N]: where the search ends; tol: the relative tolerance of the
        search.
        """
        self.part, self.centre, self.end, self.tol = part, centre, end, tol
        self.rounds = 0
        noting = _Noting(bounds.IBP())
        with torch.no_grad():
            region = bounds.Linf(part.x.float(), 0.0)
            bounds.lower_bounds(part.single, region, part.rows.float(), noting, memory=part.memory)
        self.other = self.last = _Point(torch.zeros_like(centre), centre, noting.intervals)

    def lower_margin(self, eps: Tensor, image: Tensor) -> Tensor:
        """`Prover.lower_margin` in float32; the intermediate bounds are kept for forecasts.  eps, image [M] -> [M]"""
        noting = _Noting(self.part.method)
        margin = replace(self.part, method=noting).lower_margin(eps, image, torch.float32)
        new = _Point(eps, margin.to(eps), noting.intervals)
        other, last = self.other.at(image), self.last.at(image)
        # keep the later of the two earlier points, unless the root lies between the new one and the other
        between = (last.proved == new.proved) & (other.proved != new.proved)
        stays = between & (torch.maximum(other.eps, eps) < NEAR * torch.minimum(other.eps, eps))
        self.other = self.other.put(image[~stays], last.at(~stays))
        self.last = self.last.put(image, new)
        self.rounds += 1
        return margin

    def root(self, image: Tensor) -> Tensor:
        """A radius [M] slightly above the predicted root of the margin of each `image` [M]; NaN where there is no
        forecast.
        """
        last = self.last.at(image)
        root = last.eps * (1 + self.tol)
        near = last.proved & (self.rounds > 1)
        at = near.nonzero().flatten()
        if len(at):
            near[at] = self._margin(root[at], image[at]) <= 0
        far = (~near).nonzero().flatten()
        if len(far):
            root[far] = self._far_root(image[far])
        return root

    def _far_root(self, image: Tensor) -> Tensor:
        """Predicts the roots of `image` [M] by a search over predicted margins."""
        other, last = self.other.at(image), self.last.at(image)
        seen = [
            (point.eps[at], at, point.margin[at])
            for point in (other, last)
            for at in [(point.eps > 0).nonzero().flatten()]
        ]
        found = search_radii(
            lambda eps, at: self._margin(eps, image[at]),
            self.centre[image],
            last.eps,
            torch.minimum(self.end[image], FARTHEST * last.eps),
            tol=FIRST if self.rounds == 1 else SHARE * self.tol,
            known=seen,
        )
        root = torch.where(found.radius > 0, found.upper, torch.nan)
        growth = root / last.eps
        return torch.where(growth > LARGE, last.eps * growth**LEAP, root)

    def _margin(self, eps: Tensor, image: Tensor) -> Tensor:
        """The predicted margin [M] of `image` [M] at radius eps [M]."""
        other, last = self.other.at(image), self.last.at(image)
        weight = ((eps - other.eps) / (last.eps - other.eps)).float()
        given = {name: _on_line(one, last.intervals[name], weight) for name, one in other.intervals.items()}
        recalling = replace(self.part, method=_Recalling(given, self.part.method.slope))
        return recalling.lower_margin(eps, image, torch.float32)


@dataclass(frozen=True)
class _Point:
    """An evaluation of N images, each at a radius of its own."""

    eps: Tensor
    """The radii, [N]."""
    margin: Tensor
    """The lower bounds of the margins, [N]."""
    intervals: Intervals
    """The intermediate bounds, [N, *] for each tensor."""

    @property
    def proved(self) -> Tensor:
        return self.margin > 0

    def at(self, image: Tensor) -> "_Point":
        return _Point(
            self.eps[image], self.margin[image], {name: i.at(image) for name, i in self.intervals.items()}
        )

    def put(self, image: Tensor, new: "_Point") -> "_Point":
        """The same evaluations, with those of the M images `image` replaced by `new`."""
        intervals = {
            name: bounds.Interval(
                old.lower.index_put((image,), new.intervals[name].lower),
                old.upper.index_put((image,), new.intervals[name].upper),
            )
            for name, old in self.intervals.items()
        }
        eps, margin = self.eps.index_put((image,), new.eps), self.margin.index_put((image,), new.margin)
        return _Point(eps, margin, intervals)


class _Noting(bounds.Method):
    """Runs another method and records its approximate intermediate bounds of the operands of nonlinear nodes."""

    def __init__(self, method: bounds.Method) -> None:
        self.method, self.slope = method, method.slope
        self.intervals: Intervals = {}

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        lower = self.method.lower(state, coef)
        self.intervals = {name: state.guess(name) for name in state.facts.readers}
        return lower


class _Recalling(bounds.Method):
    """Runs one backward pass on given intervals; the result is a sound bound only if the intervals are sound."""

    def __init__(self, intervals: Intervals, slope: bounds.Slope) -> None:
        self.intervals, self.slope = intervals, slope

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        state.give(self.intervals)
        return bounds.CrownIBP(self.slope).lower(state, coef)


def _on_line(one: bounds.Interval, other: bounds.Interval, weight: Tensor) -> bounds.Interval:
    """Interpolates linearly between two intervals: `one` at weight [M] 0, `other` at weight 1."""
    weight = weight.reshape(-1, *[1] * (one.lower.dim() - 1))
    lower = one.lower.lerp(other.lower, weight)
    return bounds.Interval(lower, torch.maximum(one.upper.lerp(other.upper, weight), lower))
