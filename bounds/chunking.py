"""How many rows are worked on at once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .errors import InvalidInput, MemoryWarning, OutOfMemory

Blocks = list[tuple[list[int], slice]]
"""Of images, by their places, and of each the same rows."""

CACHE_COEFFICIENTS = 4_000_000
"""On a CPU, chunks of about this many coefficients were fastest: larger ones leave the caches."""
CUDA_COEFFICIENTS = 256_000_000
IDLE_COEFFICIENTS = 500_000
"""What a block of images may have of rows that only fill it up; they cost what a block of its own would."""
COPIES = 6
"""Coefficients, their image under the operator in hand, slopes, and temporaries of the same size."""
LESS = "out of memory: going on with smaller blocks of rows, which give the same bounds in more time"


@dataclass
class MemoryBudget:
    """coefficients: how many may be alive at once; held: how many turned out to fit, once memory ran out."""

    coefficients: int
    held: int | None = field(default=None, init=False)

    def fitted(self, counts: Sequence[int], cost: int, work: Callable[[Blocks], Tensor]) -> Tensor:
        """`work` on the blocks of `chunks`, and once more on half as large ones whenever memory runs out.

        Issues a MemoryWarning the first time.  Raises OutOfMemory where it runs out on a single row.
        """
        while True:
            blocks = list(self.chunks(counts, cost))
            try:
                return work(blocks)
            except RuntimeError as error:
                if not ran_out(error):
                    raise
            # here, where nothing refers to the tensors of the failed attempt any more
            most = max(len(images) * (rows.stop - rows.start) for images, rows in blocks)
            if most == 1:
                raise OutOfMemory(
                    f"out of memory: one row needs about {cost * COPIES * 8 / 2**20:.1f} MiB and the device has less; "
                    "free some, give fewer images at a time, or take a cheaper method"
                )
            if self.held is None:
                warnings.warn(LESS, MemoryWarning, stacklevel=2)
            self.held = most * cost // 2
            torch.cuda.empty_cache()

    def chunks(self, counts: Sequence[int], cost: int) -> Iterator[tuple[list[int], slice]]:
        """Cut images of so many rows each into blocks (images, rows) of at most `coefficients` / `cost` rows,
        and of `held` / `cost` or a single one.

        Images of like counts go together, for a block has as many rows of each of its images as of the first.
        Raises InvalidInput if not even one row fits.
        """
        room = self.coefficients // cost
        if room < 1:
            raise InvalidInput(
                f"memory: one row needs {cost * COPIES * 8 / 2**20:.1f} MiB and the budget holds less; "
                "give a larger memory budget"
            )
        if self.held is not None:
            room = max(1, min(room, self.held // cost))
        for images in _alike(counts, room, IDLE_COEFFICIENTS // cost):
            rows = counts[images[0]]
            for first in range(0, rows, room):
                yield images, slice(first, min(first + room, rows))


def _alike(counts: Sequence[int], room: int, idle: int) -> Iterator[list[int]]:
    """The images, most rows first, in groups of at most `room` rows, with no more than `idle` to fill them up."""
    group: list[int] = []
    wasted = 0
    for image in sorted(range(len(counts)), key=lambda image: -counts[image]):
        if group:
            most = counts[group[0]]
            wasted += most - counts[image]
            if (len(group) + 1) * most > room or wasted > idle:
                yield group
                group, wasted = [], 0
        group.append(image)
    if group:
        yield group


def budget(memory: int | None, dtype: torch.dtype, device: torch.device) -> MemoryBudget:
    """From a number of bytes, or, for None, from half of what is free on the device.

    The chunk never grows past what was measured fastest.
    Raises InvalidInput for memory ≤ 0.
    """
    if memory is not None and memory <= 0:
        raise InvalidInput(f"memory: must be positive, got {memory} bytes")
    bytes_each = torch.finfo(dtype).bits // 8
    given = memory if memory is not None else free_memory(device) // 2
    best = CUDA_COEFFICIENTS if device.type == "cuda" else CACHE_COEFFICIENTS
    floor = 0 if memory is not None else 1 << 16
    return MemoryBudget(max(floor, min(best, given // (COPIES * bytes_each))))


def recomputed(several: bool, block: Callable[..., Tensor], *which: Any) -> Tensor:
    """`block(*which)`; of several blocks each is computed again in the backward pass of autograd."""
    if several and torch.is_grad_enabled():
        return checkpoint(block, *which, use_reentrant=False, preserve_rng_state=False)
    return block(*which)


def ran_out(error: RuntimeError) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def free_memory(device: torch.device) -> int:
    """Free bytes on the device, with what torch holds of a GPU's and does not use."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
