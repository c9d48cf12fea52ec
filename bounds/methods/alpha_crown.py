"""α-CROWN: gradient ascent on the free parameters (alphas) of every relaxation.  Every iterate is a sound bound."""

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
MOST_OWN_ALPHAS = 1 << 25
"""Largest number of per-unit alphas kept for one tensor, assuming every unit is unstable.  Chosen by hand."""
ALPHAS_AT_ONCE = 1 << 24
"""Largest number of alphas optimised together; memory is about ten times that.  Chosen by hand."""
CURVED = 0.2
"""Factor on the step size for alphas of curves: their bounds react more strongly than a ReLU's.  Chosen by hand."""


@dataclass(frozen=True)
class CrownAtAlphas(Method):
    """CROWN at given alphas, such as those that `AlphaCrown.optimise` finds.  Any alphas in [0, 1] are sound."""

    alphas: TargetAlphas
    """For each target and each nonlinear node before it, the alphas in [0, 1]."""
    slope: Slope = Slope.ADAPTIVE
    """How the lower slope of an unstable ReLU without alphas is chosen."""

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        state.restart()
        return _AlphaSet(_cast(self.alphas, state)).bound(state, coef)


@dataclass(frozen=True)
class AlphaCrown(Method):
    """CROWN with optimised alphas for the intermediate and the output bounds (Xu et al. 2021, α-CROWN).

    Each unit of an intermediate tensor has its own alphas for the nonlinear nodes before it, and so has each row of the
    specification.  The result is the best bound of each row over all iterates, CROWN's included.  Under autograd the
    optimised alphas are constants, and the result is the bound at the best iterate of each image.
    Raises InvalidInput for iterations < 0, step ≤ 0, or decay outside of (0, 1].
    """

    iterations: int = 20
    """Gradient steps.  Each costs as much as one to four bounds."""
    step: float = 0.5
    """Adam's step size on alphas in [0, 1]; alphas of curves use a fifth of it."""
    decay: float = 0.98
    """The factor by which each iteration multiplies the step size."""
    slope: Slope = Slope.ADAPTIVE
    """How the lower slope of an unstable ReLU is chosen where the ascent starts."""
    shared: bool = False
    """Whether all units of a tensor share their alphas, which saves time and memory and gives looser bounds.  Units
    share them anyway in a tensor whose units would need more than `MOST_OWN_ALPHAS` alphas.
    """

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.step <= 0 or not 0 < self.decay <= 1:
            raise InvalidInput(
                "alpha-crown: needs iterations ≥ 0, step > 0, 0 < decay ≤ 1; "
                f"got {self.iterations}, {self.step:g}, {self.decay:g}"
            )

    def lower(self, state: BoundState, coef: Tensor) -> Tensor:
        plain = Crown(self.slope).lower(state, coef)
        per_row = {} if self.shared else _alphas_per_row(state)
        own_masks = _units_with_own_alphas(state, per_row)
        found = []
        for images in _groups(per_row, own_masks, len(coef)):
            part, rows, crown = _state_of_images(state, images), coef[images], plain[images]
            alpha_set = _initial(
                part, rows.shape[1], {target: mask[images] for target, mask in own_masks.items()}
            )
            best = self._ascend(part, rows.detach(), crown.detach(), alpha_set)
            if crown.requires_grad and alpha_set.parameters():
                best = alpha_set.bound(_fresh_state(part), rows)
            found.append(torch.fmax(crown, best))
        return torch.cat(found)

    def optimise(self, state: BoundState, coef: Tensor) -> CrownAtAlphas:
        """Return the alphas of each image's best iterate as a method.  All units of a tensor share their alphas."""
        plain = Crown(self.slope).lower(state, coef)
        alpha_set = _initial(state, coef.shape[1], {})
        self._ascend(state, coef.detach(), plain.detach(), alpha_set)
        return CrownAtAlphas(alpha_set.alphas, self.slope)

    def _ascend(self, state: BoundState, coef: Tensor, best: Tensor, alpha_set: _AlphaSet) -> Tensor:
        """Return the best bound of every row of an ascent on their sum; `alpha_set` ends at each image's best
        iterate.
        """
        parameters = alpha_set.parameters()
        if not parameters or self.iterations == 0:
            return best
        for parameter in parameters:
            parameter.requires_grad_()
        best_parameters = [parameter.detach().clone() for parameter in parameters]
        best_sum = torch.full_like(best[:, 0], -torch.inf)
        optimiser = torch.optim.Adam(_parameters_by_step(state, alpha_set.alphas, self.step))
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, self.decay)
        for step in range(self.iterations + 1):
            last = step == self.iterations
            with torch.set_grad_enabled(not last):
                bound = alpha_set.bound(_fresh_state(state, detached=True), coef, _intersect_keeping_gradient)
            best = torch.fmax(best, bound.detach())
            better = bound.detach().sum(1) > best_sum
            best_sum = torch.where(better, bound.detach().sum(1), best_sum)
            with torch.no_grad():
                for parameter, best_parameter in zip(parameters, best_parameters, strict=True):
                    best_parameter[better] = parameter[better]
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
        for parameter, best_parameter in zip(parameters, best_parameters, strict=True):
            parameter.requires_grad_(False).copy_(best_parameter)
        return best


