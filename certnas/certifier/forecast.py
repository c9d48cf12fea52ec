"""Where a margin will reach zero, foretold from the intermediate bounds of the radii evaluated so far."""

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
"""How far beyond the last radius a forecast goes, as a factor."""
NEAR = 2.0
"""The factor up to which two radii on either side of a root say more of it than two nearer ones on one side."""
LARGE, LEAP = 1.6, 1.3
"""From which growth on that of a forecast is raised to the power LEAP: by experience it is too small then."""
FIRST, SHARE = 0.02, 0.2
"""The relative tolerance of the first forecast, and that of later ones as a share of the search's."""


class Forecast:
    """Margins of `part`, whose method is a Crown, as `search_radii` asks for them, and what they say of others.

    Between two radii the intermediate bounds of a unit are nearly affine in ε.  With those read off on the line
    through two evaluations (the first of all is ε = 0, where a bound is the value itself), one backward pass for the
    rows gives nearly the margin at any ε: nothing that is proved, and a guess of its root.
    """

    def __init__(self, part: Prover, centre: Tensor, end: Tensor, tol: float) -> None:
        """centre [N]: the margins at ε = 0; end [N]: where the search ends; tol: what it is searched to."""
        self.part, self.centre, self.end, self.tol = part, centre, end, tol
        self.rounds = 0
        noting = _Noting(bounds.IBP())
        with torch.no_grad():
            region = bounds.Linf(part.x.float(), 0.0)
            bounds.lower_bounds(part.single, region, part.rows.float(), noting, memory=part.memory)
        self.other = self.last = _Point(torch.zeros_like(centre), centre, noting.intervals)

    def lower_margin(self, eps: Tensor, image: Tensor) -> Tensor:
        """`Prover.lower_margin` in single precision, whose intermediate bounds are kept.  eps, image [M] -> [M]"""
        noting = _Noting(self.part.method)
        margin = replace(self.part, method=noting).lower_margin(eps, image, torch.float32)
        new = _Point(eps, margin.to(eps), noting.intervals)
        other, last = self.other.at(image), self.last.at(image)
        # of two earlier ones the later is kept, unless only the other one, if near, has the root between it and the new
        between = (last.proved == new.proved) & (other.proved != new.proved)
        stays = between & (torch.maximum(other.eps, eps) < NEAR * torch.minimum(other.eps, eps))
        self.other = self.other.put(image[~stays], last.at(~stays))
        self.last = self.last.put(image, new)
        self.rounds += 1
        return margin

    def root(self, image: Tensor) -> Tensor:
        """An ε [M] a little above where the margin of each `image` [M] is expected to reach zero, NaN if nowhere."""
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
        """The same by a search, through the margins known of `image` [M]."""
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
        """The margin [M] to be expected at radius eps [M] round `image` [M]."""
        other, last = self.other.at(image), self.last.at(image)
        weight = ((eps - other.eps) / (last.eps - other.eps)).float()
        given = {name: _on_line(one, last.intervals[name], weight) for name, one in other.intervals.items()}
        recalling = replace(self.part, method=_Recalling(given, self.part.method.slope))
        return recalling.lower_margin(eps, image, torch.float32)


@dataclass(frozen=True)
class _Point:
    """Of N images: radii [N], the margins there [N] and the intervals [N, *] that they came from."""

    eps: Tensor
    margin: Tensor
    intervals: Intervals

    @property
    def proved(self) -> Tensor:
        return self.margin > 0

    def at(self, image: Tensor) -> "_Point":
        return _Point(
            self.eps[image], self.margin[image], {name: i.at(image) for name, i in self.intervals.items()}
        )

    def put(self, image: Tensor, new: "_Point") -> "_Point":
        """The same with the M images `image` replaced by those of `new`."""
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
    """A method, and about the intervals of what nonlinearities read that it came to."""

    def __init__(self, method: bounds.Method) -> None:
        self.method, self.slope = method, method.slope
        self.intervals: Intervals = {}

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        lower = self.method.lower(state, coef)
        self.intervals = {name: state.guess(name) for name in state.facts.readers}
        return lower


class _Recalling(bounds.Method):
    """One backward pass for the rows on intervals that are given: no bound, unless they are."""

    def __init__(self, intervals: Intervals, slope: bounds.Slope) -> None:
        self.intervals, self.slope = intervals, slope

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        state.give(self.intervals)
        return bounds.CrownIBP(self.slope).lower(state, coef)


def _on_line(one: bounds.Interval, other: bounds.Interval, weight: Tensor) -> bounds.Interval:
    """At `one` for weight [M] 0, at `other` for 1, on the line through both elsewhere."""
    weight = weight.reshape(-1, *[1] * (one.lower.dim() - 1))
    lower = one.lower.lerp(other.lower, weight)
    return bounds.Interval(lower, torch.maximum(one.upper.lerp(other.upper, weight), lower))
