"""An engine by its name, and a worker's place on its machine."""

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
        raise UserError(f"--address {address} is of a Ray cluster; add --engine ray, or leave it out")
    return Inline() if workers in (None, 1) else Processes(workers)


ENGINES: dict[str, Callable[[int | None, str | None, bool], Engine]] = {"processes": _processes, "ray": Ray}


def open_engine(
    name: str = "processes", *, workers: int | None = None, address: str | None = None, gpu: bool = False
) -> Engine:
    """The engine of that name; `workers` at a time (None: one process, or all that a cluster has room for).

    address: of a Ray cluster.  gpu: a Ray task has a GPU of its own.  Raises UserError for what makes no sense, where
    ray is not installed, or where no cluster answers.
    """
    if name not in ENGINES:
        raise UserError(f"engine {name!r} is unknown; accepted: {', '.join(ENGINES)}")
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}; accepted: at least 1")
    return ENGINES[name](workers, address, gpu)


def placed(device: torch.device, rank: int) -> torch.device:
    """The device for worker `rank`: cuda without a number is one of the machine's GPUs in turn."""
    if str(device) == "cuda":
        return torch.device("cuda", rank % torch.cuda.device_count())
    return device


def crowded(workers: int) -> int | None:
    """The threads of each worker where they, several workers together, exceed the machine's cores; None otherwise."""
    threads = torch.get_num_threads()
    return threads if workers > 1 and threads > 1 and workers * threads > (os.cpu_count() or 1) else None
