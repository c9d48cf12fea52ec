"""Sound planes for any scalar function whose derivative can be solved for a value.

For a line of slope s, the tightest intercepts on [l, u] are the extremes of f(x) − s·x, which lie at an end, at a kink
or where f'(x) = s.  So any slope is sound with the intercept computed there, and the choice of slope decides only how
tight the plane is.  A plane of least area is the highest lower plane (the lowest upper plane) at the centre of [l, u],
since the mean of an affine function is its value there.  The candidates are the chord, tangents, and the tangent
through an end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from ..graph import Call
from ..interval import Interval
from ..patch import ELEMENTWISE
from ..relaxation import Diagonal, Relaxation, Slope, sandwich
from .rule import Alphas, Nonlinear

Function = Callable[[Tensor], Tensor]
"""An element-wise function."""
Domain = Callable[[Tensor, Tensor], Tensor]
"""Returns whether a function is defined on all of [l, u], from l and u."""
BISECTIONS = {torch.float32: 32, torch.float64: 62}
"""Bisection steps after which an interval is as small as the precision allows."""


@dataclass(frozen=True)
class Curve:
    """A scalar function f with all that its planes need."""

    value: Function
    """f."""
    slope: Function
    """The derivative f'."""
    turns: tuple[float, ...] = ()
    """The points where f' changes from rising to falling or jumps, ascending; f' is monotone between them."""
    kinks: tuple[float, ...] = ()
    """The turns where f' jumps."""
    extrema: tuple[float, ...] = ()
    """The points where f itself changes from rising to falling or back."""
    stationary: Callable[[Tensor], Sequence[Tensor]] | None = None
    """stationary(s): points with f'(x) = s in closed form, one per piece; None: found by bisection."""
    bend: Function | None = None
    """The second derivative f''; given if f has inflections, so that tangents through an end are candidates."""
    fractions: tuple[float, ...] = field(default=(0.5,))
    """The positions between l and u at which tangents are candidates."""
    domain: Domain | None = None
    """domain(l, u): whether f is defined on all of [l, u]; None if it is defined everywhere.  It must contain 1."""
    touchable: Callable[[Tensor, Tensor], Tensor] | None = None
    """touchable(l, u): whether planes may touch f, because f' is finite; None if they always may.  It must contain
    1.
    """

    def interval(self, x: Interval) -> Interval:
        """Return the exact range on [l, u]; (−∞, ∞) if [l, u] leaves the domain, where f is undefined."""
        if self.domain is None:
            return self._range(x)
        inside = self.domain(x.lower, x.upper)
        found = self._range(_within(x, inside))
        return Interval(
            torch.where(inside, found.lower, -torch.inf), torch.where(inside, found.upper, torch.inf)
        )

    def _range(self, x: Interval) -> Interval:
        ends = [self.value(x.lower), self.value(x.upper)]
        for point in self.extrema:
            ends.append(self.value(torch.full_like(x.upper, point).minimum(x.upper).maximum(x.lower)))
        stacked = torch.stack(ends)
        return Interval(stacked.amin(0), stacked.amax(0))

    def extremes(self, x: Interval, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return min and max of f(x) − s·x over [l, u]."""
        points = [x.lower.expand_as(s), x.upper.expand_as(s)]
        for point in self._interior(x.detach(), s.detach()):
            # a point that is not strictly inside becomes the end itself, so that a tie keeps the end's derivative
            points.append(
                torch.where(point <= x.lower, x.lower, torch.where(point >= x.upper, x.upper, point))
            )
        residual = torch.stack([self.value(p) - s * p for p in points])
        return residual.amin(0), residual.amax(0)

    def _interior(self, x: Interval, s: Tensor) -> list[Tensor]:
        """Return points where f(x) − s·x may have an extreme; points outside of [l, u] do no harm."""
        with torch.no_grad():
            points = [torch.full_like(s, kink) for kink in self.kinks]
            if self.stationary is not None:
                return points + [torch.nan_to_num(p, nan=0.0) for p in self.stationary(s)]
            low, high = x.lower.expand_as(s), x.upper.expand_as(s)
            edges = [low, *(torch.full_like(s, t).maximum(low).minimum(high) for t in self.turns), high]
            for a, b in pairwise(edges):
                points.append(self._bisect(a, b, s))
            return points

    def _bisect(self, a: Tensor, b: Tensor, s: Tensor) -> Tensor:
        """Return a point of [a, b], on which f' is monotone, with f' = s, or the nearest end."""
        inner_a, inner_b = a + (b - a) * 1e-6, b - (b - a) * 1e-6  # f' may jump at the very ends
        rising = self.slope(inner_b) >= self.slope(inner_a)
        for _ in range(BISECTIONS.get(s.dtype, 62)):
            middle = (a + b) / 2
            left = (self.slope(middle) < s) == rising
            a, b = torch.where(left, middle, a), torch.where(left, b, middle)
        return (a + b) / 2

    def candidates(self, x: Interval) -> list[Tensor]:
        """Return the candidate slopes: the chord, tangents between the ends, tangents through the ends."""
        l, u = x.lower, x.upper  # noqa: E741
        narrow = (u - l) <= 16 * torch.finfo(u.dtype).eps * (1 + u.abs().maximum(l.abs()))
        width = torch.where(narrow, 1, u - l)
        slopes = [torch.where(narrow, self.slope((l + u) / 2), (self.value(u) - self.value(l)) / width)]
        slopes += [self.slope(l + (u - l) * fraction) for fraction in self.fractions]
        if self.bend is not None:
            slopes += [self._tangent(l, u), self._tangent(u, l)]
        return slopes

    def _tangent(self, end: Tensor, other: Tensor) -> Tensor:
        """Return f'(d) for the point d beyond the inflection whose tangent passes through (end, f(end)).

        The point is found by bisection without gradient, then by one Newton step with gradient, so that the derivative
        with respect to `end` is that of the implicit function.  If no such point exists, the result is just another
        slope.
        """
        assert self.bend is not None
        middle = self.turns[0] if self.turns else 0.0
        with torch.no_grad():
            a, b = (
                torch.full_like(end, middle)
                .maximum(torch.minimum(end, other))
                .minimum(torch.maximum(end, other)),
                other.clone(),
            )
            for _ in range(BISECTIONS.get(end.dtype, 62)):
                d = (a + b) / 2
                gap = self.value(d) - self.value(end) - self.slope(d) * (d - end)
                # the tangent point of an S moves away from the inflection until the gap closes
                past = torch.where(other > end, gap, -gap) > 0
                a, b = torch.where(past, a, d), torch.where(past, d, b)
            d = (a + b) / 2
            curvature = self.bend(d) * (d - end)
            flat = curvature.abs() < 1e-12
            inverse = torch.where(flat, 0, 1 / torch.where(flat, 1, curvature))
            reached = (d - other).abs() <= 1e-9 * (1 + other.abs())
        gap = self.value(d) - self.value(end) - self.slope(d) * (d - end)
        moved = d + gap * inverse
        point = (
            torch.where(reached, other, moved)
            .maximum(torch.minimum(end, other))
            .minimum(torch.maximum(end, other))
        )
        return self.slope(point)

    def best(self, x: Interval) -> tuple[Tensor, Tensor]:
        """Return the (lower, upper) slopes of the planes of least area among the candidates."""
        center = x.center
        slopes = torch.stack(self.candidates(x))
        bounds = [self.extremes(x, s) for s in slopes]
        at_center = slopes * center
        low = torch.stack([b[0] for b in bounds]) + at_center
        high = torch.stack([b[1] for b in bounds]) + at_center
        pick_low, pick_high = low.detach().argmax(0, keepdim=True), high.detach().argmin(0, keepdim=True)
        return slopes.gather(0, pick_low).squeeze(0), slopes.gather(0, pick_high).squeeze(0)

    def tangents(self, x: Interval, alphas: Alphas) -> tuple[Tensor, Tensor]:
        """Return the (lower, upper) slopes that interpolate between the least and the greatest candidate.

        If the chord bounds f on a side, no line is tighter anywhere on [l, u], and the chord is used.
        """
        least, most = self.spread(x)
        chord = self.candidates(x)[0]
        low, high = self.extremes(x, chord)
        at_end = self.value(x.lower) - chord * x.lower
        slack = 64 * torch.finfo(chord.dtype).eps * (1 + at_end.abs())
        touches = (low.detach() >= at_end - slack, high.detach() <= at_end + slack)
        slopes = (least + (most - least) * t for t in alphas)
        lower, upper = (torch.where(is_tight, chord, s) for is_tight, s in zip(touches, slopes, strict=True))
        return lower, upper

    def spread(self, x: Interval) -> tuple[Tensor, Tensor]:
        """Return the least and the greatest candidate slope, between which an optimiser may choose."""
        slopes = torch.stack([*self.candidates(x), self.slope(x.lower), self.slope(x.upper)])
        return slopes.amin(0), slopes.amax(0)


def _within(x: Interval, inside: Tensor) -> Interval:
    """Return [l, u] if `inside`, and [1, 1] elsewhere."""
    return Interval(torch.where(inside, x.lower, 1.0), torch.where(inside, x.upper, 1.0))


def _workable(function: Curve, x: Interval) -> Tensor | None:
    """Return where planes can touch the function: both ends finite, in its domain and touchable.  None: everywhere."""
    inside = torch.isfinite(x.lower) & torch.isfinite(x.upper)
    for condition in (function.domain, function.touchable):
        inside = inside if condition is None else inside & condition(x.lower, x.upper)
    return None if bool(inside.all()) else inside


def _planes(function: Curve, slope: Slope, alphas: Alphas, x: Interval) -> Relaxation:
    """Return planes on bounded intervals in the domain."""
    if slope is Slope.PARALLEL:
        shared = function.candidates(x)[0]
        low, high = function.extremes(x, shared)
        return sandwich(shared, low, shared, high)
    lower, upper = function.tangents(x, alphas) if alphas else function.best(x)
    return sandwich(lower, function.extremes(x, lower)[0], upper, function.extremes(x, upper)[1])


def _levelled(planes: Relaxation, inside: Tensor, range_: Interval) -> Relaxation:
    """Return the planes if `inside`; elsewhere level planes at the ends of the function's range."""
    low, high = planes.lower, planes.upper
    assert isinstance(low.map, Diagonal) and isinstance(high.map, Diagonal)
    lower_slope = torch.where(inside, low.map.slopes[0], 0.0)
    upper_slope = lower_slope if low.map is high.map else torch.where(inside, high.map.slopes[0], 0.0)
    return sandwich(
        lower_slope, torch.where(inside, low.bias, range_.lower),
        upper_slope, torch.where(inside, high.bias, range_.upper),
    )  # fmt: skip


def rule(curve: Callable[[Call], Curve], domain: Domain | None = None) -> Nonlinear:
    """Return the record of an element-wise function.

    curve(call): the function, which may depend on constant arguments of the call.  domain: the domain of these curves.
    """

    def interval(call: Call, x: Interval) -> Interval:
        return curve(call).interval(x)

    def relax(call: Call, slope: Slope, alphas: Alphas, x: Interval) -> Relaxation:
        function = curve(call)
        inside = _workable(function, x)
        if inside is None:
            return _planes(function, slope, alphas, x)
        planes = _planes(function, slope, alphas, _within(x, inside))
        return _levelled(planes, inside, function.interval(x).overflow_as_infinite())

    def alphas(call: Call, x: Interval) -> Alphas:
        function = curve(call)
        inside = _workable(function, x)
        x = x if inside is None else _within(x, inside)
        least, most = function.spread(x)
        width = torch.where(most > least, most - least, 1)
        return tuple(((s - least) / width).clamp(0, 1) for s in function.best(x))

    def defined(call: Call, x: Interval) -> Tensor:
        assert domain is not None
        return domain(x.lower, x.upper)

    return Nonlinear(interval, relax, alphas, domain=None if domain is None else defined, patches=ELEMENTWISE)
