"""Runs a job in processes of this machine, one item at a time in each."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from certnas.engine.job import Engine, Item, Job, Result
from certnas.engine.worker import ATTEMPTS, Packed, answer, lost, packed


@dataclass(frozen=True)
class Processes(Engine):
    """Runs items in `workers` processes; a process that dies is replaced, and its item runs again."""

    workers: int
    """The number of processes."""

    def run(
        self, job: Job[Item, Result], items: Sequence[Item], tell: Callable[[int, Any], None]
    ) -> Generator[tuple[int, Result], None, None]:
        sent = packed(job)
        slots = [_Slot(sent, rank) for rank in range(min(self.workers, len(items)))]
        idle, waiting = list(slots), deque(range(len(items)))
        running: dict[Future[bytes], tuple[_Slot, int]] = {}
        deaths: Counter[int] = Counter()
        failure: BaseException | None = None
        whole = False
        try:
            while running or (waiting and failure is None):
                while idle and waiting and failure is None:
                    slot, position = idle.pop(), waiting.popleft()
                    running[slot.submit(pickle.dumps(items[position]))] = slot, position
                finished = []
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    slot, position = running.pop(future)
                    idle.append(slot)
                    error = future.exception()
                    if isinstance(error, BrokenProcessPool):
                        slot.renew()
                        waiting.appendleft(position)
                        deaths[position] += 1
                        if deaths[position] == ATTEMPTS:
                            failure = failure or lost(job.describe(items[position]))
                    elif error is not None:
                        failure = failure or error
                    else:
                        finished.append((position, pickle.loads(future.result())))
                yield from finished
            whole = True
        finally:
            for slot in slots:
                slot.stop(kill=not whole)
        if failure is not None:
            raise failure


class _Slot:
    """One process, which is replaced after it dies."""

    def __init__(self, sent: Packed, rank: int) -> None:
        self.sent, self.rank = sent, rank
        self.renew()

    def renew(self) -> None:
        self.context = _Context()
        self.pool = ProcessPoolExecutor(
            1, mp_context=self.context, initializer=_begin, initargs=(self.sent, self.rank)
        )

    def submit(self, item: bytes) -> Future[bytes]:
        # a new process inherits the signal mask, so Ctrl-C reaches only this process, which ends the others
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self.pool.submit(_answer, item)
        except BrokenProcessPool:  # the process died while it was idle
            self.renew()
            return self.pool.submit(_answer, item)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def stop(self, *, kill: bool) -> None:
        if kill:
            for process in self.context.started:
                process.terminate()
        self.pool.shutdown(cancel_futures=True)


class _Context(SpawnContext):
    """Starts processes by spawning, since threads and CUDA do not survive a fork, and keeps a list of them."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[SpawnProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]
        process = SpawnProcess(*args, **kwargs)
        self.started.append(process)
        return process


def _begin(sent: Packed, rank: int) -> None:
    """Runs in the new process: keeps the job for `_answer`, and ends the process when its parent ends."""
    global _job, _rank, _work
    _job, _rank, _work = sent, rank, None
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _answer(item: bytes) -> bytes:
    global _work
    if _work is None:
        _work = _job.open(_rank)
    return answer(_work, item)


_job: Packed
_rank: int
_work: Callable[[Any, Any], Any] | None
