"""Seeds given to worker processes, and their lines kept."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from signal import SIG_IGN, SIGINT, signal
from typing import Any

import torch
from rich.console import Console

from benchmarks.soundness.lines import Lines
from benchmarks.soundness.trial import run
from certnas.errors import UserError

TOGETHER = 10
"""Seeds that a worker takes at a time."""


def ready() -> None:
    """A worker has one thread, and leaves Ctrl-C to its parent."""
    signal(SIGINT, SIG_IGN)
    torch.set_num_threads(1)


def several(seeds: list[int]) -> list[dict[str, Any]]:
    return [run(seed) for seed in seeds]


def run_all(seeds: list[int], workers: int, lines: Lines, console: Console) -> None:
    """Every seed in worker processes; each line is on disk as soon as its part is done.

    Raises UserError where a worker dies, with the seeds that it may have died of.
    """
    parts = iter([seeds[i : i + TOGETHER] for i in range(0, len(seeds), TOGETHER)])
    done = 0
    with ProcessPoolExecutor(workers, get_context("spawn"), ready) as pool:
        out: dict[Future[list[dict[str, Any]]], list[int]] = {}
        try:
            while True:
                for part in islice(parts, 2 * workers - len(out)):
                    out[pool.submit(several, part)] = part
                if not out:
                    return
                for future in wait(out, return_when=FIRST_COMPLETED).done:
                    found = future.result()
                    del out[future]
                    lines.append(found)
                    done += len(found)
                    _tell(console, found, done, len(seeds))
        except BrokenProcessPool as error:
            among = sorted(seed for part in out.values() for seed in part)
            raise UserError(
                f"a worker process ended; try the seeds that were out by --only: {among}"
            ) from error
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _tell(console: Console, found: list[dict[str, Any]], done: int, of: int) -> None:
    for line in found:
        for trial in line["trials"]:
            if trial["outcome"].startswith(("violation", "crash")):
                console.print(
                    f"seed {line['seed']} ({line.get('operator')}): {trial['outcome']}", markup=False
                )
    if done % (50 * TOGETHER) < TOGETHER:
        console.print(f"{done:,} of {of:,} networks")
