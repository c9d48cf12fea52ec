"""The images of a search: split by index, shuffled anew each epoch, the same after a kill."""

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
    """x float32 [N,C,H,W] in [0, 1], y int64 [N]."""

    x: Tensor
    y: Tensor


@dataclass
class Stream:
    """An endless sequence of batches that is a function of the seed and the step alone.

    Epoch e is one permutation of the images, drawn from (seed, part, e); images that fill no batch wait for the
    next epoch. Of a batch this process gets every size-th image, from its rank on.
    """

    x: Tensor
    y: Tensor
    part: int
    seed: int
    batch_size: int
    augmentation: Augmentation
    fill: Tensor
    processes: ProcessGroup
    _epoch: int = -1
    _order: Tensor | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.y) // self.batch_size

    def batch(self, step: int) -> Batch:
        """The batch of a step, 0, 1, 2, … over all epochs."""
        epoch, place = divmod(step, len(self))
        if self._order is None or epoch != self._epoch:
            order = np.random.default_rng([self.seed, self.part, epoch]).permutation(len(self.y))
            self._epoch, self._order = epoch, torch.from_numpy(order).to(self.y.device)
        rows = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        random = np.random.default_rng([self.seed, self.part, epoch, place])
        x = self.augmentation(self.x[rows], self.fill, random)
        return Batch(laid_out(x[self.processes.share]), self.y[rows][self.processes.share])


def with_statistics(config: SearchConfig, data: Dataset) -> SearchConfig:
    """The configuration with the mean and standard deviation of each channel of the images, unless given."""
    if config.data.mean is not None or config.data.std is not None:
        return config
    mean, std = channel_statistics(data.x)
    return replace(config, data=replace(config.data, mean=mean, std=std))


def split(
    config: SearchConfig, data: Dataset, device: torch.device, processes: ProcessGroup
) -> tuple[Stream, Stream]:
    """The images that train the weights and the held-out ones that the architecture is chosen on.

    Raises UserError where a part has no whole batch, or a batch does not divide over the processes.
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
