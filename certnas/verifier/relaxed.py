"""Bounds many subproblems at once and optimises slopes α and split multipliers γ together (β-CROWN, Wang et al.
2021).

A subproblem restricts some units z of nonlinear operands to z ≥ p or z ≤ p. The restriction narrows the unit's
interval, which tightens the relaxation. A Lagrange multiplier adds the rest: for any γ of the right sign

    min {row·f : z ∈ [l, u]} ≥ min {row·f − γ·(z − bound)},   bound = l where γ ≥ 0, u where γ ≤ 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from certnas import bounds
from certnas.bounds import Nonlinear
from certnas.bounds.extend import (
    Alphas,
    BoundState,
    MemoryBudget,
    Relaxation,
    lower_bound,
    rule_for,
    undefined,
    without,
)


@dataclass(frozen=True)
class UnitSplit:
    """A restriction of one unit: ≥ point on side 1, ≤ point on side −1."""

    node: str
    """The nonlinear node whose operand has the unit; or the graph's input, whose own unit is split."""
    unit: int
    """The flat index of the unit."""
    point: float
    """The point of the split."""
    side: int
    """1 for the part above the point, −1 for the part below."""


@dataclass(frozen=True)
class Choice:
    """The optimised parameters of the bounds of R rows, for one subproblem or, with a leading axis, for a batch.

    S given rows have R = S rows if S = 1; otherwise R = S + 1, and the last is a convex combination of the S rows.
    """

    node_alphas: Mapping[str, Alphas]
    """The slopes [R, …] of each nonlinear node."""
    multipliers: Mapping[str, Tensor]
    """The multipliers [R, *operand] of each split node."""
    mix: Tensor | None = None
    """The softmax weights [S] of the combined row; None if there is none."""

    def tensors(self) -> Iterator[Tensor]:
        """Yields all tensors: slopes, multipliers, and the mix."""
        for alphas in self.node_alphas.values():
            yield from alphas
        yield from self.multipliers.values()
        if self.mix is not None:
            yield self.mix

    def rebuilt(self, tensors: Sequence[Tensor]) -> Choice:
        """The same choice with other tensors, in the order of `tensors()`."""
        own = iter(tensors)
        node_alphas = {name: tuple(next(own) for _ in alphas) for name, alphas in self.node_alphas.items()}
        multipliers = {name: next(own) for name in self.multipliers}
        return Choice(node_alphas, multipliers, None if self.mix is None else next(own))


@dataclass(frozen=True)
class Bounded:
    """The bounds of a batch of subproblems."""

    lower: Tensor
    """The lower bound of each row, [B, R]."""
    worst: Tensor
    """The point where the sum of the rows' linear bounds is least, [B, *shape]."""
    choices: list[Choice]
    """The parameters that gave the bounds, for each subproblem."""


