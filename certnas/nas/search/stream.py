"""The image batches of a search: a split by index, shuffled in every epoch, and the same after a resume."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from certnas.data import Dataset
from certnas.data.augmentation import Augmentation
from certnas.errors import UserError
from certnas.layout import laid_out
from certnas.nas.search.config import SearchConfig
from certnas.parallel import ProcessGroup
from certnas.training.images import channel_statistics

TRAIN, HELD_OUT = 0, 1


@dataclass(frozen=True)
class Batch:
    """Images and labels of one batch."""

    x: Tensor
    """Images, float32 [N,C,H,W] in [0, 1]."""
    y: Tensor
    """Labels, int64 [N]."""


@dataclass
class Stream:
    """An endless sequence of batches; each batch is a function of the seed and the step.

    Epoch e uses one permutation of the images, drawn from (seed, part, e). Images that do not fill a batch
    are left out of the epoch. With several processes, each takes every size-th image of a batch, starting
    at its rank.
    """

    x: Tensor
    """Images [N,C,H,W]."""
    y: Tensor
    """Labels [N]."""
    part: int
    """TRAIN or HELD_OUT, part of the seed."""
    seed: int
    """Seed of permutations and augmentation."""
    batch_size: int
    """Number of images per batch, over all processes."""
    augmentation: Augmentation
    """Augmentation of the images."""
    fill: Tensor
    """Colour of the cutout, [C]."""
    processes: ProcessGroup
    """The processes that share each batch."""
    _epoch: int = -1
    _order: Tensor | None = None

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(self.y) // self.batch_size

    def batch(self, step: int) -> Batch:
        """The batch of a step; steps are counted from 0 over all epochs."""
        epoch, position = divmod(step, len(self))
        if self._order is None or epoch != self._epoch:
            order = np.random.default_rng([self.seed, self.part, epoch]).permutation(len(self.y))
            self._epoch, self._order = epoch, torch.from_numpy(order).to(self.y.device)
        rows = self._order[position * self.batch_size : (position + 1) * self.batch_size]
        random = np.random.default_rng([self.seed, self.part, epoch, position])
        x = self.augmentation(self.x[rows], self.fill, random)
        return Batch(laid_out(x[self.processes.share]), self.y[rows][self.processes.share])


def with_statistics(config: SearchConfig, data: Dataset) -> SearchConfig:
    """The configuration with the images' mean and standard deviation of each channel, unless it sets them."""
    if config.data.mean is not None or config.data.std is not None:
        return config
    mean, std = channel_statistics(data.x)
    return replace(config, data=replace(config.data, mean=mean, std=std))


def split(
    config: SearchConfig, data: Dataset, device: torch.device, processes: ProcessGroup
) -> tuple[Stream, Stream]:
    """(training images, held-out images). The first train the weights, the second the architecture.

    Raises UserError if a part has no whole batch, or if the batch size is not a multiple of the number of
    processes.
    """
    first = int(len(data.y) * config.data.split)
    sizes = first, len(data.y) - first
    if min(sizes) < config.batch_size:
        raise UserError(
            f"data {data.name}: {len(data.y)} images split into {sizes[0]} and {sizes[1]}, too few for batches of "
            f"{config.batch_size}; take more images or a smaller batch_size"
        )
    if config.batch_size % processes.size:
        raise UserError(
            f"batch_size: {config.batch_size} does not divide over {processes.size} processes; give a multiple"
        )
    x, y = data.x.to(device), data.y.to(device)
    fill = torch.tensor(config.data.mean)

    def part(which: int, rows: slice) -> Stream:
        return Stream(
            x[rows],
            y[rows],
            which,
            config.seed,
            config.batch_size,
            config.data.augmentation(),
            fill,
            processes,
        )

    return part(TRAIN, slice(None, first)), part(HELD_OUT, slice(first, None))
