"""The largest proved radius of every image, by one batched bracketed search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LowerMargin = Callable[[Tensor, Tensor], Tensor]
Foretell = Callable[[Tensor], Tensor]
MAX_EVALUATIONS = 60
FARTHEST = 1e30
"""Where nothing limits a radius, as of a constant network without a box, the search ends here."""
MAX_STEP = 16.0
SHORT = 0.35
"""How far below a foretold root the next ε lies, as a share of the tolerance."""


@dataclass(frozen=True)
class Bracket:
    """Where a search stands: `lower` [N] proved, `upper` [N] not (or the end), `open` [N] still searched."""

    lower: Tensor
    upper: Tensor
    open: Tensor


@dataclass(frozen=True)
class Radii:
    """`radius` [N] float64, each proved by an evaluation; `upper` [N]: the least ε above it that was not, or the end.

    `evaluations` [N]; `finite` [N]: whether any margin was; `unlimited` [N]: whether the search gave up, at `FARTHEST`
    or after `MAX_EVALUATIONS`, with nothing in its way.
    """

    radius: Tensor
    upper: Tensor
    evaluations: Tensor
    finite: Tensor
    unlimited: Tensor


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
    """The largest ε [N] found with `lower_margin(ε, image) > 0`, to a relative tolerance, all together.

    `lower_margin(eps [M] float64, image [M] long) -> [M]` is a black box: every returned ε was evaluated and
    its margin literally finite and positive (NaN never verifies), so monotonicity is needed for speed only.
    `centre` [N] is the margin at ε = 0 (not positive: radius 0), `start` [N] a first guess, `upper` [N] the
    end of the search (may be infinite; it is itself evaluated when the search gets there).

    The next ε is a secant step on g(ε) = log((m(0) − m(ε)) / m(0)), whose root is the margin's: nearly linear
    in log ε, of slope 1 for an affine network and more for a loose bound.  What stalls is bisected.

    known: ε [M], image [M] and margin [M] of what was evaluated before.
    foretell: image [M] -> the ε [M] at which the caller expects the margin to reach zero, NaN where it cannot say.
    It takes the secant's place, and the search of an image ends as soon as a proved ε is within `tol` of it.
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
    """The brackets of one search; lives inside one call of `search_radii`."""

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
        self.finite = torch.isfinite(centre) & ~self.open  # what is not searched was not bounded in vain
        self.last = torch.zeros_like(self.evaluations)
        self.width = torch.full_like(centre, torch.inf)
        self.stalled = torch.zeros_like(self.evaluations)
        self.root = torch.full_like(centre, torch.nan)

    def next(self) -> Tensor:
        """The ε [N] to evaluate next, in single precision so that both precisions see the same ball."""
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
        """A step inside the bracket: secant, kept clear of both ends by most of the tolerance, or middle."""
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
        """Takes the margins [M] at `eps` [M] of `image` [M] into the brackets; closes the narrow ones."""
        self.evaluations[image] += 1
        finite = torch.isfinite(margin)
        self.finite[image] |= finite
        proved = finite & (margin > 0)
        # a margin close to (or above) the centre's tells little of the root: the clamp makes a long step
        fall = torch.clamp((self.centre[image] - margin) / self.centre[image], min=1e-3)
        g = torch.where(finite, fall.log(), torch.nan)
        up, down = image[proved], image[~proved]
        # Anderson and Björck's damping: an end that stays twice weighs less in the next secant
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
        """Takes the roots [M] foretold of `image` [M]; closes the images that were proved so near below theirs."""
        self.root[image] = root
        near = (self.last[image] == 1) & (root <= self.lo[image] * (1 + self.tol))
        self.open[image[near]] = False


def _damping(new: Tensor, old: Tensor, again: Tensor) -> Tensor:
    """The factor [M] for the end opposite to one that moved from g = `old` to `new`; 1 unless `again`."""
    factor = 1 - new / old
    factor = torch.where(torch.isfinite(factor) & (factor > 0.1), factor, 0.5)
    return torch.where(again, factor, 1.0)
