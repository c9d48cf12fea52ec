"""The value every data set becomes, and the choice of its images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from certnas.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """Labelled images.

    x float32 [N, C, H, W], or rows [N, K], in [0, 1]; y int64 [N] in 0 .. classes-1; index int64 [N]: each image's
    position in the data set it was taken from (the split, for one with a training and a test part).
    """

    name: str
    x: Tensor
    y: Tensor
    index: Tensor
    classes: int


@dataclass(frozen=True)
class Request:
    """What to read: a data set's name or path, and the options of `certnas.data.load`."""

    name: str
    root: Path | None
    train: bool
    download: bool
    layout: str | None
    indices: tuple[int, ...] | None
    count: int | None
    seed: int | None

    def chosen(self, size: int) -> Tensor:
        """Positions to read from a data set of `size` images, int64 [N]."""
        if self.indices is not None:
            return listed(self.name, size, self.indices)
        return sampled(self.name, size, size if self.count is None else self.count, self.seed)


def listed(name: str, size: int, indices: Sequence[int]) -> Tensor:
    """The indices as a tensor, once all of them are seen to lie in 0 .. size-1.  Raises UserError."""
    for index in indices:
        if not 0 <= index < size:
            raise UserError(f"data {name}: no image {index}, it has images 0 to {size - 1}")
    return torch.tensor(list(indices), dtype=torch.int64)


def sampled(name: str, size: int, count: int, seed: int | None) -> Tensor:
    """`count` positions out of `size`: the first ones, or with a seed a sorted sample without replacement."""
    if not 1 <= count <= size:
        raise UserError(f"data {name}: {count} images asked for, it has {size}; ask for 1 to {size}")
    if seed is None:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=generator)[:count].sort().values


def select(dataset: Dataset, count: int, seed: int | None = None) -> Dataset:
    """`count` of the images: the first ones, or with a seed a sample without replacement, in their old order.

    Raises UserError when there are fewer.
    """
    rows = sampled(dataset.name, len(dataset.y), count, seed)
    return Dataset(dataset.name, dataset.x[rows], dataset.y[rows], dataset.index[rows], dataset.classes)


def from_bytes(images: Tensor) -> Tensor:
    """uint8 pixels -> float32 in [0, 1], divided by 255."""
    return images.to(torch.float32) / 255
