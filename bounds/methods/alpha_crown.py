"""α-CROWN: the free alphas of every relaxation, optimised by gradient; every iterate is a sound bound."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidInput
from ..graph import Network
from ..interval import Interval
from ..operators import Nonlinear, rule_for
from ..relaxation import Slope
from ..rows import NodeAlphas
from ..state import BoundState, Meet
from .crown import Crown
from .method import Method

TargetAlphas = dict[str, NodeAlphas]
"""For each target, an intermediate tensor or the output, the alphas of every nonlinear node before it."""
OWN_SLOPES = 1 << 25
"""Numbers, were every unit of a tensor unstable; some tenths of them are."""
TOGETHER = 1 << 24
"""How many alphas the images that are optimised together have, at most: memory is some ten times that."""
CURVED = 0.2
"""The part of a step that is taken where planes touch a curve: its bounds answer to their place more than a ReLU's."""


@dataclass(frozen=True)
class CrownAtAlphas(Method):
    """CROWN at given alphas, such as `AlphaCrown.optimise` finds.  Any alphas in [0, 1] are sound."""

    alphas: TargetAlphas
    slope: Slope = Slope.ADAPTIVE

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        state.restart()
        return _AlphaSet(_cast(self.alphas, state)).bound(state, coef)


@dataclass(frozen=True)
class AlphaCrown(Method):
    """CROWN with the alphas of intermediate and final bounds optimised (Xu et al. 2021).

    Each unit of an intermediate tensor has alphas of its own for the nonlinearities before it, and so has each row of
    the output.  iterations: gradient steps, each worth one to four bounds; step: Adam's step size on alphas in
    [0, 1], a fifth of that where planes touch a curve, multiplied by `decay` each time.
    shared: all units of a tensor have the same alphas, which takes less time and memory and gets less far; so they
    do anyway in a tensor whose units' own would be more than `OWN_SLOPES` numbers.
    The best bound of each row over all iterates, CROWN's among them, is returned.  Under autograd the alphas found
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

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        plain = Crown(self.slope).lower(state, coef)
        each = {} if self.shared else _numbers_of_a_row(state)
        asked = _owners(state, each)
        found = []
        for images in _groups(each, asked, len(coef)):
            part, rows, known = _of_images(state, images), coef[images], plain[images]
            alpha_set = _initial(
                part, rows.shape[1], {target: mask[images] for target, mask in asked.items()}
            )
            best = self._ascend(part, rows.detach(), known.detach(), alpha_set)
            if known.requires_grad and alpha_set.parameters():
                best = alpha_set.bound(_again(part), rows)
            found.append(torch.fmax(known, best))
        return torch.cat(found)

    def optimise(self, state: BoundState, coef: Tensor) -> CrownAtAlphas:
        """The alphas of each image's best iterate, as a method of their own; units share them, whatever `shared`."""
        plain = Crown(self.slope).lower(state, coef)
        alpha_set = _initial(state, coef.shape[1], {})
        self._ascend(state, coef.detach(), plain.detach(), alpha_set)
        return CrownAtAlphas(alpha_set.alphas, self.slope)

    def _ascend(self, state: BoundState, coef: Tensor, best: Tensor, alpha_set: _AlphaSet) -> Tensor:
        """The best bound of every row of an ascent on their sum; `alpha_set` is left at every image's best iterate."""
        parameters = alpha_set.parameters()
        if not parameters or self.iterations == 0:
            return best
        for parameter in parameters:
            parameter.requires_grad_()
        kept = [parameter.detach().clone() for parameter in parameters]
        best_sum = torch.full_like(best[:, 0], -torch.inf)
        optimiser = torch.optim.Adam(_parameters_by_step(state, alpha_set.alphas, self.step))
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, self.decay)
        for step in range(self.iterations + 1):
            last = step == self.iterations
            with torch.set_grad_enabled(not last):
                bound = alpha_set.bound(_again(state, detached=True), coef, _steered)
            best = torch.fmax(best, bound.detach())
            better = bound.detach().sum(1) > best_sum
            best_sum = torch.where(better, bound.detach().sum(1), best_sum)
            with torch.no_grad():
                for parameter, keep in zip(parameters, kept, strict=True):
                    keep[better] = parameter[better]
            if last:
                break
            down = torch.full_like(bound, -1)
            gradients = torch.autograd.grad(bound, parameters, down, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                for parameter in parameters:
                    parameter.clamp_(0, 1)
        for parameter, keep in zip(parameters, kept, strict=True):
            parameter.requires_grad_(False).copy_(keep)
        return best


@dataclass(frozen=True)
class _AlphaSet:
    """TargetAlphas, and the units of each target that they are for: all unstable ones where nothing is said."""

    alphas: TargetAlphas
    asked: dict[str, Tensor] = field(default_factory=dict)

    def parameters(self) -> list[Tensor]:
        return [t for node_alphas in self.alphas.values() for alphas in node_alphas.values() for t in alphas]

    def bound(self, state: BoundState, coef: Tensor, meet: Meet = Interval.intersect) -> Tensor:
        """One evaluation: intermediate bounds with their alphas in order, then the rows with theirs."""
        output = state.network.graph.output
        for target in state.facts.readers:
            if target != output:
                mask = self.asked.get(target)
                state.refine(target, self.alphas.get(target), meet=meet, mask=mask)
        return state.lower_bounds(output, coef, self.alphas[output])


def _parameters_by_step(state: BoundState, every: TargetAlphas, step: float) -> list[dict[str, Any]]:
    """The parameters by their step size."""
    nodes = state.network.graph.nodes
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for node_alphas in every.values():
        for name, alphas in node_alphas.items():
            rule = rule_for(nodes[name])
            groups[isinstance(rule, Nonlinear) and rule.by_sign] += alphas
    return [{"params": groups[True], "lr": step}, {"params": groups[False], "lr": step * CURVED}]


def _cast(alphas: TargetAlphas, state: BoundState) -> TargetAlphas:
    network = state.network
    return {
        target: {
            n: tuple(t.to(dtype=network.dtype, device=network.device) for t in ts)
            for n, ts in node_alphas.items()
        }
        for target, node_alphas in alphas.items()
    }


def _again(state: BoundState, detached: bool = False) -> BoundState:
    """A fresh state that knows the bounds of the tensors which nonlinearities read, and nothing else."""
    network = _frozen(state.network) if detached else state.network
    region = state.region.detach() if detached else state.region
    again = BoundState(network, region, state.budget, state.slope)
    known = {name: state.interval(name) for name in state.facts.readers}
    again.give({name: x.detach() for name, x in known.items()} if detached else known)
    return again


def _of_images(state: BoundState, images: slice) -> BoundState:
    """The state of some of its images, as far as `_again` needs it."""
    region = state.region.at(images)
    part = BoundState(state.network, region, state.budget, state.slope)
    part.give({name: state.interval(name).at(images) for name in state.facts.readers})
    return part


def _frozen(network: Network) -> Network:
    """The network with its parameters as constants of autograd."""
    values = {name: v.detach() if isinstance(v, Tensor) else v for name, v in network.values.items()}
    return replace(network, values=values)


def _owners(state: BoundState, each: dict[str, int]) -> dict[str, Tensor]:
    """The intermediate tensors whose units may have alphas of their own, and the units [N, units] that need them.

    each: how many alphas a row of each tensor has.
    """
    return {
        target: state.unstable(target)
        for target, numbers in each.items()
        if numbers * prod(state.network.graph.shape(target)) <= OWN_SLOPES
    }


def _numbers_of_a_row(state: BoundState) -> dict[str, int]:
    """How many alphas a row of each intermediate tensor has on its way."""
    graph = state.network.graph
    targets = [name for name in state.facts.readers if name not in (*state.facts.prefix, graph.output)]
    node_alphas = {name: state.default_alphas(name) for name in state.relaxed_before(graph.output)}
    sizes = {name: sum(t[0].numel() for t in alphas) for name, alphas in node_alphas.items()}
    return {target: sum(sizes[name] for name in state.relaxed_before(target)) for target in targets}


def _groups(each: dict[str, int], asked: dict[str, Tensor], images: int) -> list[slice]:
    """All images, in as many parts as it takes to keep the alphas of each below `TOGETHER`."""
    numbers = sum(each[target] * int(mask.sum(1).max()) for target, mask in asked.items())
    step = max(1, TOGETHER // max(1, numbers))
    return [slice(first, min(first + step, images)) for first in range(0, images, step)]


@torch.no_grad()
def _initial(state: BoundState, rows: int, asked: dict[str, Tensor]) -> _AlphaSet:
    """The default alphas of every target: of the output [N, S, …], of those asked [N, M, …], of others [N, 1, …]."""
    output = state.network.graph.output
    node_alphas = {name: state.default_alphas(name) for name in state.relaxed_before(output)}
    repeats = {name: 1 for name in state.facts.readers if name not in state.facts.prefix}
    repeats |= {target: max(1, int(mask.sum(1).max())) for target, mask in asked.items()} | {output: rows}
    alphas = {
        target: {
            name: tuple(t.detach().repeat(1, repeat, *[1] * (t.dim() - 2)) for t in node_alphas[name])
            for name in state.relaxed_before(target)
        }
        for target, repeat in repeats.items()
    }
    return _AlphaSet(alphas, asked)


def _steered(old: Interval, new: Interval) -> Interval:
    """The tighter of both, with the derivative of the new one: where the old one is as tight, alphas still learn."""
    met = old.intersect(new)
    pairs = [(met.lower, new.lower), (met.upper, new.upper)]
    return Interval(*(torch.where(torch.isfinite(n), n + (m - n).detach(), m) for m, n in pairs))
