"""Branch and bound over the input box of a network with few inputs, best first, in batches of boxes."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from certnas import bounds
from certnas.bounds.extend import BoundState, budget, lower_bound
from certnas.verifier.branch import State
from certnas.verifier.deadline import Deadline
from certnas.verifier.problem import Problem, box_region
from certnas.verifier.proof import Note
from certnas.verifier.relaxed import UnitSplit

Settled = Callable[[int, Tensor, Tensor, float], bool]
"""Whether another argument proves a clause in a box: clause, lower and upper [n], and the bound that falls short."""
FEW_INPUTS = 24
"""The most inputs with a range for which the input box is split."""
LARGEST_BATCH = 128
"""The most boxes that are bounded together."""
MIXTURES = 40
"""The number of weight vectors that are tried for one mixture of rows."""


@dataclass(frozen=True)
class InputBox:
    """A box of inputs, which is a subproblem of one clause."""

    clause: int
    """The index of the clause in the problem."""
    lower: Tensor
    """The lower ends, [n]."""
    upper: Tensor
    """The upper ends, [n]."""
    bound: float
    """The proved lower bound of the clause's excess in the box."""
    axis: int = 0
    """The input that is halved next."""
    splits: tuple[UnitSplit, ...] = ()
    """The splits that led to this box."""

    def halves(self, name: str) -> tuple[InputBox, InputBox]:
        """The two halves of the box along its axis; name: the name of the graph's input."""
        middle = self.lower[self.axis] / 2 + self.upper[self.axis] / 2
        low, high = self.lower.clone(), self.upper.clone()
        high[self.axis] = low[self.axis] = middle
        below, above = (UnitSplit(name, self.axis, float(middle), side) for side in (-1, 1))
        return (
            replace(self, upper=high, splits=(*self.splits, below)),
            replace(self, lower=low, splits=(*self.splits, above)),
        )


def free_inputs(problem: Problem) -> int:
    """The number of inputs that have a range in any of the boxes."""
    return int((problem.region.radii > 0).any(0).sum())


