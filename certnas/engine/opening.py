"""Opens an engine by its name, and assigns devices to workers."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from certnas.engine.inline import Inline
from certnas.engine.job import Engine
from certnas.engine.processes import Processes
from certnas.engine.ray import Ray
from certnas.errors import UserError


def _processes(workers: int | None, address: str | None, gpu: bool) -> Engine:
    if address is not None:
        raise UserError(f"--address {address} belongs to a Ray cluster; add --engine ray, or leave it out")
    return Inline() if workers in (None, 1) else Processes(workers)


ENGINES: dict[str, Callable[[int | None, str | None, bool], Engine]] = {"processes": _processes, "ray": Ray}
"""The engines by name."""


def open_engine(
    name: str = "processes", *, workers: int | None = None, address: str | None = None, gpu: bool = False
) -> Engine:
    """Opens the engine of that name.

    workers: how many items run at a time; None for one process, or for as many as a cluster has room for.
    address: the address of a Ray cluster. gpu: whether each Ray task gets a GPU of its own.
    Raises UserError for invalid arguments, if ray is not installed, or if no cluster answers.
    """
    if name not in ENGINES:
        raise UserError(f"engine {name!r} is unknown; accepted: {', '.join(ENGINES)}")
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}; accepted: at least 1")
    return ENGINES[name](workers, address, gpu)


def worker_device(device: torch.device, rank: int) -> torch.device:
    """The device of worker `rank`; for "cuda" without a number, the machine's GPUs are assigned in turn."""
    if str(device) == "cuda":
        return torch.device("cuda", rank % torch.cuda.device_count())
    return device


def crowded(workers: int) -> int | None:
    """The threads of each worker if all workers together exceed the machine's cores; otherwise None."""
    threads = torch.get_num_threads()
    return threads if workers > 1 and threads > 1 and workers * threads > (os.cpu_count() or 1) else None
