"""Specifications of a backward pass, and the pass over their rows block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .chunking import Blocks, recomputed
from .intermediate import IntermediateBounds
from .interval import Interval
from .operators.rule import Alphas
from .passes.crown import lower_bound
from .passes.early_stop import EarlyStop
from .patch import Coefficients, unit_rows
from .relaxation import Images, Relaxation

NodeAlphas = dict[str, Alphas]
"""For each nonlinear node the alphas in [0, 1], which select among its sound planes."""


class Specification(Protocol):
    """Linear forms of one tensor, a number of rows for each image."""

    @property
    def counts(self) -> Sequence[int]:
        """The number of rows of each image."""

    @property
    def sides(self) -> int:
        """Linear forms per row: 2 if a row stands for itself and its negative, otherwise 1."""

    def at(self, images: Images, chunk: slice) -> Coefficients:
        """Return the coefficients of some rows of some images.  [n, sides·m, *shape]"""


@dataclass(frozen=True)
class DenseRows:
    """A specification of dense coefficients."""

    coef: Tensor
    """The coefficients, [N, S, *shape]."""
    sides: int = 1
    """Each row is one linear form."""

    @property
    def counts(self) -> Sequence[int]:
        return [self.coef.shape[1]] * len(self.coef)

    def at(self, images: Images, chunk: slice) -> Coefficients:
        return self.coef[images][:, chunk]


@dataclass(frozen=True)
class Units:
    """A specification of single units: each unit and its negative, or sign·unit if signs are given."""

    index: Tensor
    """Flat indices of the units in the tensor, [N, M]."""
    counts: Sequence[int]
    """The number of units of each image that are needed; the rest is padding."""
    shape: tuple[int, ...]
    """The shape of the tensor without its batch dimension."""
    dtype: torch.dtype
    """The type of the coefficients."""
    signs: Tensor | None = None
    """The sign of each unit, [N, M]; None for both sides."""

    @property
    def sides(self) -> int:
        return 2 if self.signs is None else 1

    def at(self, images: Images, chunk: slice) -> Coefficients:
        signs = None if self.signs is None else self.signs[images][:, chunk]
        return unit_rows(self.index[images][:, chunk], self.shape, self.dtype, signs)


@dataclass
class RowBlocks:
    """Computes the bounds of the rows of `target` in blocks of images and rows."""

    bounds: IntermediateBounds
    """A snapshot of the intermediate bounds, so that a block which autograd recomputes has the same result."""
    target: str
    """The tensor that the rows are linear forms of."""
    rows: Specification
    """The specification."""
    alphas: NodeAlphas | None
    """The alphas of every nonlinear node before `target`; None for the default relaxations."""
    relaxations: Mapping[str, Relaxation]
    """The relaxations of these nodes if `alphas` is None."""
    intervals: Mapping[str, Interval] | None
    """The intervals that may decide the sign of a row early; None if every row goes to the input."""
    unproductive: frozenset[str] = field(default_factory=frozenset)
    """The nodes before which an early-stop check was not worth its cost.  Blocks add to them."""

    @property
    def largest(self) -> int:
        """The largest number of rows of one image."""
        return max(self.rows.counts, default=0)

    def bound(self, blocks: Blocks) -> Tensor:
        """Return all bounds, with zeros for the padding of images that have fewer rows.  [N, sides, rows]"""
        sides = self.rows.sides
        results: dict[tuple[int, ...], list[Tensor]] = {}
        for group, chunk in blocks:
            part = recomputed(len(blocks) > 1, self._block, self._index(group), chunk, self.unproductive)
            results.setdefault(tuple(group), []).append(part.reshape(len(part), sides, -1))
        whole = [torch.cat(parts, 2) for parts in results.values()]
        found = torch.cat([F.pad(part, (0, self.largest - part.shape[2])) for part in whole])
        order = torch.tensor([image for group in results for image in group], device=found.device)
        return found.new_zeros(len(self.rows.counts), sides, self.largest).index_copy(0, order, found)

    def _block(self, images: Images, chunk: slice, unproductive: frozenset[str]) -> Tensor:
        network, region = self.bounds.network, self.bounds.region.at(images)
        coef = self.rows.at(images, chunk)
        stop = None
        if self.intervals is not None:
            stop = EarlyStop(
                network.graph.input, region, self.intervals, images, coef, unproductive, self.rows.sides
            )
        relaxation = _Relaxations(self, images, chunk)
        found = lower_bound(network, region, relaxation, self.target, coef, stop)
        if stop is not None:
            self.unproductive |= stop.unproductive
        return found

    def _index(self, group: list[int]) -> Images:
        """Return the index of a group of images, as a slice if they are consecutive."""
        if group == list(range(group[0], group[0] + len(group))):
            return slice(group[0], group[0] + len(group))
        return torch.tensor(group, device=self.bounds.network.device)


@dataclass(frozen=True)
class _Relaxations:
    """The relaxations of one block: those of its images, and of its rows if each row has its own alphas."""

    blocks: RowBlocks
    images: Images
    chunk: slice

    def __call__(self, name: str) -> Relaxation:
        blocks = self.blocks
        if blocks.alphas is None:
            return blocks.relaxations[name].at(self.images)
        alphas = tuple(
            t[self.images][:, self.chunk] if t.shape[1] == blocks.largest > 1 else t[self.images]
            for t in blocks.alphas[name]
        )
        return blocks.bounds.relaxation_at(name, alphas, self.images)
