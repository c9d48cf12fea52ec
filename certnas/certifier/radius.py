"""Finds the largest proved radius of every image by one batched bracketing search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LowerMargin = Callable[[Tensor, Tensor], Tensor]
Foretell = Callable[[Tensor], Tensor]
MAX_EVALUATIONS = 60
"""The most evaluations per image."""
FARTHEST = 1e30
"""The search ends here if nothing limits a radius, as for a constant network without a box."""
MAX_STEP = 16.0
"""The largest factor between one radius and the next."""
SHORT = 0.35
"""The next radius lies this share of the tolerance below a predicted root."""


@dataclass(frozen=True)
class Bracket:
    """The state of a radius search for N images."""

    lower: Tensor
    """The largest proved radius, [N]."""
    upper: Tensor
    """The smallest radius that was not proved, or the end of the search, [N]."""
    open: Tensor
    """Whether the search of the image goes on, [N]."""


@dataclass(frozen=True)
class Radii:
    """The results of a radius search for N images."""

    radius: Tensor
    """The largest radius that an evaluation proved, [N] float64."""
    upper: Tensor
    """The smallest larger radius that was not proved, or the end of the search, [N]."""
    evaluations: Tensor
    """The number of evaluations, [N]."""
    finite: Tensor
    """Whether any margin was finite, [N]."""
    unlimited: Tensor
    """Whether the search gave up at `FARTHEST` or after `MAX_EVALUATIONS` although no radius had failed, [N]."""


def search_radii(
    lower_margin: LowerMargin,
    centre: Tensor,
    start: Tensor,
    upper: Tensor,
    *,
    tol: float = 1e-3,
    known: Sequence[tuple[Tensor, Tensor, Tensor]] = (),
    foretell: Foretell | None = None,
    progress: Callable[[Bracket], None] | None = None,
) -> Radii:
    """Searches the largest radius [N] with `lower_margin(ε, image) > 0`, for all images together.

    lower_margin: maps eps [M] float64 and image [M] long to margins [M]. Every returned radius was evaluated, and its
        margin was finite and positive (NaN proves nothing). Monotonicity is therefore needed for speed only.
    centre: the margins at ε = 0, [N]; the radius is 0 where the margin is not positive.
    start: a first guess, [N].
    upper: the end of the search, [N]; it may be infinite, and is itself evaluated when the search gets there.
    tol: the relative tolerance.
    known: earlier evaluations, each as ε [M], image [M] and margin [M].
    foretell: maps image [M] to predicted roots [M] of the margins, NaN where there is no prediction. A prediction
        replaces the secant step, and the search of an image ends as soon as a proved radius is within `tol` of it.
    progress: receives the brackets after each evaluation.

    The next ε is a secant step on g(ε) = log((m(0) − m(ε)) / m(0)), which is 0 at the root of the margin. g is nearly
    linear in log ε, with slope 1 for an affine network and a larger slope for a loose bound. A bracket that stops
    shrinking is bisected.
    """
    search = _Search(centre.double(), start.double(), upper.double(), tol)
    for eps, image, margin in known:
        search.tell(image, eps, margin)
    while bool(search.open.any()) and int(search.evaluations.max()) < MAX_EVALUATIONS:
        image = search.open.nonzero().flatten()
        eps = search.next()[image]
        search.tell(image, eps, lower_margin(eps, image).detach().to(eps))
        if foretell is not None and len(image := search.open.nonzero().flatten()):
            search.expect(image, foretell(image).to(eps))
        if progress is not None:
            progress(Bracket(search.lo.clone(), search.hi.clone(), search.open.clone()))
    unlimited = (search.lo > 0) & ~search.failed & (search.open | (search.lo >= FARTHEST))
    return Radii(search.lo, search.hi, search.evaluations, search.finite, unlimited)


class _Search:
    """The brackets of one call of `search_radii`."""

    def __init__(self, centre: Tensor, start: Tensor, upper: Tensor, tol: float) -> None:
        self.centre, self.tol = centre, tol
        self.end = upper.clamp(max=FARTHEST)
        self.lo, self.hi = torch.zeros_like(centre), upper.clone()
        self.g_lo = torch.full_like(centre, -torch.inf)
        self.g_hi = torch.full_like(centre, torch.nan)
        self.start = torch.where(torch.isfinite(start) & (start > 0), start, torch.ones_like(start))
        self.floor = torch.minimum(self.start, upper) * 1e-12
        self.failed = torch.zeros_like(centre, dtype=torch.bool)
        self.open = (centre > 0) & torch.isfinite(centre) & (upper > 0)
        self.evaluations = torch.zeros_like(centre, dtype=torch.long)
        self.finite = torch.isfinite(centre) & ~self.open  # an image that is not searched has no failed bound
        self.last = torch.zeros_like(self.evaluations)
        self.width = torch.full_like(centre, torch.inf)
        self.stalled = torch.zeros_like(self.evaluations)
        self.root = torch.full_like(centre, torch.nan)

    def next(self) -> Tensor:
        """The next radius [N] of each image, rounded to float32 so that both precisions see the same ball."""
        proved, aim = self.lo > 0, self.root * (1 - SHORT * self.tol)
        known = torch.isfinite(aim)
        expand = torch.where(known, aim, self.lo * torch.exp(-self.g_lo))
        expand = self._within(expand, self.lo * (1 + self.tol), self.lo * MAX_STEP)
        shrink = self._within(self.hi * torch.exp(-self.g_hi), self.hi / MAX_STEP**2, self.hi / 1.25)
        shrink = torch.where(torch.isfinite(self.g_hi), shrink, self.hi / MAX_STEP)
        nearest = self.hi * (1 - 0.9 * self.tol)
        shrink = torch.where(known, self._within(aim, self.hi / MAX_STEP**2, nearest), shrink)
        eps = torch.where(
            proved,
            torch.where(self.failed, self._between(), expand),
            torch.where(self.failed, shrink, self.start),
        )
        eps = torch.minimum(eps, self.end)
        return torch.where(eps < self.end, eps.float().double(), self.end)

    def _between(self) -> Tensor:
        """A radius inside the bracket: a secant step that keeps most of a tolerance away from both ends, or the
        middle.
        """
        log_lo, log_hi = self.lo.log(), self.hi.log()
        root = log_lo - self.g_lo * (log_hi - log_lo) / (self.g_hi - self.g_lo) - 0.4 * self.tol
        root = torch.where(torch.isfinite(self.root), self.root.log() - SHORT * self.tol, root)
        usable = torch.isfinite(root) & (self.stalled < 3)
        eps = torch.where(usable, root, (log_lo + log_hi) / 2).exp()
        return self._within(eps, self.lo * (1 + 0.9 * self.tol), self.hi * (1 - 0.9 * self.tol))

    @staticmethod
    def _within(eps: Tensor, least: Tensor, most: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(torch.nan_to_num(eps, nan=torch.inf), least), most)

    def tell(self, image: Tensor, eps: Tensor, margin: Tensor) -> None:
        """Updates the brackets with the margins [M] at `eps` [M] of `image` [M], and closes narrow brackets."""
        self.evaluations[image] += 1
        finite = torch.isfinite(margin)
        self.finite[image] |= finite
        proved = finite & (margin > 0)
        # a margin close to (or above) the centre's hardly locates the root: the clamp makes a long step
        fall = torch.clamp((self.centre[image] - margin) / self.centre[image], min=1e-3)
        g = torch.where(finite, fall.log(), torch.nan)
        up, down = image[proved], image[~proved]
        # Anderson and Björck's damping: an end that does not move twice in a row gets less weight in the next secant
        self.g_hi[up] *= _damping(g[proved], self.g_lo[up], self.last[up] == 1)
        self.g_lo[down] *= _damping(g[~proved], self.g_hi[down], self.last[down] == -1)
        self.lo[up], self.g_lo[up], self.last[up] = eps[proved], g[proved], 1
        self.hi[down], self.g_hi[down], self.last[down] = eps[~proved], g[~proved], -1
        self.failed[down] = True

        width = torch.where(self.lo > 0, (self.hi / self.lo).log(), torch.inf)
        self.stalled = torch.where(width < self.width / 2, 0, self.stalled + 1)
        self.stalled[self.stalled > 3] = 0  # one bisection, then secant steps again
        self.width = width
        closed = torch.where(self.failed, width <= self.tol, self.lo >= self.end)
        self.open &= ~closed & ~(self.failed & (self.lo == 0) & (self.hi < self.floor))

    def expect(self, image: Tensor, root: Tensor) -> None:
        """Stores the predicted roots [M] of `image` [M], and closes the images whose proved radius is close to them."""
        self.root[image] = root
        near = (self.last[image] == 1) & (root <= self.lo[image] * (1 + self.tol))
        self.open[image[near]] = False


def _damping(new: Tensor, old: Tensor, again: Tensor) -> Tensor:
    """The factor [M] for the opposite end of one that moved from g = `old` to `new`; 1 unless `again`."""
    factor = 1 - new / old
    factor = torch.where(torch.isfinite(factor) & (factor > 0.1), factor, 0.5)
    return torch.where(again, factor, 1.0)
