"""Rows of units of which only the sign matters are let go on their way to the input, as soon as it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..interval import Interval
from ..memory_format import vectors
from ..patch import Patch, Rows, coefficients, dot
from ..region import Region
from ..relaxation import Images
from . import patches

DUE = 1
"""A look costs about three passes over the rows, so it pays where at least as many have been made since the last."""
FEW = 0.05
"""Where a look has settled no more than this part of the units there were, later rows are not looked at."""
WORTH = 0.9
"""Rows are moved together where at most this part of them is left."""


class EarlyStop:
    """Tracks N·M units during a backward pass: which are still undecided, and the bounds of those that are decided.

    A unit whose sign follows from the intervals of the tensors that its rows have reached needs no tighter bound: a
    ReLU is linear there either way.  Its bounds are those of that moment, of which `one_sided.signs_alone` keeps the
    sign.
    """

    def __init__(
        self,
        input: str,
        region: Region,
        intervals: Mapping[str, Interval],
        images: Images,
        rows: Rows,
        undecided: frozenset[str],
        sides: int = 2,
    ) -> None:
        """intervals: of tensors [N, *shape], by name; `images` are the n of them that the rows belong to.

        rows: [n, sides·M, …].  undecided: the nodes before which a look was not worth its cost; more are added to it.
        """
        self._input, self._region, self._intervals, self._images = input, region, intervals, images
        self.undecided = undecided
        n, device = len(region.x), region.x.device
        units = coefficients(rows).shape[1] // sides
        self._sides = sides
        self._place = torch.arange(units, device=device).expand(n, -1)
        self._open = torch.ones(n, units, dtype=torch.bool, device=device)
        self._found = torch.zeros(n, sides, units, dtype=region.x.dtype, device=device)
        self._spent: int | None = None

    def passed(self, parts: Sequence[Rows], *, relaxed: bool) -> None:
        """Counts the coefficients of an operator's operands; before the first relaxation intervals know as much."""
        if self._spent is not None or relaxed:
            self._spent = (self._spent or 0) + sum(_size(part) for part in parts)

    def due(self, name: str, pending: dict[str, Rows]) -> bool:
        """Whether a look before node `name` is worth its cost."""
        if self._spent is None or name in self.undecided:
            return False
        return self._spent >= DUE * sum(_size(rows) for rows in pending.values())

    def look(self, at: str, pending: dict[str, Rows], total: Tensor) -> tuple[dict[str, Rows], Tensor]:
        """The rows [n, sides·m, …] and constants [n, sides·m] of the units that stay open; no rows where none does."""
        self._spent = 0
        value = total
        for name, rows in pending.items():
            if name == self._input:
                least = patches.minimum if isinstance(rows, Patch) else Region.minimum
                value = value + least(self._region, rows)  # type: ignore[arg-type]
                continue
            if name not in self._intervals:
                return pending, total
            value = value + _least(rows, self._intervals[name].at(self._images))
        value = value.unflatten(1, (self._sides, -1))
        settled = ((value >= 0).any(1)) & self._open
        self._keep(value, settled)
        before = int(self._open.sum())
        self._open = self._open & ~settled
        if int(self._open.sum()) >= (1 - FEW) * before:
            self.undecided |= {at}
        left = int(self._open.sum(1).max())
        if left == 0:
            return {}, total
        if left > WORTH * self._open.shape[1]:
            return pending, total
        index = self._open.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :left]
        self._place, self._open = self._place.gather(1, index), self._open.gather(1, index)
        both = torch.cat([index + k * value.shape[2] for k in range(self._sides)], 1)
        return {name: _chosen(rows, index, both) for name, rows in pending.items()}, total.gather(1, both)

    def close(self, total: Tensor | None) -> Tensor:
        """The bounds of all units, [n, sides·M]; total [n, sides·m]: of those that stayed open, None where none did."""
        if total is not None:
            self._keep(total.unflatten(1, (self._sides, -1)), self._open)
        return self._found.flatten(1)

    def _keep(self, value: Tensor, which: Tensor) -> None:
        place = self._place.unsqueeze(1).expand_as(value)
        kept = torch.where(which.unsqueeze(1), value, self._found.gather(2, place))
        self._found = self._found.scatter(2, place, kept)


def _size(rows: Rows) -> int:
    return coefficients(rows).numel()


def _least(rows: Rows, box: Interval) -> Tensor:
    """min Σ coef·x over the box.  [n, S]"""
    center, radius = box.center.unsqueeze(1), box.radius.unsqueeze(1)
    if isinstance(rows, Patch):
        coef, (center, radius) = rows.by_unit(), rows.gather(center, radius)
        return dot(coef, center) - dot(coef.abs(), radius)
    coef, center, radius = vectors(rows, center, radius)
    fall = torch.matmul(coef.abs(), radius.transpose(1, 2))
    return (torch.matmul(coef, center.transpose(1, 2)) - fall).squeeze(2)


def _chosen(rows: Rows, index: Tensor, both: Tensor) -> Rows:
    """The rows of the units `index` [n, m], whose places among all rows are `both` [n, sides·m]."""
    if isinstance(rows, Patch):
        top, left = rows.top.gather(1, index), rows.left.gather(1, index)
        return replace(rows, coef=_taken(rows.coef, both), top=top, left=left)
    return _taken(rows, both)


def _taken(coef: Tensor, index: Tensor) -> Tensor:
    """coef [n, S, *shape], index [n, s] -> [n, s, *shape], laid out as before."""
    n, rows = coef.shape[:2]
    flat = (index + rows * torch.arange(n, device=index.device).unsqueeze(1)).flatten()
    if coef.dim() != 5:
        return coef.flatten(0, 1).index_select(0, flat).unflatten(0, (n, -1))
    moved = coef.permute(0, 1, 3, 4, 2).flatten(0, 1).index_select(0, flat)
    return moved.unflatten(0, (n, -1)).permute(0, 1, 4, 2, 3)