@dataclass(frozen=True)
class Pushed(Relaxation):
    """A relaxation that also adds the Lagrange term of its operand's splits."""

    extra: Tensor | None = None
    """The coefficients that are added to the operand's."""
    const: Tensor | None = None
    """The constant that is added to the bound."""
    seen: list[Tensor] = field(default_factory=list)
    """Collects the coefficients that arrive at the node."""

    def pull(self, coef: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        self.seen.append(coef)
        pulled, const = super().pull(coef)
        if self.extra is None or self.const is None:
            return pulled, const
        return (pulled[0] + self.extra,), const + self.const


class SubproblemBatch:
    """B subproblems of one network, each with S rows; a subproblem is proved if any row is positive on all of it.

    If S > 1, a mixture of the rows is bounded as well. A point that satisfies all rows has Σ λₛ·rowₛ ≤ 0, so a
    positive mixture proves the subproblem even if each row alone can be satisfied.

    root: the bound state before any split, over G boxes. group: the box of each subproblem, [B].
    coef, offset: the rows [B, S, *out] and their offsets [B, S]. splits: the splits of each subproblem.
    """

    def __init__(
        self,
        root: BoundState,
        group: Tensor,
        coef: Tensor,
        offset: Tensor,
        splits: Sequence[Sequence[UnitSplit]],
    ) -> None:
        self.network = root.network
        self.coef, self.offset = coef, offset
        self.region = root.region.at(group)
        self.state = type(root)(self.network, self.region, MemoryBudget(1), root.slope)
        self.nodes = root.relaxed_before(self.network.graph.output)
        for name in self.nodes:
            for operand in self.network.graph.nodes[name].operands:
                x = root.interval(operand)
                self.state.give({operand: x.at(group)})
        self.signs = self._restrict(splits)
        self.lost = undefined(self.state)

    def _restrict(self, splits: Sequence[Sequence[UnitSplit]]) -> dict[str, Tensor]:
        """Narrows the intervals by the splits; returns the sides that are split, [B, *operand] of −1, 0 and 1."""
        signs: dict[str, Tensor] = {}
        graph = self.network.graph
        for name in {split.node: None for own in splits for split in own}:
            (operand,) = graph.nodes[name].operands
            x = self.state.intervals[operand]
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
            sides = (side.reshape(x.lower.shape) for side in (flat[1], flat[-1]))
            self.state.give({operand: bounds.Interval(*sides)})
            signs[name] = sign.reshape(x.lower.shape)
        return signs

    def start(self, choices: Sequence[Choice | None]) -> Choice:
        """The initial parameters: those of the parent, or the default."""
        given = self.coef.shape[1]
        rows = given + (given > 1)
        node_alphas: dict[str, Alphas] = {}
        for name in self.nodes:
            default = self.state.default_alphas(name)
            node_alphas[name] = tuple(
                torch.stack(
                    [
                        t[b].expand(rows, *t.shape[2:]) if c is None else c.node_alphas[name][k].to(t)
                        for b, c in enumerate(choices)
                    ]
                )
                for k, t in enumerate(default)
            )
        multipliers = {}
        for name, sign in self.signs.items():
            nothing = torch.zeros(rows, *sign.shape[1:], dtype=sign.dtype, device=sign.device)
            own = [None if c is None else c.multipliers.get(name) for c in choices]
            multipliers[name] = torch.stack([nothing if m is None else m.to(sign) for m in own])
        if given == 1:
            return Choice(node_alphas, multipliers)
        even = torch.zeros_like(self.offset[0])
        mixes = [even if c is None or c.mix is None else c.mix.to(even) for c in choices]
        return Choice(node_alphas, multipliers, torch.stack(mixes))

    def bound(
        self, choice: Choice, region: bounds.Region, seen: dict[str, list[Tensor]] | None = None
    ) -> Tensor:
        """Lower bounds of the excess, for slopes in [0, 1] and any multipliers and mix.  [B, R]

        seen: if given, collects the coefficients that arrive at each node.
        """

        def provide(name: str) -> Relaxation:
            plane = self.state.relaxation_at(name, choice.node_alphas[name])
            extra = const = None
            if name in choice.multipliers:
                extra, const = self._lagrange(name, choice.multipliers[name])
            noted = [] if seen is None else seen.setdefault(name, [])
            return Pushed(plane.lower, plane.upper, extra, const, noted)

        coef, offset = self.coef, self.offset
        if choice.mix is not None:
            share = choice.mix.softmax(1).unsqueeze(1)
            mixed = (share @ coef.flatten(2)).reshape(len(coef), 1, *coef.shape[2:])
            coef = torch.cat([coef, mixed], 1)
            offset = torch.cat([offset, (share @ offset.unsqueeze(2)).squeeze(2)], 1)
        found = lower_bound(self.network, region, provide, self.network.graph.output, coef)
        return without(self.lost, coef, found) - offset

    def _lagrange(self, name: str, multiplier: Tensor) -> tuple[Tensor, Tensor]:
        """The terms −γ and Σ γ·bound, with γ ≥ 0 for units split above, γ ≤ 0 for units split below, 0 elsewhere."""
        (operand,) = self.network.graph.nodes[name].operands
        x, sign = self.state.intervals[operand], self.signs[name].unsqueeze(1)
        gamma = sign * torch.where(multiplier >= 0, multiplier, 0)  # clamp has no derivative at 0
        edge = torch.where(sign > 0, x.lower.unsqueeze(1), x.upper.unsqueeze(1))
        return -gamma, (gamma * torch.where(sign != 0, edge, 0)).flatten(2).sum(-1)

    def optimise(
        self,
        choices: Sequence[Choice | None],
        iterations: int,
        needed: Tensor,
        *,
        step: float = 0.1,
    ) -> Bounded:
        """Optimises the parameters with Adam; returns the best bound of each row.

        iterations: the number of steps; the optimisation stops early when every subproblem is proved.
        needed: the bound that proves each subproblem, [B].
        step: the first step size, in units of a slope; it falls to a twentieth over the iterations.
        """
        choice = self.start(choices)
        leaves = [t.requires_grad_(iterations > 0) for t in choice.tensors()]
        slopes = [t for alphas in choice.node_alphas.values() for t in alphas]
        scale = self._scale(choice)
        groups = [
            {"params": slopes, "lr": step},
            *({"params": [m], "lr": step * scale[n]} for n, m in choice.multipliers.items()),
            *([] if choice.mix is None else [{"params": [choice.mix], "lr": 5 * step}]),
        ]
        optimiser = torch.optim.Adam(groups) if leaves else None
        best: Tensor | None = None
        kept = [leaf.detach().clone() for leaf in leaves]
        worst = self.region.x
        for iteration in range(iterations + 1):
            x = self.region.x.detach().requires_grad_(True)
            with torch.enable_grad():
                bound = self.bound(choice, replace(self.region, x=x))
                wanted = leaves if iteration < iterations else []
                gradients = torch.autograd.grad(
                    bound.sum(), [*wanted, x], allow_unused=True, materialize_grads=True
                )
            lower = bound.detach()
            before = lower.new_full(lower.shape, -torch.inf) if best is None else best
            better = lower > before
            best = torch.where(better, lower, before)
            self._keep(choice, leaves, kept, better)
            improved = better.any(1).reshape(-1, *[1] * (worst.dim() - 1))
            worst = torch.where(improved, self._least(gradients[-1]), worst)
            if iteration == iterations or optimiser is None or bool((best.amax(1) > needed).all()):
                break
            for leaf, gradient in zip(wanted, gradients, strict=False):
                leaf.grad = -gradient
            optimiser.step()
            for group in optimiser.param_groups:
                group["lr"] *= 0.05 ** (1 / iterations)
            with torch.no_grad():
                for leaf in slopes:
                    leaf.clamp_(0, 1)
                for multiplier in choice.multipliers.values():
                    multiplier.clamp_(min=0)
        assert best is not None
        own = ([leaf[b].to(torch.float32) for leaf in kept] for b in range(len(self.coef)))
        return Bounded(best, worst, [choice.rebuilt(tensors) for tensors in own])

    def _keep(self, choice: Choice, leaves: list[Tensor], kept: list[Tensor], better: Tensor) -> None:
        """Copies the parameters of the rows that improved; the mix belongs to the last row."""
        with torch.no_grad():
            for leaf, keep in zip(leaves, kept, strict=True):
                rows = better[:, -1] if leaf is choice.mix else better
                keep.copy_(
                    torch.where(rows.reshape(*rows.shape, *[1] * (leaf.dim() - rows.dim())), leaf, keep)
                )

    def _least(self, slope: Tensor) -> Tensor:
        """The point of the box where a linear form with these coefficients is least."""
        return self.region.x - self.region.radii * slope.sign()

    def _scale(self, choice: Choice) -> dict[str, float]:
        """The mean size of the coefficients that arrive at each split node."""
        if not choice.multipliers:
            return {}
        seen: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            self.bound(choice, self.region, seen)
        return {name: max(float(seen[name][-1].abs().mean()), 1e-12) for name in choice.multipliers}


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
