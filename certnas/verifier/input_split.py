"""Branch and bound over the input box of a network with few inputs: best first, in batches of boxes."""

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
FEW_INPUTS = 24
LARGEST_BATCH = 128
MIXTURES = 40
"""Weights of the rows that are tried for one mixture."""


@dataclass(frozen=True)
class InputBox:
    """A box [n] of one clause, what is proved of the clause's excess there, the input to halve next, past halvings."""

    clause: int
    lower: Tensor
    upper: Tensor
    bound: float
    axis: int = 0
    splits: tuple[UnitSplit, ...] = ()

    def halves(self, name: str) -> tuple[InputBox, InputBox]:
        """The two boxes that its middle makes of it; name: the input's in the graph."""
        middle = self.lower[self.axis] / 2 + self.upper[self.axis] / 2
        low, high = self.lower.clone(), self.upper.clone()
        high[self.axis] = low[self.axis] = middle
        below, above = (UnitSplit(name, self.axis, float(middle), side) for side in (-1, 1))
        return (
            replace(self, upper=high, splits=(*self.splits, below)),
            replace(self, lower=low, splits=(*self.splits, above)),
        )


def free_inputs(problem: Problem) -> int:
    """How many inputs the boxes leave any room."""
    return int((problem.region.radii > 0).any(0).sum())


class InputSplitting:
    """The search for one problem; memory: bytes for one pass of bounds and, with as many, for the open boxes.

    note: told every proved box.  settled: whether another argument proves a clause in a box [n], given the bound that
    falls short there.
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
        """Bounds and halves boxes until nothing is open, `judge` is content with a point, or the time is up.

        Raises OutOfTime, or MemoryError where the open boxes exceed the budget; `state` then says what is proved.
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
        """Keeps the parts that their bounds do not prove; returns where each one's best row is least, [B, *shape]."""
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
        """The input on which the linear bound loses most, wide ones preferred; the widest where it loses nothing.  [B]

        Loss times the root of the width: by the loss alone an input with no slope yet is never halved.
        """
        loss = slope * radius * (radius / radius.amax(1, keepdim=True)).sqrt()
        return torch.where(loss.amax(1, keepdim=True) > 0, loss, radius).argmax(1)

    def _bounded(self, region: bounds.Linf, coef: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """CROWN's lower bounds of rows' excess [B, S], and the coefficients [B, *shape] of the best linear bound.

        Where rows speak of inputs, too, the bound of a mixture of all comes last: [B, S + 1], and the coefficients.
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
    """A lower bound over a box of Σ λₛ Lₛ(x) for good weights λ of sum 1, [B], and that form's coefficients, [B, n].

    least [B, S], slopes [B, S, n]: of each linear form Lₛ the least over the box, and its coefficients.  Where all
    forms are ≤ 0 at some x, so is every mixture: one above 0 proves that no x is there.  The bound is concave in λ; it
    is raised by exponentiated supergradients.
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
