"""How many rows are worked on at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bounds.errors import InvalidInput

CACHE_COEFFICIENTS = 4_000_000
"""On a CPU, chunks of about this many coefficients were fastest: larger ones leave the caches."""
CUDA_COEFFICIENTS = 256_000_000
COPIES = 6
"""Coefficients, their image under the operator in hand, slopes, and temporaries of the same size."""


@dataclass(frozen=True)
class Budget:
    """coefficients: how many may be alive at once."""

    coefficients: int

    def chunks(self, images: int, rows: int, cost: int) -> Iterator[tuple[slice, slice]]:
        """Cut [images, rows] into blocks of at most `coefficients` / `cost` rows, whole images first.

        Raises InvalidInput if not even one row fits.
        """
        room = self.coefficients // cost
        if room < 1:
            raise InvalidInput(
                f"memory: one row needs {cost * COPIES * 8 / 2**20:.1f} MiB and the budget holds less; "
                "give a larger memory="
            )
        some_rows = min(rows, room)
        some_images = max(1, min(images, room // max(some_rows, 1)))
        if some_images == 1 and images > 1 and rows > 64:
            some_images = min(images, max(1, room // 64))
            some_rows = max(1, room // some_images)
        for first in range(0, images, some_images):
            for row in range(0, rows, some_rows):
                yield slice(first, min(first + some_images, images)), slice(row, min(row + some_rows, rows))


def budget(memory: int | None, dtype: torch.dtype, device: torch.device) -> Budget:
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
    return Budget(max(floor, min(best, given // (COPIES * bytes_each))))


def free_memory(device: torch.device) -> int:
    """Free bytes on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
