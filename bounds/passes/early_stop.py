"""Early stop: rows of units of which only the sign matters leave the backward pass as soon as their sign is decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..interval import Interval
from ..memory_format import vectors
from ..patch import Coefficients, Patch, coefficients, dot
from ..region import Region
from ..relaxation import Images
from . import patches

CHECK_COST = 1
"""A check costs about three passes over the coefficients, so it is worthwhile if at least this multiple of them has
been processed since the last check.  Chosen by hand.
"""
LEAST_DECIDED = 0.05
"""If a check decides at most this share of the undecided units, later rows are not checked there.  Chosen by hand."""
MOST_REMAINING = 0.9
"""Decided rows are removed if at most this share of the rows remains.  Chosen by hand."""


class EarlyStop:
    """Tracks which of N·M units are still undecided during a backward pass, and the bounds of the decided ones.

    A unit whose sign follows from the intervals of the tensors that its rows have reached needs no tighter bound,
    because a ReLU is linear there either way.  It keeps the bounds of that moment, of which `one_sided.signs_alone`
    keeps the sign.
    """

    def __init__(
        self,
        input: str,
        region: Region,
        intervals: Mapping[str, Interval],
        images: Images,
        rows: Coefficients,
        unproductive: frozenset[str],
        sides: int = 2,
    ) -> None:
        """intervals: the intervals of tensors [N, *shape] by name.  images: the n images that the rows belong to.

        rows: [n, sides·M, …].  unproductive: the nodes before which a check was not worth its cost; further ones are
        added.
        """
        self._input, self._region, self._intervals, self._images = input, region, intervals, images
        self.unproductive = unproductive
        n, device = len(region.x), region.x.device
        units = coefficients(rows).shape[1] // sides
        self._sides = sides
        self._index = torch.arange(units, device=device).expand(n, -1)
        self._undecided = torch.ones(n, units, dtype=torch.bool, device=device)
        self._bounds = torch.zeros(n, sides, units, dtype=region.x.dtype, device=device)
        self._processed: int | None = None

    def count_coefficients(self, parts: Sequence[Coefficients], *, relaxed: bool) -> None:
        """Count the coefficients of an operator's operands.

        Before the first relaxation a backward pass is no tighter than interval arithmetic, so counting starts there.
        """
        if self._processed is not None or relaxed:
            self._processed = (self._processed or 0) + sum(_size(part) for part in parts)

    def is_due(self, name: str, pending: dict[str, Coefficients]) -> bool:
        """Return whether a check before node `name` is worth its cost."""
        if self._processed is None or name in self.unproductive:
            return False
        return self._processed >= CHECK_COST * sum(_size(rows) for rows in pending.values())

    def check_signs(
        self, at: str, pending: dict[str, Coefficients], total: Tensor
    ) -> tuple[dict[str, Coefficients], Tensor]:
        """Check the signs before node `at`.

        Returns the rows [n, sides·m, …] and constants [n, sides·m] of the undecided units; no rows if there are none.
        """
        self._processed = 0
        value = total
        for name, rows in pending.items():
            if name == self._input:
                minimum = patches.minimum if isinstance(rows, Patch) else Region.minimum
                value = value + minimum(self._region, rows)  # type: ignore[arg-type]
                continue
            if name not in self._intervals:
                return pending, total
            value = value + _minimum_in_interval(rows, self._intervals[name].at(self._images))
        value = value.unflatten(1, (self._sides, -1))
        decided = ((value >= 0).any(1)) & self._undecided
        self._keep(value, decided)
        before = int(self._undecided.sum())
        self._undecided = self._undecided & ~decided
        if int(self._undecided.sum()) >= (1 - LEAST_DECIDED) * before:
            self.unproductive |= {at}
        remaining = int(self._undecided.sum(1).max())
        if remaining == 0:
            return {}, total
        if remaining > MOST_REMAINING * self._undecided.shape[1]:
            return pending, total
        index = self._undecided.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :remaining]
        self._index, self._undecided = self._index.gather(1, index), self._undecided.gather(1, index)
        both = torch.cat([index + k * value.shape[2] for k in range(self._sides)], 1)
        return {name: _select_units(rows, index, both) for name, rows in pending.items()}, total.gather(
            1, both
        )

    def close(self, total: Tensor | None) -> Tensor:
        """Return the bounds of all units, [n, sides·M].

        total [n, sides·m]: the bounds of the units that remained undecided, None if none did.
        """
        if total is not None:
            self._keep(total.unflatten(1, (self._sides, -1)), self._undecided)
        return self._bounds.flatten(1)

    def _keep(self, value: Tensor, mask: Tensor) -> None:
        """Store the bounds `value` of the units in `mask`."""
        index = self._index.unsqueeze(1).expand_as(value)
        updated = torch.where(mask.unsqueeze(1), value, self._bounds.gather(2, index))
        self._bounds = self._bounds.scatter(2, index, updated)


def _size(rows: Coefficients) -> int:
    return coefficients(rows).numel()


def _minimum_in_interval(rows: Coefficients, box: Interval) -> Tensor:
    """Return min Σ coef·x over the box.  [n, S]"""
    center, radius = box.center.unsqueeze(1), box.radius.unsqueeze(1)
    if isinstance(rows, Patch):
        coef, (center, radius) = rows.by_unit(), rows.gather(center, radius)
        return dot(coef, center) - dot(coef.abs(), radius)
    coef, center, radius = vectors(rows, center, radius)
    fall = torch.matmul(coef.abs(), radius.transpose(1, 2))
    return (torch.matmul(coef, center.transpose(1, 2)) - fall).squeeze(2)


def _select_units(rows: Coefficients, index: Tensor, both: Tensor) -> Coefficients:
    """Return the rows of the units `index` [n, m], whose indices among all rows are `both` [n, sides·m]."""
    if isinstance(rows, Patch):
        top, left = rows.top.gather(1, index), rows.left.gather(1, index)
        return replace(rows, coef=_select(rows.coef, both), top=top, left=left)
    return _select(rows, both)


def _select(coef: Tensor, index: Tensor) -> Tensor:
    """Return the rows `index` [n, s] of coef [n, S, *shape] in the same memory format.  -> [n, s, *shape]"""
    n, rows = coef.shape[:2]
    flat = (index + rows * torch.arange(n, device=index.device).unsqueeze(1)).flatten()
    if coef.dim() != 5:
        return coef.flatten(0, 1).index_select(0, flat).unflatten(0, (n, -1))
    moved = coef.permute(0, 1, 3, 4, 2).flatten(0, 1).index_select(0, flat)
    return moved.unflatten(0, (n, -1)).permute(0, 1, 4, 2, 3)
