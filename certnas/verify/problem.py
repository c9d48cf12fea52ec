"""A property as tensors: boxes as regions, constraints as rows of the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

import bounds
from certnas.certifier import PROOF_MARGIN
from certnas.verify.property import Clause, Property, rounded


@dataclass(frozen=True)
class Problem:
    """Clauses of one property on a network in float64, grouped by box.

    region: G boxes.  A counterexample of clause c has coef[g, s]·f(x) − offset[g, s] ≤ 0 for every row s of its box g
    with clause[g, s] = c.  coef [G, S, K], offset [G, S], clause [G, S]; boxes of fewer rows repeat their last.
    needed [G]: a row is proved positive where its lower bound exceeds this: rounding is far below.
    """

    network: bounds.Network
    clauses: tuple[Clause, ...]
    region: bounds.Linf
    coef: Tensor
    offset: Tensor
    clause: Tensor
    needed: Tensor

    @classmethod
    def of(cls, network: bounds.Network, clauses: Sequence[Clause]) -> Problem:
        """The problem of showing that no clause can be met."""
        groups: dict[int, list[int]] = {}
        for c, clause in enumerate(clauses):
            groups.setdefault(id(clause.box), []).append(c)
        rows = [[(c, k) for c in group for k in clauses[c].constraints] for group in groups.values()]
        most = max(map(len, rows))
        rows = [group + [group[-1]] * (most - len(group)) for group in rows]
        units = int(np.prod(network.graph.output_shape))
        coef = np.zeros((len(rows), most, units))
        offset = np.zeros((len(rows), most))
        for g, group in enumerate(rows):
            for s, (_, constraint) in enumerate(group):
                for j, value in constraint.coef:
                    coef[g, s, j] = float(value)
                offset[g, s] = rounded(constraint.bound, np.inf)
        region = joined([clauses[group[0]] for group in groups.values()], network)

        def tensor(values: np.ndarray) -> Tensor:
            return torch.as_tensor(values, dtype=network.dtype, device=network.device)

        with torch.no_grad():
            logits = network(region.x).flatten(1)
        size = logits.abs().amax(1) * tensor(np.abs(coef).sum(2).max(1))
        offsets = tensor(offset)
        return cls(
            network,
            tuple(clauses),
            region,
            tensor(coef).reshape(*coef.shape[:2], *network.graph.output_shape),
            offsets,
            torch.tensor([[c for c, _ in group] for group in rows], device=network.device),
            PROOF_MARGIN * (1 + size + offsets.abs().amax(1)),
        )

    def only(self, chosen: Sequence[int]) -> Problem:
        """The same for some of the clauses."""
        return Problem.of(self.network, [self.clauses[c] for c in chosen])

    def excess(self, outputs: Tensor) -> Tensor:
        """coef·y − offset at outputs y [G, *out] of points in the boxes.  [G, S]"""
        return (self.coef.flatten(2) @ outputs.flatten(1).unsqueeze(2)).squeeze(2) - self.offset

    @cached_property
    def width(self) -> int:
        """The most constraints that a clause has."""
        return max(len(clause.constraints) for clause in self.clauses)

    @cached_property
    def places(self) -> tuple[tuple[int, Tensor], ...]:
        """The box of each clause, and its rows [width], the last repeated where it has fewer."""
        found = []
        for c, clause in enumerate(self.clauses):
            at = (self.clause == c).nonzero()[: len(clause.constraints)]
            found.append((int(at[0, 0]), at[[min(s, len(at) - 1) for s in range(self.width)], 1]))
        return tuple(found)

    def rows(self, clauses: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each: box [B], rows [B, width, *out] and their offsets [B, width], what they need to exceed [B]."""
        group = torch.tensor([self.places[c][0] for c in clauses], device=self.coef.device)
        picked = torch.stack([self.places[c][1] for c in clauses])
        at = group.unsqueeze(1)
        return group, self.coef[at, picked], self.offset[at, picked], self.needed[group]

    def by_clause(self, excess: Tensor) -> Tensor:
        """The largest entry of each clause's rows: above 0, the clause cannot be met.  [G, S] -> [C]"""
        worst = torch.full((len(self.clauses),), -torch.inf, dtype=excess.dtype, device=excess.device)
        return worst.scatter_reduce(0, self.clause.flatten(), excess.flatten(), "amax")

    def unproved(self, lower: Tensor) -> list[int]:
        """The clauses that lower bounds [G, S] of the excess leave open; NaN and infinity prove nothing."""
        proved = (torch.isfinite(lower) & (lower > self.needed.unsqueeze(1))).to(lower.dtype)
        return (self.by_clause(proved) == 0).nonzero().flatten().tolist()


def joined(clauses: Sequence[Clause], network: bounds.Network) -> bounds.Linf:
    """The boxes of clauses as one region, each element's radius rounded up so that the box is inside."""
    sides = [clause.box.outward for clause in clauses]
    lower, upper = (np.stack([side[i] for side in sides]) for i in (0, 1))
    return box_region(torch.as_tensor(lower), torch.as_tensor(upper), network)


def box_region(lower: Tensor, upper: Tensor, network: bounds.Network) -> bounds.Linf:
    """The region of boxes [G, n] in float64 for inputs of the network's shape."""
    centre = (lower / 2 + upper / 2).clamp(min=lower, max=upper)
    reach = torch.maximum(upper - centre, centre - lower)
    radius = torch.where(reach > 0, torch.nextafter(reach, torch.full_like(reach, torch.inf)), reach)
    shape = (len(lower), *network.graph.input_shape)
    region = bounds.Linf(centre.reshape(shape), radius.reshape(shape))
    return replace(region, x=region.x.to(network.device), eps=radius.reshape(shape).to(network.device))


def fits(prop: Property, network: bounds.Network) -> str:
    """Why a property does not fit a network; empty where it does."""
    inputs, outputs = (int(np.prod(s)) for s in (network.graph.input_shape, network.graph.output_shape))
    if (inputs, outputs) == (prop.inputs, prop.outputs):
        return ""
    return f"the property has {prop.inputs} inputs and {prop.outputs} outputs, the network {inputs} and {outputs}"
