"""α-CROWN: the free slopes of every relaxation, optimised by gradient; every iterate is a sound bound."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from bounds.analysis import Analysis, Meet, Tunings
from bounds.errors import InvalidInput
from bounds.graph import Network
from bounds.interval import Interval
from bounds.methods import Crown, Method
from bounds.ops import Nonlinear, rule_for
from bounds.relaxation import Slope

Slopes = dict[str, Tunings]
"""For each target, an intermediate tensor or the output, the tuning of every nonlinear node before it."""
OWN_SLOPES = 1 << 25
"""Numbers, were every unit of a tensor unstable; some tenths of them are."""
TOGETHER = 1 << 24
"""How many slopes the images that are optimised together have, at most: memory is some ten times that."""
CURVED = 0.2
"""The part of a step that is taken where planes touch a curve: its bounds answer to their place more than a ReLU's."""


@dataclass(frozen=True)
class TunedCrown(Method):
    """CROWN at given slopes, such as `AlphaCrown.optimise` finds.  Any slopes in [0, 1] are sound."""

    slopes: Slopes
    slope: Slope = Slope.ADAPTIVE

    def lower(self, analysis: Analysis, coef: Tensor) -> Tensor:
        analysis.restart()
        return _Choice(_cast(self.slopes, analysis)).bound(analysis, coef)


@dataclass(frozen=True)
class AlphaCrown(Method):
    """CROWN with the slopes of intermediate and final bounds optimised (Xu et al. 2021).

    Each unit of an intermediate tensor has slopes of its own for the nonlinearities before it, and so has each row of
    the output.  iterations: gradient steps, each worth one to four bounds; step: Adam's step size on slopes in
    [0, 1], a fifth of that where planes touch a curve, multiplied by `decay` each time.
    shared: all units of a tensor have the same slopes, which takes less time and memory and gets less far; so they
    do anyway in a tensor whose units' own would be more than `OWN_SLOPES` numbers.
    The best bound of each row over all iterates, CROWN's among them, is returned.  Under autograd the slopes found
    are constants, and the result is the bound at the best iterate of each image.
    """

    iterations: int = 20
    step: float = 0.5
    decay: float = 0.98
    slope: Slope = Slope.ADAPTIVE
    shared: bool = False

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.step <= 0 or not 0 < self.decay <= 1:
            raise InvalidInput(
                "alpha-crown: needs iterations ≥ 0, step > 0, 0 < decay ≤ 1; "
                f"got {self.iterations}, {self.step:g}, {self.decay:g}"
            )

    def lower(self, analysis: Analysis, coef: Tensor) -> Tensor:
        plain = Crown(self.slope).lower(analysis, coef)
        each = {} if self.shared else _numbers_of_a_row(analysis)
        asked = _owners(analysis, each)
        found = []
        for images in _groups(each, asked, len(coef)):
            part, rows, known = _of_images(analysis, images), coef[images], plain[images]
            choice = _initial(part, rows.shape[1], {target: mask[images] for target, mask in asked.items()})
            best = self._ascend(part, rows.detach(), known.detach(), choice)
            if known.requires_grad and choice.leaves():
                best = choice.bound(_again(part), rows)
            found.append(torch.fmax(known, best))
        return torch.cat(found)

    def optimise(self, analysis: Analysis, coef: Tensor) -> TunedCrown:
        """The slopes of each image's best iterate, as a method of their own; units share them, whatever `shared`."""
        plain = Crown(self.slope).lower(analysis, coef)
        choice = _initial(analysis, coef.shape[1], {})
        self._ascend(analysis, coef.detach(), plain.detach(), choice)
        return TunedCrown(choice.slopes, self.slope)

    def _ascend(self, analysis: Analysis, coef: Tensor, best: Tensor, choice: _Choice) -> Tensor:
        """The best bound of every row of an ascent on their sum; `choice` is left at every image's best iterate."""
        leaves = choice.leaves()
        if not leaves or self.iterations == 0:
            return best
        for leaf in leaves:
            leaf.requires_grad_()
        kept = [leaf.detach().clone() for leaf in leaves]
        best_sum = torch.full_like(best[:, 0], -torch.inf)
        optimiser = torch.optim.Adam(_leaves_by_step(analysis, choice.slopes, self.step))
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, self.decay)
        for step in range(self.iterations + 1):
            last = step == self.iterations
            with torch.set_grad_enabled(not last):
                bound = choice.bound(_again(analysis, detached=True), coef, _steered)
            best = torch.fmax(best, bound.detach())
            better = bound.detach().sum(1) > best_sum
            best_sum = torch.where(better, bound.detach().sum(1), best_sum)
            with torch.no_grad():
                for leaf, keep in zip(leaves, kept, strict=True):
                    keep[better] = leaf[better]
            if last:
                break
            down = torch.full_like(bound, -1)
            gradients = torch.autograd.grad(bound, leaves, down, allow_unused=True)
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = gradient
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                for leaf in leaves:
                    leaf.clamp_(0, 1)
        for leaf, keep in zip(leaves, kept, strict=True):
            leaf.requires_grad_(False).copy_(keep)
        return best


