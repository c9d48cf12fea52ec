"""Bounds of many subproblems at once: slopes α and split multipliers γ optimised together (β-CROWN, Wang et al. 2021).

A subproblem restricts some units z of nonlinear operands to z ≥ p or z ≤ p.  Its interval, met with the restriction,
makes the relaxation tighter; what the restriction says beyond that enters by Lagrange: for any γ of the right sign

    min {row·f : z ∈ [l, u]} ≥ min {row·f − γ·(z − bound)},   bound = l where γ ≥ 0, u where γ ≤ 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import bounds
from bounds.analysis import Analysis
from bounds.backward import lower_bound
from bounds.memory import Budget
from bounds.ops import Nonlinear, rule_for
from bounds.ops.rule import Tuning
from bounds.relaxation import Relaxation

Tunings = dict[str, Tuning]


@dataclass(frozen=True)
class Split:
    """Unit `unit` (flat) of the operand of nonlinear node `node` is ≥ point (side 1) or ≤ point (side −1)."""

    node: str
    unit: int
    point: float
    side: int


@dataclass(frozen=True)
class Choice:
    """What an optimiser chose for S rows: slopes [S, …] of nonlinear nodes, multipliers [S, *operand] of split ones."""

    tunings: Mapping[str, Tuning]
    multipliers: Mapping[str, Tensor]


@dataclass(frozen=True)
class Bounded:
    """lower [B, S]; worst [B, *shape], where the linear bounds of all rows together are least; the choice of each."""

    lower: Tensor
    worst: Tensor
    choices: list[Choice]


@dataclass(frozen=True)
class Pushed(Relaxation):
    """A relaxation whose operand's restriction adds `extra` to its row and `const` to the bound.

    seen: where the arriving coefficients are noted.
    """

    extra: Tensor | None = None
    const: Tensor | None = None
    seen: list[Tensor] = field(default_factory=list)

    def pull(self, coef: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        self.seen.append(coef)
        pulled, const = super().pull(coef)
        if self.extra is None or self.const is None:
            return pulled, const
        return (pulled[0] + self.extra,), const + self.const


class Batch:
    """B subproblems of one network, each with S rows of its own.

    root: the bounds that hold before any split, of G boxes; group [B] the box of each subproblem; coef [B, S, *out],
    offset [B, S].
    """

    def __init__(
        self, root: Analysis, group: Tensor, coef: Tensor, offset: Tensor, splits: Sequence[Sequence[Split]]
    ) -> None:
        self.network = root.network
        self.coef, self.offset = coef, offset
        self.region = root.region.at(group)
        self.analysis = Analysis(self.network, self.region, Budget(1), root.slope)
        self.nodes = root.relaxed_before(self.network.graph.output)
        for name in self.nodes:
            for operand in self.network.graph.nodes[name].operands:
                x = root.interval(operand)
                self.analysis.intervals[operand] = bounds.Interval(x.lower[group], x.upper[group])
        self.signs = self._restrict(splits)

    def _restrict(self, splits: Sequence[Sequence[Split]]) -> dict[str, Tensor]:
        """Meets intervals with the splits; returns the sides that are split, [B, *operand] of −1, 0, 1."""
        signs: dict[str, Tensor] = {}
        graph = self.network.graph
        for name in {split.node: None for own in splits for split in own}:
            (operand,) = graph.nodes[name].operands
            x = self.analysis.intervals[operand]
            units = x.lower[0].numel()
            flat = {1: x.lower.flatten().clone(), -1: x.upper.flatten().clone()}
            sign = torch.zeros_like(flat[1])
            for side, reduce in ((1, "amax"), (-1, "amin")):
                chosen = [
                    (b * units + split.unit, split.point)
                    for b, own in enumerate(splits)
                    for split in own
                    if split.node == name and split.side == side
                ]
                index = torch.tensor([i for i, _ in chosen], dtype=torch.long, device=sign.device)
                points = torch.tensor([p for _, p in chosen], dtype=sign.dtype, device=sign.device)
                flat[side].scatter_reduce_(0, index, points, reduce)
                sign[index] = float(side)
            self.analysis.intervals[operand] = bounds.Interval(
                flat[1].reshape(x.lower.shape), flat[-1].reshape(x.upper.shape)
            )
            signs[name] = sign.reshape(x.lower.shape)
        return signs

    def start(self, choices: Sequence[Choice | None]) -> tuple[Tunings, dict[str, Tensor]]:
        """Slopes [B, S, …] and multipliers [B, S, *operand] to begin with: a parent's, or the default."""
        rows = self.coef.shape[1]
        tunings: Tunings = {}
        for name in self.nodes:
            default = self.analysis.default_tuning(name)
            tunings[name] = tuple(
                torch.stack([
                    t[b].expand(rows, *t.shape[2:]) if c is None else c.tunings[name][k].to(t)
                    for b, c in enumerate(choices)
                ])
                for k, t in enumerate(default)
            )  # fmt: skip
        multipliers = {}
        for name, sign in self.signs.items():
            nothing = torch.zeros(rows, *sign.shape[1:], dtype=sign.dtype, device=sign.device)
            own = [None if c is None else c.multipliers.get(name) for c in choices]
            multipliers[name] = torch.stack([nothing if m is None else m.to(sign) for m in own])
        return tunings, multipliers

    def bound(
        self,
        tunings: Tunings,
        multipliers: Mapping[str, Tensor],
        region: bounds.Region,
        seen: dict[str, list[Tensor]] | None = None,
    ) -> Tensor:
        """Lower bounds of the excess for slopes in [0, 1] and multipliers of any value.  [B, S]"""

        def provide(name: str) -> Relaxation:
            plane = self.analysis.tuned(name, tunings[name])
            extra = const = None
            if name in multipliers:
                extra, const = self._lagrange(name, multipliers[name])
            noted = [] if seen is None else seen.setdefault(name, [])
            return Pushed(plane.lower, plane.upper, extra, const, noted)

        found = lower_bound(self.network, region, provide, self.network.graph.output, self.coef)
        return found - self.offset

    def _lagrange(self, name: str, multiplier: Tensor) -> tuple[Tensor, Tensor]:
        """(−γ, Σ γ·bound) with γ ≥ 0 where z is split above, γ ≤ 0 where below, 0 elsewhere."""
        (operand,) = self.network.graph.nodes[name].operands
        x, sign = self.analysis.intervals[operand], self.signs[name].unsqueeze(1)
        gamma = sign * multiplier.clamp(min=0)
        edge = torch.where(sign > 0, x.lower.unsqueeze(1), x.upper.unsqueeze(1))
        return -gamma, (gamma * torch.where(sign != 0, edge, 0)).flatten(2).sum(-1)

    def optimise(
        self,
        choices: Sequence[Choice | None],
        iterations: int,
        needed: Tensor,
        *,
        step: float = 0.1,
        decay: float = 0.95,
    ) -> Bounded:
        """The best bound of each row over `iterations` steps of Adam; stops where every subproblem is proved.

        needed [B]: what a row's bound must exceed.
        """
        tunings, multipliers = self.start(choices)
        leaves = [t for name in self.nodes for t in tunings[name]]
        gammas = list(multipliers.values())
        for leaf in [*leaves, *gammas]:
            leaf.requires_grad_(iterations > 0)
        scale = self._scale(tunings, multipliers)
        groups = [
            {"params": leaves, "lr": step},
            *({"params": [m], "lr": step * scale[n]} for n, m in multipliers.items()),
        ]
        optimiser = torch.optim.Adam(groups) if leaves else None
        best: Tensor | None = None
        kept = [leaf.detach().clone() for leaf in [*leaves, *gammas]]
        worst = self.region.x
        for iteration in range(iterations + 1):
            x = self.region.x.detach().requires_grad_(True)
            with torch.enable_grad():
                bound = self.bound(tunings, multipliers, replace(self.region, x=x))
                wanted = [*leaves, *gammas] if iteration < iterations else []
                gradients = torch.autograd.grad(
                    bound.sum(), [*wanted, x], allow_unused=True, materialize_grads=True
                )
            lower = bound.detach()
            before = lower.new_full(lower.shape, -torch.inf) if best is None else best
            better = lower > before
            best = torch.where(better, lower, before)
            with torch.no_grad():
                for leaf, keep in zip([*leaves, *gammas], kept, strict=True):
                    keep.copy_(
                        torch.where(better.reshape(*better.shape, *[1] * (leaf.dim() - 2)), leaf, keep)
                    )
            improved = better.any(1).reshape(-1, *[1] * (worst.dim() - 1))
            worst = torch.where(improved, self._least(gradients[-1]), worst)
            if iteration == iterations or optimiser is None or bool((best.amax(1) > needed).all()):
                break
            for leaf, gradient in zip(wanted, gradients, strict=False):
                leaf.grad = -gradient
            optimiser.step()
            for group in optimiser.param_groups:
                group["lr"] *= decay
            with torch.no_grad():
                for leaf in leaves:
                    leaf.clamp_(0, 1)
                for gamma in gammas:
                    gamma.clamp_(min=0)
        assert best is not None
        return Bounded(best, worst, list(self._chosen(kept)))

    def _least(self, slope: Tensor) -> Tensor:
        """The point of the box where a linear form with these coefficients is least."""
        return self.region.x - self.region.radii * slope.sign()

    def _scale(self, tunings: Tunings, multipliers: Mapping[str, Tensor]) -> dict[str, float]:
        """How large the coefficients are that a multiplier meets."""
        if not multipliers:
            return {}
        seen: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            self.bound(tunings, multipliers, self.region, seen)
        return {name: max(float(seen[name][-1].abs().mean()), 1e-12) for name in multipliers}

    def _chosen(self, kept: Sequence[Tensor]) -> Iterator[Choice]:
        """The kept tensors as the choice of each subproblem, in float32: any values are sound."""
        for b in range(len(self.coef)):
            own = iter([leaf[b].to(torch.float32) for leaf in kept])
            tunings = {
                name: tuple(next(own) for _ in self.analysis.default_tuning(name)) for name in self.nodes
            }
            yield Choice(tunings, {name: next(own) for name in self.signs})


def splittable(network: bounds.Network, name: str) -> bool:
    """Whether the units of a nonlinear node's operand can be split one by one."""
    node = network.graph.nodes[name]
    rule = rule_for(node)
    return (
        isinstance(rule, Nonlinear)
        and rule.elementwise
        and len(node.operands) == 1
        and network.graph.shape(node.operands[0]) == node.shape
    )
