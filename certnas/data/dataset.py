"""The type of all data sets, and the selection of their images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from certnas.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """Labelled images."""

    name: str
    """Name or path of the data set."""
    x: Tensor
    """Images, float32 [N, C, H, W], or rows [N, K], in [0, 1]."""
    y: Tensor
    """Labels, int64 [N] in 0 .. classes-1."""
    index: Tensor
    """Position of each image in the data set, or in its training or test part. int64 [N]"""
    classes: int
    """Number of classes."""


@dataclass(frozen=True)
class Request:
    """The arguments of `certnas.data.load`, as a reader gets them."""

    name: str
    """Name or path of the data set."""
    root: Path | None
    """Folder of a torchvision data set."""
    train: bool
    """True: the training part."""
    download: bool
    """True: download into `root`."""
    layout: str | None
    """"nchw", "nhwc" or None."""
    indices: tuple[int, ...] | None
    """Positions of the images, or None."""
    count: int | None
    """Number of images, or None."""
    seed: int | None
    """Seed of a sample, or None for the first images."""

    def chosen(self, size: int) -> Tensor:
        """The positions to read from a data set of `size` images. int64 [N]"""
        if self.indices is not None:
            return listed(self.name, size, self.indices)
        return sampled(self.name, size, size if self.count is None else self.count, self.seed)


def listed(name: str, size: int, indices: Sequence[int]) -> Tensor:
    """The indices as a tensor. Raises UserError if one is not in 0 .. size-1."""
    for index in indices:
        if not 0 <= index < size:
            raise UserError(f"data {name}: no image {index}, it has images 0 to {size - 1}")
    return torch.tensor(list(indices), dtype=torch.int64)


def sampled(name: str, size: int, count: int, seed: int | None) -> Tensor:
    """`count` positions out of `size`: the first ones, or with a seed a sorted sample without replacement.

    Raises UserError unless 1 ≤ count ≤ size.
    """
    if not 1 <= count <= size:
        raise UserError(f"data {name}: {count} images asked for, it has {size}; ask for 1 to {size}")
    if seed is None:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=generator)[:count].sort().values


def select(dataset: Dataset, count: int, seed: int | None = None) -> Dataset:
    """Select `count` images: the first ones, or with a seed a sample without replacement, in their original order.

    Raises UserError if the data set has fewer images.
    """
    rows = sampled(dataset.name, len(dataset.y), count, seed)
    return Dataset(dataset.name, dataset.x[rows], dataset.y[rows], dataset.index[rows], dataset.classes)


def from_bytes(images: Tensor) -> Tensor:
    """uint8 pixels -> float32 in [0, 1], by division by 255."""
    return images.to(torch.float32) / 255