@dataclass(frozen=True)
class _Choice:
    """Slopes, and the units of each target that they are for: all unstable ones where nothing is said."""

    slopes: Slopes
    asked: dict[str, Tensor] = field(default_factory=dict)

    def leaves(self) -> list[Tensor]:
        return [t for tunings in self.slopes.values() for tuning in tunings.values() for t in tuning]

    def bound(self, analysis: Analysis, coef: Tensor, meet: Meet = Interval.intersect) -> Tensor:
        """One evaluation: intermediate bounds with their slopes in order, then the rows with theirs."""
        output = analysis.network.graph.output
        for target in analysis.plan.readers:
            if target != output:
                mask = self.asked.get(target)
                analysis.refine(target, self.slopes.get(target), meet=meet, mask=mask)
        return analysis.rows(output, coef, self.slopes[output])


def _leaves_by_step(analysis: Analysis, slopes: Slopes, step: float) -> list[dict[str, Any]]:
    """The leaves by their step size."""
    nodes = analysis.network.graph.nodes
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for tunings in slopes.values():
        for name, tuning in tunings.items():
            rule = rule_for(nodes[name])
            groups[isinstance(rule, Nonlinear) and rule.by_sign] += tuning
    return [{"params": groups[True], "lr": step}, {"params": groups[False], "lr": step * CURVED}]


def _cast(slopes: Slopes, analysis: Analysis) -> Slopes:
    network = analysis.network
    return {
        target: {
            n: tuple(t.to(dtype=network.dtype, device=network.device) for t in ts)
            for n, ts in tunings.items()
        }
        for target, tunings in slopes.items()
    }


def _again(analysis: Analysis, detached: bool = False) -> Analysis:
    """A fresh analysis that knows the bounds of the tensors which nonlinearities read, and nothing else."""
    network = _frozen(analysis.network) if detached else analysis.network
    region = analysis.region.detach() if detached else analysis.region
    again = Analysis(network, region, analysis.budget, analysis.slope)
    known = {name: analysis.interval(name) for name in analysis.plan.readers}
    again.give({name: x.detach() for name, x in known.items()} if detached else known)
    return again


def _of_images(analysis: Analysis, images: slice) -> Analysis:
    """The analysis of some of its images, as far as `_again` needs it."""
    region = analysis.region.at(images)
    part = Analysis(analysis.network, region, analysis.budget, analysis.slope)
    part.give({name: analysis.interval(name).at(images) for name in analysis.plan.readers})
    return part


def _frozen(network: Network) -> Network:
    """The network with its parameters as constants of autograd."""
    values = {name: v.detach() if isinstance(v, Tensor) else v for name, v in network.values.items()}
    return replace(network, values=values)


def _owners(analysis: Analysis, each: dict[str, int]) -> dict[str, Tensor]:
    """The intermediate tensors whose units may have slopes of their own, and the units [N, units] that need them.

    each: how many slopes a row of each tensor has.
    """
    return {
        target: analysis.unstable(target)
        for target, numbers in each.items()
        if numbers * prod(analysis.network.graph.shape(target)) <= OWN_SLOPES
    }


def _numbers_of_a_row(analysis: Analysis) -> dict[str, int]:
    """How many slopes a row of each intermediate tensor has on its way."""
    graph = analysis.network.graph
    targets = [name for name in analysis.plan.readers if name not in (*analysis.plan.prefix, graph.output)]
    tunings = {name: analysis.default_tuning(name) for name in analysis.relaxed_before(graph.output)}
    sizes = {name: sum(t[0].numel() for t in tuning) for name, tuning in tunings.items()}
    return {target: sum(sizes[name] for name in analysis.relaxed_before(target)) for target in targets}


def _groups(each: dict[str, int], asked: dict[str, Tensor], images: int) -> list[slice]:
    """All images, in as many parts as it takes to keep the slopes of each below `TOGETHER`."""
    numbers = sum(each[target] * int(mask.sum(1).max()) for target, mask in asked.items())
    step = max(1, TOGETHER // max(1, numbers))
    return [slice(first, min(first + step, images)) for first in range(0, images, step)]


@torch.no_grad()
def _initial(analysis: Analysis, rows: int, asked: dict[str, Tensor]) -> _Choice:
    """The default slopes of every target: of the output [N, S, …], of those asked [N, M, …], of others [N, 1, …]."""
    output = analysis.network.graph.output
    tunings = {name: analysis.default_tuning(name) for name in analysis.relaxed_before(output)}
    repeats = {name: 1 for name in analysis.plan.readers if name not in analysis.plan.prefix}
    repeats |= {target: max(1, int(mask.sum(1).max())) for target, mask in asked.items()} | {output: rows}
    slopes = {
        target: {
            name: tuple(t.detach().repeat(1, repeat, *[1] * (t.dim() - 2)) for t in tunings[name])
            for name in analysis.relaxed_before(target)
        }
        for target, repeat in repeats.items()
    }
    return _Choice(slopes, asked)


def _steered(old: Interval, new: Interval) -> Interval:
    """The tighter of both, with the derivative of the new one: where the old one is as tight, slopes still learn."""
    met = old.intersect(new)
    pairs = [(met.lower, new.lower), (met.upper, new.upper)]
    return Interval(*(torch.where(torch.isfinite(n), n + (m - n).detach(), m) for m, n in pairs))
