"""The number of rows that one backward pass processes at a time, from a memory budget."""

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
"""Blocks of work: the indices of some images, and the slice of rows that is processed for each of them."""

CACHE_COEFFICIENTS = 4_000_000
"""Number of coefficients in one block on a CPU.  Larger blocks leave the caches.  Chosen by hand on one machine."""
CUDA_COEFFICIENTS = 256_000_000
"""Number of coefficients in one block on a GPU.  Chosen by hand."""
PADDING_COEFFICIENTS = 500_000
"""Number of padding coefficients that a block may contain.  Processing them costs as much as one more block would.
Chosen by hand.
"""
COPIES = 6
"""Tensors of one block's size that are alive at once: the coefficients, the result of the current operator, slopes and
temporaries.
"""
LESS = "out of memory: going on with smaller blocks of rows, which give the same bounds in more time"


@dataclass
class MemoryBudget:
    """The number of coefficients that one backward pass may hold at once."""

    coefficients: int
    """The number of coefficients that may be alive at once."""
    fitting: int | None = field(default=None, init=False)
    """The number of coefficients that fitted after memory had run out; None as long as it has not."""

    def fitted(self, counts: Sequence[int], cost: int, work: Callable[[Blocks], Tensor]) -> Tensor:
        """Run `work` on the blocks of `chunks`, and again on blocks of half the size whenever memory runs out.

        counts: the number of rows of each image.  cost: the number of coefficients of one row.
        Issues a MemoryWarning the first time.  Raises OutOfMemory if memory runs out on a single row.
        """
        while True:
            blocks = list(self.chunks(counts, cost))
            try:
                return work(blocks)
            except RuntimeError as error:
                if not ran_out(error):
                    raise
            # outside of the except clause, so that nothing refers to the tensors of the failed attempt
            largest = max(len(images) * (rows.stop - rows.start) for images, rows in blocks)
            if largest == 1:
                raise OutOfMemory(
                    f"out of memory: one row needs about {cost * COPIES * 8 / 2**20:.1f} MiB and the device has less; "
                    "free some, give fewer images at a time, or take a cheaper method"
                )
            if self.fitting is None:
                warnings.warn(LESS, MemoryWarning, stacklevel=2)
            self.fitting = largest * cost // 2
            torch.cuda.empty_cache()

    def chunks(self, counts: Sequence[int], cost: int) -> Iterator[tuple[list[int], slice]]:
        """Cut the rows of all images into blocks (images, rows) that fit into the budget.

        counts: the number of rows of each image.  cost: the number of coefficients of one row.
        A block has the same rows of each of its images, so images with similar counts are grouped.  A block has at most
        `coefficients` / `cost` rows and, once memory has run out, at most `fitting` / `cost` rows or a single one.
        Raises InvalidInput if not even one row fits.
        """
        capacity = self.coefficients // cost
        if capacity < 1:
            raise InvalidInput(
                f"memory: one row needs {cost * COPIES * 8 / 2**20:.1f} MiB and the budget holds less; "
                "give a larger memory budget"
            )
        if self.fitting is not None:
            capacity = max(1, min(capacity, self.fitting // cost))
        for images in _groups(counts, capacity, PADDING_COEFFICIENTS // cost):
            rows = counts[images[0]]
            for first in range(0, rows, capacity):
                yield images, slice(first, min(first + capacity, rows))


def _groups(counts: Sequence[int], capacity: int, padding: int) -> Iterator[list[int]]:
    """Group the images, those with most rows first, into groups of at most `capacity` rows, `padding` of them
    padding.
    """
    group: list[int] = []
    padded = 0
    for image in sorted(range(len(counts)), key=lambda image: -counts[image]):
        if group:
            widest = counts[group[0]]
            padded += widest - counts[image]
            if (len(group) + 1) * widest > capacity or padded > padding:
                yield group
                group, padded = [], 0
        group.append(image)
    if group:
        yield group


def budget(memory: int | None, dtype: torch.dtype, device: torch.device) -> MemoryBudget:
    """Return the budget for a number of bytes; None stands for half of the free memory of the device.

    A block never exceeds the size that is fastest on the device.
    Raises InvalidInput for memory ≤ 0.
    """
    if memory is not None and memory <= 0:
        raise InvalidInput(f"memory: must be positive, got {memory} bytes")
    bytes_each = torch.finfo(dtype).bits // 8
    available = memory if memory is not None else free_memory(device) // 2
    best = CUDA_COEFFICIENTS if device.type == "cuda" else CACHE_COEFFICIENTS
    floor = 0 if memory is not None else 1 << 16
    return MemoryBudget(max(floor, min(best, available // (COPIES * bytes_each))))


def recomputed(several: bool, block: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Return `block(*arguments)`; autograd recomputes each of several blocks in its backward pass."""
    if several and torch.is_grad_enabled():
        return checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
    return block(*arguments)


def ran_out(error: RuntimeError) -> bool:
    """Return whether an allocation failed, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def free_memory(device: torch.device) -> int:
    """Return the free bytes of the device, including memory that torch has reserved on a GPU and does not use."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