@dataclass(frozen=True)
class _AlphaSet:
    """The alphas of all targets, and the units of each target that have their own (all unstable ones by default)."""

    alphas: TargetAlphas
    own_masks: dict[str, Tensor] = field(default_factory=dict)

    def parameters(self) -> list[Tensor]:
        return [t for node_alphas in self.alphas.values() for alphas in node_alphas.values() for t in alphas]

    def bound(self, state: BoundState, coef: Tensor, meet: Meet = Interval.intersect) -> Tensor:
        """Evaluate the bounds at these alphas: the intermediate tensors in order, then the specification."""
        output = state.network.graph.output
        for target in state.facts.readers:
            if target != output:
                mask = self.own_masks.get(target)
                state.refine(target, self.alphas.get(target), meet=meet, mask=mask)
        return state.lower_bounds(output, coef, self.alphas[output])


def _parameters_by_step(state: BoundState, alphas_of: TargetAlphas, step: float) -> list[dict[str, Any]]:
    """Group the parameters by their step size."""
    nodes = state.network.graph.nodes
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for node_alphas in alphas_of.values():
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


def _fresh_state(state: BoundState, detached: bool = False) -> BoundState:
    """Return a new state that holds the intermediate bounds of the pre-activations, and nothing else."""
    network = _frozen(state.network) if detached else state.network
    region = state.region.detach() if detached else state.region
    fresh = BoundState(network, region, state.budget, state.slope)
    current = {name: state.interval(name) for name in state.facts.readers}
    fresh.give({name: x.detach() for name, x in current.items()} if detached else current)
    return fresh


def _state_of_images(state: BoundState, images: slice) -> BoundState:
    """Return the state of some of the images, as far as `_fresh_state` needs it."""
    region = state.region.at(images)
    part = BoundState(state.network, region, state.budget, state.slope)
    part.give({name: state.interval(name).at(images) for name in state.facts.readers})
    return part


def _frozen(network: Network) -> Network:
    """Return the network with its parameters as constants of autograd."""
    values = {name: v.detach() if isinstance(v, Tensor) else v for name, v in network.values.items()}
    return replace(network, values=values)


def _units_with_own_alphas(state: BoundState, per_row: dict[str, int]) -> dict[str, Tensor]:
    """Return, for each tensor whose units may have their own alphas, the mask [N, units] of the units that need them.

    per_row: the number of alphas of one row of each tensor.
    """
    return {
        target: state.unstable(target)
        for target, count in per_row.items()
        if count * prod(state.network.graph.shape(target)) <= MOST_OWN_ALPHAS
    }


def _alphas_per_row(state: BoundState) -> dict[str, int]:
    """Return the number of alphas of one row of each intermediate tensor."""
    graph = state.network.graph
    targets = [name for name in state.facts.readers if name not in (*state.facts.prefix, graph.output)]
    node_alphas = {name: state.default_alphas(name) for name in state.relaxed_before(graph.output)}
    sizes = {name: sum(t[0].numel() for t in alphas) for name, alphas in node_alphas.items()}
    return {target: sum(sizes[name] for name in state.relaxed_before(target)) for target in targets}


def _groups(per_row: dict[str, int], own_masks: dict[str, Tensor], images: int) -> list[slice]:
    """Cut the images into groups whose alphas do not exceed `ALPHAS_AT_ONCE`."""
    total = sum(per_row[target] * int(mask.sum(1).max()) for target, mask in own_masks.items())
    step = max(1, ALPHAS_AT_ONCE // max(1, total))
    return [slice(first, min(first + step, images)) for first in range(0, images, step)]


@torch.no_grad()
def _initial(state: BoundState, rows: int, own_masks: dict[str, Tensor]) -> _AlphaSet:
    """Return the default alphas of every target: [N, S, …] for the output, [N, M, …] for targets in `own_masks`, and
    [N, 1, …] for the others.
    """
    output = state.network.graph.output
    node_alphas = {name: state.default_alphas(name) for name in state.relaxed_before(output)}
    repeats = {name: 1 for name in state.facts.readers if name not in state.facts.prefix}
    repeats |= {target: max(1, int(mask.sum(1).max())) for target, mask in own_masks.items()} | {output: rows}
    alphas = {
        target: {
            name: tuple(t.detach().repeat(1, repeat, *[1] * (t.dim() - 2)) for t in node_alphas[name])
            for name in state.relaxed_before(target)
        }
        for target, repeat in repeats.items()
    }
    return _AlphaSet(alphas, own_masks)


def _intersect_keeping_gradient(old: Interval, new: Interval) -> Interval:
    """Return the intersection with the derivative of the new interval.

    So alphas keep a gradient if the old interval is as tight.
    """
    intersection = old.intersect(new)
    pairs = [(intersection.lower, new.lower), (intersection.upper, new.upper)]
    return Interval(*(torch.where(torch.isfinite(n), n + (m - n).detach(), m) for m, n in pairs))
