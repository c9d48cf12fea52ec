"""The images of a training: training batches, and held-out images that select the best network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from certnas.data import DATASETS, Dataset, load
from certnas.errors import UserError


def held_out(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """(training images, held-out images); the second part is a random share, drawn by the seed.

    Raises UserError for a share that is not between 0 and 1, or leaves fewer than two images in a part.
    """
    if not 0 < share < 1:
        raise UserError(f"validation: got {share:g}; give a share of the training images between 0 and 1")
    count = round(share * len(data.y))
    if min(count, len(data.y) - count) < 2:
        raise UserError(
            f"data {data.name}: {len(data.y)} images split into {len(data.y) - count} and {count}; a training "
            "needs two or more of each: take more images or another --validation"
        )
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(data.y)))
    kept, left = order[count:].sort().values, order[:count].sort().values
    return _rows(data, kept), _rows(data, left)


def _rows(data: Dataset, rows: Tensor) -> Dataset:
    return replace(data, x=data.x[rows], y=data.y[rows], index=data.index[rows])


def batches(count: int, size: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, np.random.Generator]]:
    """The batches of an epoch: (image indices, random generator for the batch's augmentation).

    Every image occurs once, in an order that is a function of seed and epoch. Batches have at most `size`
    images, and their sizes differ by at most one, so that no batch is too small for batch statistics.
    """
    order = np.random.default_rng([seed, 2, epoch]).permutation(count)
    for place, rows in enumerate(np.array_split(order, batch_count(count, size))):
        yield torch.from_numpy(rows), np.random.default_rng([seed, 3, epoch, place])


def batch_count(count: int, size: int) -> int:
    """The number of batches of at most `size` images."""
    return -(-count // size)


def channel_statistics(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, to four decimals; 1 for a constant channel. x [N,C,H,W]"""
    deviation, mean = torch.std_mean(x.double(), dim=(0, 2, 3), correction=0)
    deviation = torch.where(deviation > 1e-4, deviation, torch.ones_like(deviation))
    return tuple(round(m, 4) for m in mean.tolist()), tuple(round(d, 4) for d in deviation.tolist())


def training_images(
    name: str,
    *,
    root: str | Path | None = None,
    download: bool = False,
    count: int | None = None,
    seed: int | None = None,
) -> Dataset:
    """The training part of a data set, or all images of a folder or .npz file (see `certnas.data.load`).

    With `count`, a random sample of that size, drawn by the seed. Raises UserError for rows [N, K], which
    are not images.
    """
    data = load(
        name,
        root=root,
        download=download,
        train=name in DATASETS,
        count=count,
        seed=None if count is None else seed,
    )
    if data.x.dim() != 4:
        raise UserError(
            f"data {name}: x has shape {list(data.x.shape)}; networks of cells are trained on [N, C, H, W]"
        )
    return data
