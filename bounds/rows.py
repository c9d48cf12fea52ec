"""Rows that a backward pass is asked for, and the pass over them block by block."""

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
from .patch import Rows, unit_rows
from .relaxation import Images, Relaxation

NodeAlphas = dict[str, Alphas]
"""For each nonlinear node the numbers in [0, 1] that choose among its sound planes."""


class Asked(Protocol):
    """Rows of one tensor, a number of them for each image.

    counts: how many rows each image has.  sides: rows for each of them, 2 where a row comes with its negative.
    """

    @property
    def counts(self) -> Sequence[int]: ...

    @property
    def sides(self) -> int: ...

    def at(self, images: Images, chunk: slice) -> Rows:
        """The coefficients of some rows of some images.  [n, sides·m, *shape]"""


@dataclass(frozen=True)
class LinearForms:
    """Rows as dense coefficients [N, S, *shape]."""

    coef: Tensor
    sides: int = 1

    @property
    def counts(self) -> Sequence[int]:
        return [self.coef.shape[1]] * len(self.coef)

    def at(self, images: Images, chunk: slice) -> Rows:
        return self.coef[images][:, chunk]


@dataclass(frozen=True)
class Units:
    """Rows that read single units, each with its negative, or `signs` times it.

    index [N, M] into the flattened tensor; signs [N, M].
    """

    index: Tensor
    counts: Sequence[int]
    shape: tuple[int, ...]
    dtype: torch.dtype
    signs: Tensor | None = None

    @property
    def sides(self) -> int:
        return 2 if self.signs is None else 1

    def at(self, images: Images, chunk: slice) -> Rows:
        signs = None if self.signs is None else self.signs[images][:, chunk]
        return unit_rows(self.index[images][:, chunk], self.shape, self.dtype, signs)


@dataclass
class RowBlocks:
    """Bounds of the rows of `target`, computed in blocks of images and rows.

    bounds: the intermediate bounds as they are now; a block that autograd computes again computes the same.
    relaxations: of every nonlinear node on the way, where no alphas are given.
    intervals: those that may decide the sign of a row early; None where every row goes to the input.
    undecided: the nodes before which a look at signs was not worth its cost; blocks add to it.
    """

    bounds: IntermediateBounds
    target: str
    rows: Asked
    alphas: NodeAlphas | None
    relaxations: Mapping[str, Relaxation]
    intervals: Mapping[str, Interval] | None
    undecided: frozenset[str] = field(default_factory=frozenset)

    @property
    def most(self) -> int:
        """The most rows that an image has."""
        return max(self.rows.counts, default=0)

    def of(self, blocks: Blocks) -> Tensor:
        """All bounds, zero where an image has fewer rows.  [N, sides, rows]"""
        sides = self.rows.sides
        results: dict[tuple[int, ...], list[Tensor]] = {}
        for group, chunk in blocks:
            part = recomputed(len(blocks) > 1, self._block, self._index(group), chunk, self.undecided)
            results.setdefault(tuple(group), []).append(part.reshape(len(part), sides, -1))
        whole = [torch.cat(parts, 2) for parts in results.values()]
        found = torch.cat([F.pad(part, (0, self.most - part.shape[2])) for part in whole])
        place = torch.tensor([image for group in results for image in group], device=found.device)
        return found.new_zeros(len(self.rows.counts), sides, self.most).index_copy(0, place, found)

    def _block(self, images: Images, chunk: slice, undecided: frozenset[str]) -> Tensor:
        network, region = self.bounds.network, self.bounds.region.at(images)
        coef = self.rows.at(images, chunk)
        stop = None
        if self.intervals is not None:
            stop = EarlyStop(
                network.graph.input, region, self.intervals, images, coef, undecided, self.rows.sides
            )
        relaxation = _Relaxations(self, images, chunk)
        found = lower_bound(network, region, relaxation, self.target, coef, stop)
        if stop is not None:
            self.undecided |= stop.undecided
        return found

    def _index(self, group: list[int]) -> Images:
        """A group of images as an index, a slice where they follow each other."""
        if group == list(range(group[0], group[0] + len(group))):
            return slice(group[0], group[0] + len(group))
        return torch.tensor(group, device=self.bounds.network.device)


@dataclass(frozen=True)
class _Relaxations:
    """The relaxations of one block's images, and of its rows where each has alphas of its own."""

    blocks: RowBlocks
    images: Images
    chunk: slice

    def __call__(self, name: str) -> Relaxation:
        blocks = self.blocks
        if blocks.alphas is None:
            return blocks.relaxations[name].at(self.images)
        alphas = tuple(
            t[self.images][:, self.chunk] if t.shape[1] == blocks.most > 1 else t[self.images]
            for t in blocks.alphas[name]
        )
        return blocks.bounds.relaxation_at(name, alphas, self.images)
