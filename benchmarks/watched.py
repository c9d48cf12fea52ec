"""Work in a separate process within limits of time and memory."""

import math
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks.record import trim

POLL = 0.1


class Watched:
    """A process that runs one piece of work after another; beyond its limits it is stopped and replaced.

    `threads` is the number of torch's threads in the process, `gib` the largest resident memory (on Linux).
    """

    def __init__(self, threads: int, gib: float) -> None:
        self.threads, self.gib = threads, gib
        self._process: multiprocessing.process.BaseProcess | None = None

    def ask(self, seconds: float, work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        """The result of `work(*arguments)`, or the reason for a refusal: the limits, the end of the
        process, an exception.

        The result's gib is the peak growth of the process's memory, unless `work` gives its own.
        """
        if self._process is None:
            self._start()
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}")
        held = _gib(status, "VmRSS")
        if status.exists():
            (status / "clear_refs").write_text("5")  # the kernel starts the peak of the process afresh
        self._pipe.send((work, arguments))
        began, why = perf_counter(), ""
        while not why and not self._pipe.poll(POLL):
            if perf_counter() - began > seconds:
                why = f"not done after {seconds:g} s"
            elif _gib(status, "VmRSS") > self.gib:
                why = f"more than {self.gib:g} GiB"
        grown = {"gib": _gib(status, "VmHWM") - held}
        if not why:
            try:
                return grown | self._pipe.recv()
            except EOFError:
                why = "its process ended"
        self.close()
        return grown | {"refused": why}

    def close(self) -> None:
        """Stop the process; the next call starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, self.threads), daemon=True)
        self._process.start()
        far.close()  # so that the end of the process is the end of the pipe


def _serve(pipe: Connection, threads: int) -> None:
    torch.set_num_threads(threads)
    while True:
        try:
            work, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = work(*arguments)
        except Exception as error:
            answer = {"refused": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        trim()
        pipe.send(answer)


def _gib(status: Path, field: str) -> float:
    """A value of the process's memory; NaN if the system does not report it."""
    try:
        lines = (status / "status").read_text().splitlines()
    except OSError:
        return math.nan
    return next((int(line.split()[1]) / 2**20 for line in lines if line.startswith(field)), math.nan)
