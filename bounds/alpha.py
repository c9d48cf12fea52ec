"""α-CROWN: the free slopes of every relaxation, optimised by gradient; every iterate is a sound bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
CURVED = 0.2
"""The part of a step that is taken where planes touch a curve: its bounds answer to their place more than a ReLU's."""


@dataclass(frozen=True)
class TunedCrown(Method):
    """CROWN at given slopes, such as `AlphaCrown.optimise` finds.  Any slopes in [0, 1] are sound."""

    slopes: Slopes
    slope: Slope = Slope.ADAPTIVE

    def lower(self, analysis: Analysis, coef: Tensor) -> Tensor:
        return _bound(analysis, _cast(self.slopes, analysis), coef)


@dataclass(frozen=True)
class AlphaCrown(Method):
    """CROWN with the slopes of intermediate and final bounds optimised (Xu et al. 2021).

    Each intermediate tensor has its own slopes for the nonlinearities before it, shared by its units; each row has
    its own.  iterations: gradient steps, each worth some three bounds; step: Adam's step size on slopes in [0, 1], a
    fifth of that where planes touch a curve, multiplied by `decay` each time.
    The best bound of each row over all iterates, CROWN's among them, is returned.  Under autograd the slopes found
    are constants, and the result is the bound at the best iterate of each image.
    """

    iterations: int = 20
    step: float = 0.5
    decay: float = 0.98
    slope: Slope = Slope.ADAPTIVE

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.step <= 0 or not 0 < self.decay <= 1:
            raise InvalidInput(
                "alpha-crown: needs iterations ≥ 0, step > 0, 0 < decay ≤ 1; "
                f"got {self.iterations}, {self.step:g}, {self.decay:g}"
            )

    def lower(self, analysis: Analysis, coef: Tensor) -> Tensor:
        plain = Crown(self.slope).lower(analysis, coef)
        best, slopes = self._ascend(analysis, coef.detach(), plain.detach())
        if plain.requires_grad and slopes:
            return torch.maximum(plain, _bound(_again(analysis), slopes, coef))
        return torch.maximum(plain, best)

    def optimise(self, analysis: Analysis, coef: Tensor) -> TunedCrown:
        """The slopes of each image's best iterate, as a method of their own."""
        plain = Crown(self.slope).lower(analysis, coef)
        _, slopes = self._ascend(analysis, coef.detach(), plain.detach())
        return TunedCrown(slopes, self.slope)

    def _ascend(self, analysis: Analysis, coef: Tensor, plain: Tensor) -> tuple[Tensor, Slopes]:
        """(best bound of every row, slopes of every image's best iterate) of an ascent on the sum of the rows."""
        with torch.no_grad():
            slopes = _initial(analysis, coef.shape[1])
        leaves = _leaves(slopes)
        if not leaves or self.iterations == 0:
            return plain, slopes
        for leaf in leaves:
            leaf.requires_grad_()
        kept = [leaf.detach().clone() for leaf in leaves]
        best, best_sum = plain, torch.full_like(plain[:, 0], -torch.inf)
        optimiser = torch.optim.Adam(_groups(analysis, slopes, self.step))
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, self.decay)
        for step in range(self.iterations + 1):
            last = step == self.iterations
            with torch.set_grad_enabled(not last):
                bound = _bound(_again(analysis, detached=True), slopes, coef, _steered)
            best = torch.maximum(best, bound.detach())
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
        return best, slopes


def _leaves(slopes: Slopes) -> list[Tensor]:
    return [t for tunings in slopes.values() for tuning in tunings.values() for t in tuning]


def _groups(analysis: Analysis, slopes: Slopes, step: float) -> list[dict[str, Any]]:
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
    for name in analysis.plan.readers:
        x = analysis.intervals[name]
        again.intervals[name] = x.detach() if detached else x
    return again


def _frozen(network: Network) -> Network:
    """The network with its parameters as constants of autograd."""
    values = {name: v.detach() if isinstance(v, Tensor) else v for name, v in network.values.items()}
    return replace(network, values=values)


def _initial(analysis: Analysis, rows: int) -> Slopes:
    """The default slopes of every target: of the intermediate ones [N, 1, …], of the output [N, S, …]."""
    output = analysis.network.graph.output
    targets = [name for name in analysis.plan.readers if name not in analysis.plan.prefix]
    slopes: Slopes = {}
    for target in dict.fromkeys([*targets, output]):
        repeat = rows if target == output else 1
        slopes[target] = {
            name: tuple(
                t.detach().repeat(1, repeat, *[1] * (t.dim() - 2)) for t in analysis.default_tuning(name)
            )
            for name in analysis.relaxed_before(target)
        }
    return slopes


def _steered(old: Interval, new: Interval) -> Interval:
    """The tighter of both, with the derivative of the new one: where the old one is as tight, slopes still learn."""
    met = old.intersect(new)
    pairs = [(met.lower, new.lower), (met.upper, new.upper)]
    return Interval(*(torch.where(torch.isfinite(n), n + (m - n).detach(), m) for m, n in pairs))


def _bound(analysis: Analysis, slopes: Slopes, coef: Tensor, meet: Meet = Interval.intersect) -> Tensor:
    """One evaluation: intermediate bounds with their slopes in order, then the rows with theirs."""
    output = analysis.network.graph.output
    for target in analysis.plan.readers:
        if target != output:
            analysis.refine(target, slopes.get(target), meet=meet)
    return analysis.rows(output, coef, slopes[output])