class InputSplitting:
    """Input splitting for one problem.

    memory: the bytes for one pass of bounds, and the same again for the open boxes.
    note: receives every proved box.
    settled: whether another argument proves a clause in a box [n], given the bound that falls short there.
    """

    def __init__(self, problem: Problem, memory: int, note: Note, settled: Settled) -> None:
        self.problem, self.note, self.settled = problem, note, settled
        self.network = problem.network
        self.budget = budget(memory, self.network.dtype, self.network.device)
        self.most = memory // (32 * problem.region.x[0].numel() + 1000)
        self.heap: list[tuple[float, int, InputBox]] = []
        self.count = itertools.count()

    def search(
        self, deadline: Deadline, state: State, tell: Callable[[], None], judge: Callable[[Tensor], bool]
    ) -> None:
        """Bounds and halves boxes until none is open or `judge` accepts a point as a counterexample.

        Raises OutOfTime at the end of the deadline, and MemoryError if the open boxes exceed the budget. `state` then
        holds the proved bounds.
        """
        clauses = range(len(self.problem))
        wave = [self._whole(c, state.lower[c]) for c in clauses]
        while wave:
            for first in range(0, len(wave), LARGEST_BATCH):
                deadline.check()
                if judge(self._grow(wave[first : first + LARGEST_BATCH])):
                    return
            state.done += len(wave)
            lower = dict.fromkeys(clauses, torch.inf)
            for bound, _, part in self.heap:
                lower[part.clause] = min(lower[part.clause], bound)
            state.lower, state.open = lower, len(self.heap)
            tell()
            if len(self.heap) > self.most:
                raise MemoryError
            parents = [heapq.heappop(self.heap)[2] for _ in range(min(LARGEST_BATCH // 2, len(self.heap)))]
            wave = [half for parent in parents for half in parent.halves(self.network.graph.input)]

    def _whole(self, clause: int, bound: float) -> InputBox:
        box = self.problem.region.at(self.problem.group[clause : clause + 1]).box()
        return InputBox(clause, box.lower.flatten(), box.upper.flatten(), bound)

    def _grow(self, wave: Sequence[InputBox]) -> Tensor:
        """Keeps the boxes that their bounds do not prove; returns the minimiser of each box's best row, [B, *shape]."""
        region = box_region(
            torch.stack([p.lower for p in wave]), torch.stack([p.upper for p in wave]), self.network
        )
        c = torch.tensor([part.clause for part in wave], device=self.problem.group.device)
        excess, slope = self._bounded(region, self.problem.coef[c], self.problem.offset[c])
        best = excess.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf).amax(1)
        axis = self._axis(slope.flatten(1).abs(), region.radii.flatten(1))
        for part, bound, least, a in zip(
            wave, best.tolist(), self.problem.needed[c].tolist(), axis.tolist(), strict=True
        ):
            if not bound > least and not self.settled(part.clause, part.lower, part.upper, bound):
                kept = replace(part, bound=max(bound, part.bound), axis=a)
                heapq.heappush(self.heap, (kept.bound, next(self.count), kept))
            else:
                self.note(part.clause, part.splits, None)
        return region.x - region.radii * slope.sign()

    def _axis(self, slope: Tensor, radius: Tensor) -> Tensor:
        """The input along which to halve: the one with the largest loss of the linear bound, with a preference for
        wide ones.  [B]

        The loss is multiplied by the square root of the width, since an input whose slope is still 0 would otherwise
        never be halved. If there is no loss at all, the widest input is chosen.
        """
        loss = slope * radius * (radius / radius.amax(1, keepdim=True)).sqrt()
        return torch.where(loss.amax(1, keepdim=True) > 0, loss, radius).argmax(1)

    def _bounded(self, region: bounds.Linf, coef: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """CROWN's lower bounds of the rows' excess [B, S], and the coefficients [B, *shape] of the best linear bound.

        If rows involve inputs, the bound of a mixture of all rows is appended ([B, S + 1]), and the coefficients are
        those of the mixture.
        """
        output = self.network.graph.output
        with torch.no_grad():
            state = BoundState(self.network, region, self.budget, bounds.Slope.ADAPTIVE)
            for target in state.facts.readers:
                state.refine(target)
            boxed = state.lower_bounds_by_intervals(coef)
            for name in state.relaxed_before(output):
                state.relaxation(name)
        x = region.x.detach().requires_grad_(True)
        with torch.enable_grad():
            formed = lower_bound(self.network, replace(region, x=x), state.relaxation, output, coef)
            proved = state.defined(coef, formed.detach())
            if not self.problem.related:
                (slope,) = torch.autograd.grad(formed.amax(1).sum(), x)
                return torch.fmax(proved, boxed) - offset, slope.nan_to_num()
            slopes = torch.stack(
                [torch.autograd.grad(row.sum(), x, retain_graph=True)[0] for row in formed.unbind(1)], 1
            )
        excess = torch.fmax(proved, boxed) - offset
        mixed, slope = mixture(proved - offset, slopes.flatten(2), region.radii.flatten(1))
        return torch.cat([excess, mixed.unsqueeze(1)], 1), slope.reshape(x.shape).nan_to_num()


def mixture(least: Tensor, slopes: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """A lower bound [B] over a box of Σ λₛ Lₛ(x) for good weights λ of sum 1, and the coefficients [B, n] of that
    form.

    least [B, S] and slopes [B, S, n] are the minimum of each linear form Lₛ over the box, and its coefficients;
    radius [B, n] is the radius of the box. If all forms are ≤ 0 at some x, so is every mixture, so a positive mixture
    proves that there is no such x. The bound is concave in λ, and exponentiated supergradient steps raise it.
    """
    centre = least + (slopes.abs() * radius.unsqueeze(1)).sum(2)
    weight = torch.full_like(least, 1 / least.shape[1])
    best, form = torch.full_like(least[:, 0], -torch.inf), slopes[:, 0]
    for step in range(MIXTURES):
        mixed = (weight.unsqueeze(2) * slopes).sum(1)
        bound = (weight * centre).sum(1) - (mixed.abs() * radius).sum(1)
        better = bound > best
        best, form = torch.where(better, bound, best), torch.where(better.unsqueeze(1), mixed, form)
        ascent = centre - (slopes * (mixed.sign() * radius).unsqueeze(1)).sum(2)
        ascent = (ascent - ascent.amax(1, keepdim=True)) / ascent.abs().amax(1, keepdim=True).clamp(min=1e-30)
        weight = (weight.log() + 2 * ascent / (1 + step) ** 0.5).softmax(1)
    return best, form
