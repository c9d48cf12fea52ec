"""A property as tensors: boxes of inputs, and rows of the output of which one must be positive on the whole box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from certnas import bounds
from certnas.certifier import PROOF_MARGIN
from certnas.errors import UserError
from certnas.verifier.beside import beside_input
from certnas.verifier.property import Property, rounded

LARGEST = 2**28
"""The most coefficients of the rows of all clauses: 2 GiB."""


@dataclass(frozen=True)
class Problem:
    """C clauses of a network in float64, each to be proved impossible.

    A point x of region `group[c]` is a counterexample of clause c if coef[c, s]·f(x) − offset[c, s] ≤ 0 for every row
    s. Clause c is therefore impossible if the lower bound of any one row over the region exceeds `needed[c]`.
    """

    network: bounds.Network
    """The network, in float64."""
    region: bounds.Region
    """G regions of inputs."""
    group: Tensor
    """The region of each clause, [C]."""
    coef: Tensor
    """The rows of each clause, [C, S, *out]; a clause with fewer rows repeats its last."""
    offset: Tensor
    """The offset of each row, [C, S]."""
    needed: Tensor
    """The bound that proves a clause, [C]; it is larger than the effect of rounding."""
    related: bool = False
    """Whether rows involve inputs, so that only several rows together may refute a clause."""

    @classmethod
    def of(
        cls,
        network: bounds.Network,
        region: bounds.Region,
        group: Tensor,
        coef: Tensor,
        offset: Tensor,
        *,
        related: bool = False,
    ) -> Problem:
        """The problem with the margin that rounding requires: PROOF_MARGIN · (1 + the size of the summed terms)."""
        with torch.no_grad():
            outputs = network(region.x).flatten(1).abs().amax(1)[group]
        size = outputs * coef.flatten(2).abs().sum(2).amax(1) + offset.abs().amax(1)
        return cls(network, region, group, coef, offset, PROOF_MARGIN * (1 + size), related)

    def __len__(self) -> int:
        return len(self.group)

    @property
    def width(self) -> int:
        """S, the largest number of rows of a clause."""
        return self.coef.shape[1]

    def only(self, chosen: Sequence[int]) -> tuple[Problem, Tensor]:
        """The problem of the chosen clauses, and the indices of their regions."""
        c = torch.tensor(chosen, device=self.group.device)
        groups, group = torch.unique(self.group[c], return_inverse=True)
        region = self.region.at(groups)
        parts = (self.coef[c], self.offset[c], self.needed[c])
        return Problem(self.network, region, group, *parts, self.related), groups

    # All rows of a region at once

    @cached_property
    def slot(self) -> Tensor:
        """The position of each clause among the clauses of its region.  [C]"""
        seen: dict[int, int] = {}
        slots = []
        for g in self.group.tolist():
            slots.append(seen.get(g, 0))
            seen[g] = slots[-1] + 1
        return torch.tensor(slots, device=self.group.device)

    @cached_property
    def rows(self) -> Tensor:
        """The rows of all clauses of each region, padded to the same number.  [G, R, *out]"""
        size = int(self.slot.max()) + 1
        filled = self.coef[:1].expand(len(self.region.x), size, *self.coef.shape[1:]).flatten(0, 1).clone()
        filled[self.group * size + self.slot] = self.coef
        return filled.reshape(len(self.region.x), size * self.width, *self.coef.shape[2:])

    def excess(self, values: Tensor) -> Tensor:
        """Maps values (or bounds) of `rows` [G, R] to the excess of each clause's rows over their offsets, [C, S]."""
        folded = values.reshape(len(values), -1, self.width)
        return folded[self.group, self.slot] - self.offset

    def unproved(self, excess: Tensor) -> list[int]:
        """The clauses that lower bounds [C, S] of the excess leave open; NaN and infinity prove nothing."""
        proved = torch.isfinite(excess) & (excess > self.needed.unsqueeze(1))
        return (~proved.any(1)).nonzero().flatten().tolist()

    def least_excess(self, points: Tensor) -> Tensor:
        """The least over the clauses of the largest excess at points [M, *shape], regardless of their region.  [M]"""
        with torch.no_grad():
            outputs = self.network(points).flatten(1)
        return (torch.einsum("csk,mk->mcs", self.coef.flatten(2), outputs) - self.offset).amax(2).amin(1)


def problem_of(network: bounds.Network, prop: Property) -> Problem:
    """The tensors of a property for a network, with boxes and bounds rounded outward.

    If the property relates outputs to inputs, the problem's network returns its output and its input, and rows
    involve both.
    Raises UserError for more than LARGEST coefficients, or for a box or coefficient that float32 or float64 cannot
    hold.
    """
    network = beside_input(network) if prop.relational else network
    columns = prop.outputs + prop.inputs * prop.relational
    boxes = {id(clause.box): clause.box for clause in prop.clauses}
    order = {key: g for g, key in enumerate(boxes)}
    lower, upper = (np.stack([box.outward[i] for box in boxes.values()]) for i in (0, 1))
    beyond = np.maximum(np.abs(lower), np.abs(upper)) > np.finfo(np.float32).max
    if beyond.any():
        raise UserError(
            f"verify: input {int(beyond.any(0).argmax())} of the property reaches beyond what float32 holds, 3.4e38; "
            "give a smaller box"
        )
    width = max(len(clause.constraints) for clause in prop.clauses)
    if len(prop.clauses) * width * columns > LARGEST:
        raise UserError(
            f"verify: {len(prop.clauses)} cases of up to {width} constraints on {columns} variables; accepted: "
            f"{LARGEST} coefficients in all; split the property into several"
        )
    coef = np.zeros((len(prop.clauses), width, columns))
    offset = np.zeros((len(prop.clauses), width))
    for c, clause in enumerate(prop.clauses):
        for s in range(width):
            constraint = clause.constraints[min(s, len(clause.constraints) - 1)]
            for j, value in constraint.coef:
                coef[c, s, j] = _float(value)
            for i, value in constraint.inputs:
                coef[c, s, prop.outputs + i] = _float(value)
            offset[c, s] = rounded(constraint.bound, np.inf)

    def tensor(values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=network.dtype, device=network.device)

    return Problem.of(
        network,
        box_region(tensor(lower), tensor(upper), network),
        torch.tensor([order[id(clause.box)] for clause in prop.clauses], device=network.device),
        tensor(coef).reshape(*coef.shape[:2], *network.graph.output_shape),
        tensor(offset),
        related=prop.relational,
    )


def _float(value: Fraction) -> float:
    """The float64 nearest to a coefficient. Raises UserError if there is none."""
    try:
        return float(value)
    except OverflowError as error:
        raise UserError("verify: a coefficient is beyond what float64 holds; scale the constraint") from error


def box_region(lower: Tensor, upper: Tensor, network: bounds.Network) -> bounds.Linf:
    """The l∞ region of boxes [G, n] for inputs of the network's shape; radii are rounded up, so it contains the
    boxes.
    """
    centre = (lower / 2 + upper / 2).clamp(min=lower, max=upper)
    reach = torch.maximum(upper - centre, centre - lower)
    radius = torch.where(reach > 0, torch.nextafter(reach, torch.full_like(reach, torch.inf)), reach)
    shape = (len(lower), *network.graph.input_shape)
    return bounds.Linf(centre.reshape(shape), radius.reshape(shape))
